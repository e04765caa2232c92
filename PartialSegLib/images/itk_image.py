"""NRRD and MetaImage files (.nrrd, .nhdr, .mha, .mhd) through SimpleITK."""

import ctypes
import logging
import math
import re
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .affine import SINGULAR
from .image_header import check_one_scalar_volume, check_spacing

if TYPE_CHECKING:
    import SimpleITK

_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_FIELD = re.compile(r"([^:=]+?)\s*(?:=|:(?!=))\s*(.*)")
_BETWEEN_NUMBERS = re.compile(r"[\s,(]+")
_DAMAGED = "The file is truncated, damaged or of another kind than its name says; copy or export it again."
_SENTENCES = {"determinant is 0": SINGULAR, "": _DAMAGED}
"""What ITK's error messages contain, and what they mean to the user; the last one fits all."""
_ZLIB_OR_GZIP = 47
_UTF_8 = 65001  # as a code page of Windows
_LONGEST_PATH = 1 << 15
_ANATOMICAL_SPACES = {
    "", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps",
    "right-anterior-superior-time", "left-anterior-superior-time", "left-posterior-superior-time", "rast",
    "last", "lpst",
}  # fmt: skip
_SIGNS_WITH_TIME = {
    "right-anterior-superior-time": [[-1], [-1]], "rast": [[-1], [-1]],
    "left-anterior-superior-time": [[1], [-1]], "last": [[1], [-1]],
}  # fmt: skip
"""Of x and y, by space: ITK takes every space with time as left-posterior-superior."""
_MILLIMETRES_PER_UNIT = {
    "um": 0.001, "µm": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001, "cm": 10.0, "m": 1000.0,
}  # fmt: skip

logger = logging.getLogger(__name__)


def read_itk_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one NRRD or MetaImage file with a single scalar volume.

    Args:
        path: A .nrrd, .nhdr, .mha or .mhd file.

    Returns:
        The voxels (z, y, x) and the affine (4, 4) from array index order (k, j, i, 1) to RAS mm. Where the
        header names a space that is not the patient's, the log has a warning.

    Raises:
        InputError: When the file cannot be read or holds anything but one scalar 3-D volume.
    """
    import SimpleITK

    header, header_bytes = _read_header(path)
    _check_axes(header)
    _check_spacing(header)
    _check_frames(header)
    _check_space(path, header)
    _check_encoding(header)
    data = _data_file(path, header)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(itk_name(path))
    try:
        reader.ReadImageInformation()
        check_one_scalar_volume(reader.GetSize(), reader.GetNumberOfComponents())
        if header.get("compresseddata", "")[:1] in ("T", "t", "1"):
            voxel = SimpleITK.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
            start = header_bytes if data == path else 0
            _check_compressed_voxels(data, start, math.prod(reader.GetSize()) * voxel)
        image = reader.Execute()
    except RuntimeError as error:
        sentence = next(text for part, text in _SENTENCES.items() if part in str(error))
        raise InputError(sentence) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    affine = affine_of(image)
    affine[:2] *= _SIGNS_WITH_TIME.get(header.get("space", "").lower(), [[1], [1]])
    affine[:3] *= _millimetres_per_unit(header)
    return SimpleITK.GetArrayFromImage(image), affine


def write_metaimage(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a scalar volume as MetaImage, compressed.

    Args:
        path: A .mha file.
        array: Voxels (z, y, x).
        affine: (4, 4), from array index order (k, j, i, 1) to RAS mm.

    Raises:
        OSError: When ITK cannot write the file, as on a full disk.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, [2, 1, 0, 3]]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())
    try:
        SimpleITK.WriteImage(image, itk_name(path), useCompression=True)
    except RuntimeError as error:
        raise OSError("the file could not be written completely") from error


def itk_name(path: Path) -> str:
    """A path as SimpleITK takes it.

    On Windows ITK finds no letters beyond ASCII (InsightSoftwareConsortium/ITK#6739) unless UTF-8 is the code
    page of the process, as it is not with most Pythons: there a folder goes by its short name, if it has one.

    Raises:
        InputError: When the name is not UTF-8, or has letters with which Windows hides it from ITK.
    """
    check_name(path)
    if str(path).isascii() or _finds_all_letters():
        return str(path)
    name = _short_name(path) if path.is_dir() else str(Path(_short_name(path.parent), path.name))
    if not name.isascii():
        raise InputError(
            "On Windows, names with letters such as ä or é are hidden from ITK, which reads NRRD, MetaImage "
            "and DICOM; rename the file or folder, move it to one such as C:\\CT, or take NIfTI."
        )
    return name


def check_name(path: Path) -> None:
    """Refuse a name that is not UTF-8, as of archives that were unpacked in another encoding.

    In SimpleITK it would end the process.

    Raises:
        InputError: When it is none.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError(f"The name {shown} is not valid UTF-8; rename the file or folder.") from None


def _finds_all_letters() -> bool:
    return sys.platform != "win32" or ctypes.windll.kernel32.GetACP() == _UTF_8


def _short_name(folder: Path) -> str:
    """By the names of eight letters that Windows keeps on most system drives; else as it is."""
    if sys.platform != "win32":
        return str(folder)
    name = ctypes.create_unicode_buffer(_LONGEST_PATH)
    found = ctypes.windll.kernel32.GetShortPathNameW(str(folder), name, _LONGEST_PATH)
    return name.value if 0 < found < _LONGEST_PATH else str(folder)


def affine_of(image: "SimpleITK.Image") -> np.ndarray:
    """Affine (4, 4) from array index order (k, j, i, 1) to RAS mm of a three-dimensional SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1  # LPS to RAS
    return affine[:, [2, 1, 0, 3]]


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the text header by their names in lower case, and the number of bytes that it takes."""
    is_metaimage = path.suffix.lower() in (".mha", ".mhd")
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while (line := file.readline(_HEADER_BYTES)) and file.tell() <= _HEADER_BYTES:
            text = line.decode("utf-8", "surrogateescape").strip()
            if match := _FIELD.fullmatch(text):
                fields[match[1].strip().lower()] = match[2]
            if "elementdatafile" in fields if is_metaimage else not text:
                break
        return fields, file.tell()


def _check_axes(header: dict[str, str]) -> None:
    """Find numbers of axes with which MetaIO would write to any place in memory."""
    if not re.fullmatch(r"\d", header.get("ndims", "3")):
        raise InputError(_DAMAGED)


def _check_spacing(header: dict[str, str]) -> None:
    """Find what ITK repairs in silence or reports in riddles: zero, negative or undefined spacing."""
    for name in ("spacings", "elementspacing"):
        if numbers := _numbers(header.get(name, "")):
            check_spacing(numbers)
    vectors = map(_numbers, header.get("space directions", "").split(")"))  # "none" has no numbers
    if lengths := [float(np.linalg.norm(vector)) for vector in vectors if vector]:
        check_spacing(lengths)


def _numbers(text: str) -> list[float]:
    words = _BETWEEN_NUMBERS.split(text)
    try:
        return [float(word) for word in words if word and word.lower() != "none"]
    except ValueError:
        raise InputError(_DAMAGED) from None


def _check_frames(header: dict[str, str]) -> None:
    """Find volumes along a last axis without direction; ITK takes them as one volume of vectors."""
    if header.get("space directions", "").lower().endswith("none"):
        check_one_scalar_volume([int(size) for size in re.findall(r"\d+", header.get("sizes", ""))], 1)


def _check_space(path: Path, header: dict[str, str]) -> None:
    """Warn where axes are named after a scanner or nothing; ITK takes them as those of the patient."""
    if header.get("space", "").lower() not in _ANATOMICAL_SPACES:
        logger.warning(
            "%s: The header places the image in the space '%s', which does not say where the patient's left "
            "and right are. It is taken as left-posterior-superior; check left and right in the result, or "
            "export the image again.",
            path, header["space"],
        )  # fmt: skip


def _check_encoding(header: dict[str, str]) -> None:
    if header.get("encoding", "").lower() in ("bzip2", "bz2"):
        raise InputError(
            "The voxels are compressed with bzip2, which cannot be read here; save the image with gzip or "
            "without compression."
        )


def _data_file(path: Path, header: dict[str, str]) -> Path | None:
    """The one file in which the voxels lie; None where there are several."""
    fields = ("elementdatafile", "data file", "datafile")
    name = next((header[field] for field in fields if field in header), "LOCAL")
    if name.upper() == "LOCAL":
        return path
    if name.upper().startswith("LIST") or "%" in name:
        return None
    data = path.parent / name
    if not data.is_file():
        raise InputError(f"The file only has the header, and its voxels, {name}, are missing; copy both.")
    return data


def _check_compressed_voxels(data: Path | None, start: int, expected: int) -> None:
    """Unpack once what MetaIO unpacks without looking whether it comes to its end.

    Args:
        data: The file with the voxels.
        start: Where in it they begin, in bytes.
        expected: What they take when unpacked, in bytes.
    """
    if data is None:
        raise InputError("The voxels lie in several compressed files; save the image as one .mha file.")
    unpacking, count = zlib.decompressobj(_ZLIB_OR_GZIP), 0
    try:
        with open(data, "rb") as file:
            file.seek(start)
            while not unpacking.eof and count <= expected and (chunk := file.read(_CHUNK_BYTES)):
                count += len(unpacking.decompress(chunk))
    except zlib.error as error:
        raise InputError(_DAMAGED) from error
    if not unpacking.eof or count != expected:
        raise InputError(_DAMAGED)


def _millimetres_per_unit(header: dict[str, str]) -> float:
    """By the units of a NRRD file; what is no length that we know counts as mm."""
    units = re.findall(r'"([^"]*)"', header.get("space units") or header.get("units", ""))
    factors = {_MILLIMETRES_PER_UNIT.get(unit.strip().lower(), 1.0) for unit in units if unit.strip()}
    if len(factors) > 1:
        raise InputError(f"The axes have different units ({', '.join(units)}); save the image in mm.")
    return factors.pop() if factors else 1.0
