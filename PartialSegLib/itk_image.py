"""NRRD and MetaImage files (.nrrd, .nhdr, .mha, .mhd) through SimpleITK."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .affine import SINGULAR
from .errors import InputError
from .image_header import check_one_scalar_volume, check_spacing

if TYPE_CHECKING:
    import SimpleITK

_HEADER_BYTES = 4096
_SPACING_FIELD = re.compile(rb"^(?:spacings:|ElementSpacing =)(.*)$", re.MULTILINE)
_DIRECTIONS_FIELD = re.compile(rb"^space directions:(.*)$", re.MULTILINE)
_NUMBER = re.compile(rb"[-+]?(?:nan|inf|[\d.]+(?:e[-+]?\d+)?)", re.IGNORECASE)
_SENTENCES = {
    "determinant is 0": SINGULAR,
    "": "The file is truncated, damaged or of another kind than its name says; copy or export it again.",
}
"""What ITK's error messages contain, and what they mean to the user; the last one fits all."""


def read_itk_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one NRRD or MetaImage file with a single scalar volume.

    Args:
        path: A .nrrd, .nhdr, .mha or .mhd file.

    Returns:
        The voxels (z, y, x) and the affine (4, 4) from array index order (k, j, i, 1) to RAS mm.

    Raises:
        InputError: When the file cannot be read or holds anything but one scalar 3-D volume.
    """
    import SimpleITK

    _check_spacing(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_one_scalar_volume(reader.GetSize(), reader.GetNumberOfComponents())
        image = reader.Execute()
    except RuntimeError as error:
        sentence = next(text for part, text in _SENTENCES.items() if part in str(error))
        raise InputError(sentence) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    return SimpleITK.GetArrayFromImage(image), affine_of(image)


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
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError("the file could not be written completely") from error


def affine_of(image: "SimpleITK.Image") -> np.ndarray:
    """Affine (4, 4) from array index order (k, j, i, 1) to RAS mm of a three-dimensional SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1  # LPS to RAS
    return affine[:, [2, 1, 0, 3]]


def _check_spacing(path: Path) -> None:
    """Find what ITK repairs in silence or reports in riddles: zero, negative or undefined spacing."""
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    for field in _SPACING_FIELD.findall(header):
        check_spacing([float(number) for number in _NUMBER.findall(field)])
    for field in _DIRECTIONS_FIELD.findall(header):
        vectors = [_NUMBER.findall(vector) for vector in field.split(b")") if vector.strip()]
        check_spacing([float(np.linalg.norm([float(number) for number in vector])) for vector in vectors])
