"""A folder with one DICOM CT series as a volume.

Slices are sorted by where they lie on the patient, never by file name or instance number, and the volume is
refused when they do not fill a regular grid (DICOM PS3.3, C.7.6.2 image plane: position, orientation, pixel
spacing).
"""

import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .image_header import check_one_scalar_volume, check_spacing, check_straight_line
from .itk_image import check_name, itk_name
from .voxel_type import compact

if TYPE_CHECKING:
    import SimpleITK

_MAGIC_OFFSET = 128
_LONG_LENGTH_TYPES = (b"OB", b"OW", b"UN", b"UT", b"SQ")
CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2"))
"""CT, enhanced CT and legacy converted enhanced CT image storage (DICOM PS3.4, B.5)."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SOP_CLASS = "0008|0016"
_IMAGE_TYPE = "0008|0008"
_MODALITY = "0008|0060"
_SERIES_DESCRIPTION = "0008|103e"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_PIXEL_SPACING = "0028|0030"
_SLICE_THICKNESS = "0018|0050"
_SPACING_TOLERANCE = 0.05
"""Largest deviation of the distance between two slices from the usual one, as a fraction of the latter."""
_TILT_TOLERANCE = 1e-3
"""Largest sine of the angle between the stacking direction and the normal of the slices."""


@dataclass(frozen=True)
class _Slice:
    path: Path
    size: tuple[int, int]  # (columns, rows)
    position: np.ndarray  # centre of the first voxel, LPS mm
    row_direction: np.ndarray  # unit vector along which the column index grows
    column_direction: np.ndarray
    pixel_spacing: tuple[float, float]  # (between rows, between columns)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (LPS) that the slices are stacked along."""
        return np.cross(self.row_direction, self.column_direction)


@dataclass(frozen=True)
class _Series:
    uid: str
    files: list[Path]

    @cached_property
    def header(self) -> "SimpleITK.ImageFileReader":
        """That of its first file."""
        return _header(self.files[0])

    @property
    def modality(self) -> str:
        return _tag(self.header, _MODALITY)

    @property
    def description(self) -> str:
        return _tag(self.header, _SERIES_DESCRIPTION)

    @property
    def is_scan(self) -> bool:
        """Whether it holds more than scouts or screenshots, as a dose report is one."""
        return any(not _is_beside_a_scan(_header(file)) for file in self.files)

    def __str__(self) -> str:
        modality, description = self.modality or "unknown modality", self.description or "no description"
        return f"{modality} '{description}', {len(self.files)} images, UID {self.uid}"


def read_dicom_series(
    folder: Path, *, any_modality: bool = False, series: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read the one CT series of a folder (sub-folders are not searched).

    Args:
        folder: Folder with the DICOM files; other files, series of other modalities, and scouts and
            screenshots beside a scan are passed over.
        any_modality: Whether a single series of another modality will do.
        series: Which of several series to read: its SeriesInstanceUID, or a part of its description that no
            other has, in upper or lower case.

    Returns:
        The voxels (z, y, x) after rescaling to HU, and the affine (4, 4) from array index order (k, j, i, 1)
        to RAS mm; k grows along the normal of the slices.

    Raises:
        InputError: When there is no series or more than one, or slices are missing, doubled, tilted, shifted,
            unevenly spaced, of different size or orientation, or unreadable.
    """
    slices = _sorted_slices(_find_series(folder, any_modality, series))
    affine = _affine(slices)
    return _read_voxels(slices), affine


def read_dicom_grid(
    folder: Path, *, any_modality: bool = False, series: str | None = None
) -> tuple[list[Path], tuple[int, int, int], np.ndarray]:
    """Read where the voxels of a series lie; arguments and errors are those of `read_dicom_series`.

    Returns:
        The file of each slice, the number of voxels (z, y, x), and the affine.
    """
    slices = _sorted_slices(_find_series(folder, any_modality, series))
    columns, rows = slices[0].size
    return [item.path for item in slices], (len(slices), rows, columns), _affine(slices)


def _sorted_slices(series: _Series) -> list[_Slice]:
    """From the first along their normal to the last; planes of one size and orientation."""
    slices = _read_slice_headers(series.files)
    normal = slices[0].normal
    slices.sort(key=lambda item: float(item.position @ normal))
    _check_equal_planes(slices)
    return slices


def _find_series(folder: Path, any_modality: bool, wanted: str | None) -> _Series:
    found = _list_series(folder)
    _check_no_slice_was_dropped(folder, found)
    candidates = _series_that_will_do(found, any_modality)
    if wanted is not None:
        return _series_called(wanted, found if any_modality else candidates)
    if len(candidates) > 1:
        candidates = [series for series in candidates if series.is_scan] or candidates
    if len(candidates) > 1:
        raise InputError(
            f"{len(candidates)} series of the folder will do, one is needed ({_listed(candidates)}); "
            "name it by its UID or a part of its description (partialseg segment --series, series=…; a batch "
            "cannot), or move it to its own folder."
        )
    return candidates[0]


def _series_that_will_do(found: list[_Series], any_modality: bool) -> list[_Series]:
    """All CT series; all others if there is none and any modality will do."""
    if not found:
        raise InputError(
            "The folder holds no DICOM images; give the folder in which the slices of one CT series lie."
        )
    candidates = [series for series in found if series.modality == "CT"]
    if not candidates and not any_modality:
        raise InputError(
            f"The folder holds no CT series but {_listed(found)}; give a CT, or say that this one shall "
            "be used all the same (--force, any_modality=True)."
        )
    return candidates or found


def _series_called(wanted: str, candidates: list[_Series]) -> _Series:
    matches = [series for series in candidates if series.uid == wanted] or [
        series for series in candidates if wanted.casefold() in series.description.casefold()
    ]
    if len(matches) != 1:
        raise InputError(
            f"'{wanted}' is the UID or in the description of {len(matches)} series, one is needed; "
            f"the folder holds {_listed(candidates)}."
        )
    return matches[0]


def _listed(found: list[_Series]) -> str:
    return "; ".join(map(str, found))


def _is_beside_a_scan(header: "SimpleITK.ImageFileReader") -> bool:
    """Whether an image is a scout, from which a scan is planned, or a screenshot."""
    return "LOCALIZER" in _tag(header, _IMAGE_TYPE) or _tag(header, _SOP_CLASS) == SECONDARY_CAPTURE


def _list_series(folder: Path) -> list[_Series]:
    """All series of images; GDCM's warning of a folder without any is silenced, we say it ourselves."""
    import SimpleITK

    for path in folder.iterdir():
        check_name(path)
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader = SimpleITK.ImageSeriesReader
        uids = reader.GetGDCMSeriesIDs(itk_name(folder))
        return [
            _Series(uid, [Path(name) for name in reader.GetGDCMSeriesFileNames(itk_name(folder), uid)])
            for uid in uids
        ]
    except RuntimeError as error:  # GDCM gives up the folder for one file
        for path in filter(Path.is_file, sorted(folder.iterdir())):
            if is_dicom(path):
                _header(path)
        raise InputError("A DICOM file of the folder is damaged; copy the DICOM series again.") from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM (PS3.10, section 7.1)."""
    with open(path, "rb") as file:
        return file.read(_MAGIC_OFFSET + 4)[_MAGIC_OFFSET:] == b"DICM"


def _check_no_slice_was_dropped(folder: Path, found: list[_Series]) -> None:
    """GDCM passes over files that it cannot parse; at either end of a scan nobody would notice.

    It also passes over what is no image, such as structure sets and reports, and that is fine.
    """
    names = {file.name for series in found for file in series.files}
    classes = {None, *CT_CLASSES, *(_tag(series.header, _SOP_CLASS) for series in found)}
    kinds = {_kind_of_name(Path(name)) for name in names}
    for path in sorted(folder.iterdir()):
        if path.name in names or path.name == "DICOMDIR" or not path.is_file():
            continue
        if (is_dicom(path) and storage_class(path) in classes) or _is_lost_slice(path, kinds):
            raise InputError(f"{path.name} is truncated or damaged; copy the DICOM series again.")


def _is_lost_slice(path: Path, kinds: set[str]) -> bool:
    """Whether a file named like the slices holds nothing: a copy broke off, or the disk was full."""
    if _kind_of_name(path) not in kinds or path.name.startswith("."):
        return False
    with open(path, "rb") as file:
        start = file.read(_MAGIC_OFFSET + 4)
    is_cut = len(start) <= _MAGIC_OFFSET and path.suffix.lower() in (".dcm", ".ima")
    return is_cut or not start.strip(b"\0")


def _kind_of_name(path: Path) -> str:
    """The suffix; "" for none and for numbers, which end the names of many slices."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdecimal() else suffix


def storage_class(path: Path) -> str | None:
    """MediaStorageSOPClassUID of the file meta information (PS3.10, section 7.1); None if there is none."""
    with open(path, "rb") as file:
        file.seek(_MAGIC_OFFSET + 4)
        while len(start := file.read(8)) == 8:
            group, element, value_type, length = struct.unpack("<HH2sH", start)
            if group != 2:
                return None
            if value_type in _LONG_LENGTH_TYPES:
                length = int.from_bytes(file.read(4), "little")
            if element == 2:
                value = file.read(length)
                return value.rstrip(b"\0 ").decode("ascii", "replace") if len(value) == length else None
            file.seek(length, os.SEEK_CUR)
    return None


def _header(path: Path) -> "SimpleITK.ImageFileReader":
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(itk_name(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path.name} is truncated or damaged; copy the DICOM series again.") from error
    return reader


def _tag(header: "SimpleITK.ImageFileReader", key: str) -> str:
    return header.GetMetaData(key).strip("\0 ") if header.HasMetaDataKey(key) else ""


def _numbers(header: "SimpleITK.ImageFileReader", key: str, count: int) -> np.ndarray:
    try:
        values = np.array([float(value) for value in _tag(header, key).split("\\")])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(
            f"{Path(header.GetFileName()).name} does not say where its slice lies "
            f"(DICOM {key.replace('|', ',')}); convert the series to NIfTI with a DICOM converter."
        )
    return values


def _read_slice_headers(files: list[Path]) -> list[_Slice]:
    """Those of the scan among the files; of all files if there is none."""
    headers = [_header(path) for path in files]
    scan = [header for header in headers if not _is_beside_a_scan(header)]
    return [_read_slice_header(header) for header in scan or headers]


def _read_slice_header(header: "SimpleITK.ImageFileReader") -> _Slice:
    path = Path(header.GetFileName())
    size = header.GetSize()
    check_one_scalar_volume((*size[:2], 1), header.GetNumberOfComponents())
    if len(size) > 2 and size[2] > 1:
        raise InputError(f"{path.name} is a multi-frame DICOM file; convert it to NIfTI with a converter.")
    orientation = _numbers(header, _ORIENTATION, 6)
    spacing = _numbers(header, _PIXEL_SPACING, 2)
    check_spacing(spacing)
    return _Slice(
        path, (size[0], size[1]), _numbers(header, _POSITION, 3),
        orientation[:3], orientation[3:], (float(spacing[0]), float(spacing[1])),
    )  # fmt: skip


def _check_equal_planes(slices: list[_Slice]) -> None:
    first = slices[0]
    for other in slices[1:]:
        same = (
            other.size == first.size
            and np.allclose(other.pixel_spacing, first.pixel_spacing, rtol=1e-3)
            and np.allclose(other.row_direction, first.row_direction, atol=1e-3)
            and np.allclose(other.column_direction, first.column_direction, atol=1e-3)
        )
        if not same:
            raise InputError(
                f"{other.path.name} differs from {first.path.name} in size, pixel spacing or orientation; "
                "move the slices of one scan to their own folder."
            )


def _step_between_slices(slices: list[_Slice]) -> np.ndarray:
    """Vector (LPS mm) from one slice to the next; for a single slice its thickness along the normal."""
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        return np.asarray(first.normal * _numbers(_header(first.path), _SLICE_THICKNESS, 1))
    distances = np.diff([float(item.position @ first.normal) for item in slices])
    usual = float(np.median(distances))
    for index, distance in enumerate(distances):
        between = f"between {slices[index].path.name} and {slices[index + 1].path.name}"
        if distance <= _SPACING_TOLERANCE * usual:
            raise InputError(f"Two slices lie at the same place ({between}); keep one scan in the folder.")
        if abs(distance - usual) > _SPACING_TOLERANCE * usual:
            raise InputError(
                f"Slices are missing or unevenly spaced: {distance:g} mm {between}, elsewhere {usual:g} mm; "
                "export the complete series again."
            )
    names, places = zip(*[(item.path.name, item.position) for item in slices], strict=True)
    check_straight_line(names, np.array(places), first.normal, min(first.pixel_spacing) / 2)
    step: np.ndarray = (last.position - first.position) / (len(slices) - 1)
    if np.linalg.norm(np.cross(step, first.normal)) > _TILT_TOLERANCE * np.linalg.norm(step):
        raise InputError(
            "The slices are tilted against the direction in which they are stacked (gantry tilt); "
            "resample the series to a rectangular grid first."
        )
    return step


def _read_voxels(slices: list[_Slice]) -> np.ndarray:
    voxels = np.empty((len(slices), *slices[0].size[::-1]), np.int16)
    for index, item in enumerate(slices):
        plane = compact(_read_plane(item))
        if plane.dtype == np.float32:
            voxels = voxels.astype(np.float32, copy=False)
        voxels[index] = plane
    return voxels


def _read_plane(item: _Slice) -> np.ndarray:
    """Voxels (y, x) of one file after rescaling."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(itk_name(item.path))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{item.path.name} is truncated or damaged; copy the DICOM series again.") from error
    return np.reshape(SimpleITK.GetArrayFromImage(image), item.size[::-1])


def _affine(slices: list[_Slice]) -> np.ndarray:
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = _step_between_slices(slices)
    affine[:3, 1] = first.column_direction * first.pixel_spacing[0]
    affine[:3, 2] = first.row_direction * first.pixel_spacing[1]
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS to RAS
    return affine
