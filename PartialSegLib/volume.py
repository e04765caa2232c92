"""A volume: voxels with their place on the patient; reading, writing and turning it."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .files.file_names import expanded
from .files.output_files import replacing
from .images.affine import AXIS_LETTERS, check_affine, closest_axes
from .images.voxel_type import compact

GEOMETRY_TOLERANCE = 0.01
"""Largest distance in mm between the corners of two volumes that count as lying on one grid."""
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""The file names that `read_volume` accepts; a folder is read as DICOM."""
_WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_FILE_TYPES = {"bool": "uint8", "float16": "float32", "longdouble": "float64", "float128": "float64"}
_AIR_BELOW = -200
_PADDING_BELOW = -1200  # what a scanner puts around its field of view
_UNSCALED_TISSUE = (700, 1400)  # soft tissue where 1024 was never subtracted
_SMALLEST_UNSCALED_FRACTION = 0.05  # of what is no padding
_SOFT_TISSUE = (-200, 300)
_SMALLEST_SOFT_TISSUE_FRACTION = 0.01
_PLAUSIBLE_EXTENT_MM = (20, 3000)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and the affine that says where they are; the affine indexes the array as it is.

    Attributes:
        array: Voxels (z, y, x) of any real type; for a CT in HU.
        affine: (4, 4) float64 from array index order (k, j, i, 1) to patient coordinates in RAS mm, the
            centre of the first voxel being (0, 0, 0, 1).

    Raises:
        InputError: When the array is not a real, non-empty 3-D numpy array, or the affine is not finite, has
            an axis of no length, is singular or sheared.
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        """Check the array and the affine."""
        if not isinstance(self.array, np.ndarray):
            raise InputError(
                f"A volume needs a numpy array (z, y, x), not a {type(self.array).__name__}; "
                "make one with numpy.asarray."
            )
        if self.array.ndim != 3 or 0 in self.array.shape or self.array.dtype.kind not in "biuf":
            raise InputError(
                f"A volume needs a non-empty array (z, y, x) of real numbers, not {self.array.dtype} "
                f"of shape {self.array.shape}; give one 3-D image."
            )
        affine = np.array(self.affine, dtype=float) + 0.0  # no negative zeros
        check_affine(affine)
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Return the voxels (z, y, x) to numpy."""
        return np.array(self.array, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        """Return shape, type, spacing (z, y, x) and orientation."""
        shape = " × ".join(map(str, self.shape))
        spacing = " × ".join(f"{step:.4g}" for step in self.spacing)
        return f"Volume({shape}, {self.array.dtype}, {spacing} mm, {self.orientation})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        depth, height, width = self.array.shape
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along (z, y, x)."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Where the index of each array axis grows to, e.g. "SAR"; the closest axes if oblique."""
        axes, signs = closest_axes(self.affine)
        return "".join(
            AXIS_LETTERS[axis][0 if sign > 0 else 1] for axis, sign in zip(axes, signs, strict=True)
        )

    def with_array(self, array: np.ndarray) -> "Volume":
        """Return another array (z, y, x) of the same shape on this volume's grid."""
        if array.shape != self.array.shape:
            raise InputError(f"An array of shape {array.shape} does not fit a volume of shape {self.shape}.")
        return Volume(array, self.affine)

    def same_geometry(self, other: "Volume", tolerance: float = GEOMETRY_TOLERANCE) -> bool:
        """Say whether shapes are equal and corners lie within `tolerance` mm of each other."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in self.shape))]
        )
        distances = np.linalg.norm(corners @ (self.affine - other.affine).T, axis=1)
        return bool(distances.max() <= tolerance)


def reorient(volume: Volume, orientation: str) -> Volume:
    """Permute and flip the axes of a volume; no voxel value changes.

    Args:
        volume: Any volume.
        orientation: The wanted `Volume.orientation`, one letter of each of the pairs RL, AP and SI.

    Returns:
        A volume whose array is a view of the given one and whose affine puts each voxel where it was.

    Raises:
        InputError: When the orientation is not one of the 48 codes.
    """
    wanted = [
        next((axis for axis, pair in enumerate(AXIS_LETTERS) if letter in pair), -1) for letter in orientation
    ]
    if sorted(wanted) != [0, 1, 2]:
        raise InputError(
            f"'{orientation}' is not an orientation; give one letter of each of RL, AP and SI, as 'SAR'."
        )
    axes, signs = closest_axes(volume.affine)
    array, affine = volume.array, volume.affine.copy()
    for axis, size in enumerate(array.shape):
        positive = AXIS_LETTERS[axes[axis]][0] in orientation
        if positive != (signs[axis] > 0):
            array = np.flip(array, axis)
            affine[:, 3] += affine[:, axis] * (size - 1)
            affine[:, axis] *= -1
    order = [axes.index(axis) for axis in wanted]
    return Volume(array.transpose(order), affine[:, [*order, 3]])


def read_volume(path: str | Path, *, any_modality: bool = False, series: str | None = None) -> Volume:
    """Read a CT from a file or from a folder with one DICOM series.

    Args:
        path: A .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd file with one 3-D image, or a folder with exactly
            one DICOM CT series (other modalities, scouts and screenshots beside it are passed over).
        any_modality: Whether a DICOM series of another modality will do if it is the only one.
        series: Which of several DICOM series to read: its SeriesInstanceUID, or a part of its description
            that no other has, in upper or lower case.

    Returns:
        The volume; int16 when all values of the file are whole numbers in that range, else float32.

    Raises:
        InputError: With one sentence that begins with the path, for everything that is not a usable volume.
    """
    path = expanded(path)
    with explained_reading_errors(path):
        array, affine = _read(path, any_modality, series)
        return Volume(compact(array), affine)


def read_ct(
    path: str | Path, *, is_forced: bool = False, series: str | None = None, advice: str = ""
) -> Volume:
    """Read an image that should be a CT in HU, of the size of a patient.

    Args:
        path: Image file or DICOM folder, as in `read_volume`.
        is_forced: Whether an image that does not look like one will do, with a warning, and a DICOM series of
            another modality.
        series: Which of several DICOM series to read, as in `read_volume`.
        advice: How it is taken all the same, as in "add --force to segment it all the same".

    Raises:
        InputError: When it cannot be read, or does not look like one and is not forced.
    """
    volume = read_volume(path, any_modality=is_forced, series=series)
    doubt = find_doubt(volume)
    if doubt and not is_forced:
        raise InputError(f"{path}: {doubt}{advice and f', or {advice}'}.")
    if doubt:
        logger.warning("%s: %s.", path, doubt)
    return volume


def as_volume(given: Volume | str | Path) -> Volume:
    """Return a volume as it is, and read what a path leads to.

    Raises:
        InputError: When it is neither, or cannot be read.
    """
    if isinstance(given, str | Path):
        return read_volume(given)
    if not isinstance(given, Volume):
        raise InputError(
            f"An image is a Volume or the path of a file, not a {type(given).__name__}; make one with "
            "read_volume(path), or with Volume(array, affine) from an array (z, y, x)."
        )
    return given


@contextmanager
def explained_reading_errors(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into an InputError, one sentence that begins with its path."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(
            f"{path}: The file cannot be read ({error.strerror}); check its permissions."
        ) from error


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume under a temporary name and rename it.

    Args:
        path: A .nii.gz, .nii, .nrrd or .mha file. NIfTI keeps the affine to 7 digits, the others to 16.
        volume: What to write; types that files do not know become the next larger one.

    Raises:
        InputError: When the suffix is unknown or the file cannot be written.
    """
    from .images.itk_image import write_metaimage
    from .images.nifti import write_nifti
    from .images.nrrd import nrrd_geometry, write_nrrd

    suffix = image_suffix(Path(path))
    if suffix not in _WRITABLE_SUFFIXES:
        raise InputError(
            f"{path}: A volume is written as {', '.join(_WRITABLE_SUFFIXES)}; choose one of these."
        )
    kind = volume.array.dtype.name  # without the byte order, of which ITK knows the computer's alone
    array = volume.array.astype(_FILE_TYPES.get(kind, kind), copy=False)
    with replacing(path) as temporary:
        match suffix:
            case ".nrrd":
                write_nrrd(temporary, nrrd_geometry(array.dtype, volume.shape, volume.affine), array)
            case ".mha":
                write_metaimage(temporary, array, volume.affine)
            case _:
                write_nifti(temporary, array, volume.affine)


def check_hounsfield(volume: Volume) -> str | None:
    """Look whether the voxel values can be Hounsfield units of a patient.

    Air is near -1000 HU, fat near -100, organs between 0 and 200; a CT of any part of the trunk shows air
    (around or within the body) and soft tissue.

    Args:
        volume: A volume as read.

    Returns:
        None if the values are plausible, else why they are not: one sentence without its full stop, to which
        callers add what follows from it.
    """
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if lowest == highest:
        return f"The image is constant (every voxel is {lowest:g}), so there is nothing to segment"
    if lowest >= 0 and highest <= 255:
        return f"The values lie between {lowest:g} and {highest:g} like those of an 8-bit picture, not in HU"
    if lowest > _AIR_BELOW:
        return (
            f"The values lie between {lowest:g} and {highest:g} without any air (near -1000 HU), "
            "as in an MR or in a CT that was not rescaled to HU"
        )
    if lowest < _PADDING_BELOW and (lowest_inside := _lowest_if_unscaled(volume)) is not None:
        return (
            f"But for a padding of {lowest:g} the values lie between {lowest_inside:g} and {highest:g} "
            "without any air (near -1000 HU), as in a CT that was not rescaled to HU"
        )
    low, high = _SOFT_TISSUE
    soft = sum(int(np.count_nonzero((plane > low) & (plane < high))) for plane in volume.array)
    if soft < _SMALLEST_SOFT_TISSUE_FRACTION * volume.array.size:
        return f"Less than 1 % of the voxels lie between {low} and {high} HU, where the body's soft tissue is"
    return None


def _lowest_if_unscaled(volume: Volume) -> float | None:
    """The lowest value that is no padding, where there is no air and much where unscaled tissue would be."""
    low, high = _UNSCALED_TISSUE
    lowest, inside, tissue = np.inf, 0, 0
    for plane in volume.array:
        values = plane[plane > _PADDING_BELOW]
        if values.size:
            lowest = min(lowest, float(values.min()))
        inside += values.size
        tissue += int(np.count_nonzero((values > low) & (values < high)))
    is_unscaled = lowest > _AIR_BELOW and tissue > _SMALLEST_UNSCALED_FRACTION * inside
    return lowest if is_unscaled else None


def check_extent(volume: Volume) -> str | None:
    """Look whether the image can be as large as its spacing says: 2 cm at least, and 3 m at most.

    Args:
        volume: only shape and affine are looked at.

    Returns:
        None if it can, else why not: one sentence without its full stop, as of `check_hounsfield`.
    """
    least, most = _PLAUSIBLE_EXTENT_MM
    largest = max(size * spacing for size, spacing in zip(volume.shape, volume.spacing, strict=True))
    if least <= largest <= most:
        return None
    width = f"{largest:.3g} mm" if largest < least else f"{largest / 1000:,.1f} m"
    return f"The image is {width} wide; the spacing may be in other units than mm"


def find_doubt(volume: Volume) -> str | None:
    """Say why a volume is hardly a CT of a patient, and what to do, in a sentence without its full stop.

    Callers add how it is segmented all the same.
    """
    if doubt := check_extent(volume):
        return f"{doubt}; correct it"
    doubt = check_hounsfield(volume)
    return doubt and f"{doubt}; give a CT in HU"


def _read(path: Path, any_modality: bool, series: str | None) -> tuple[np.ndarray, np.ndarray]:
    from .images.dicom_series import read_dicom_series
    from .images.itk_image import read_itk_image
    from .images.nifti import read_nifti

    if path.is_dir():
        return read_dicom_series(path, any_modality=any_modality, series=series)
    if not path.exists():
        raise InputError("There is no such file or folder; check the path.")
    if series is not None:
        raise InputError("A series is chosen in a folder with DICOM files, and this is a file; leave it out.")
    if path.stat().st_size == 0:
        raise InputError("The file is empty; copy or download it again.")
    match image_suffix(path):
        case ".nii" | ".nii.gz":
            return read_nifti(path)
        case "":
            known = ", ".join(IMAGE_SUFFIXES)
            raise InputError(
                f"Images are read from {known} files and folders with one DICOM series; give one."
            )
        case _:
            return read_itk_image(path)


def image_suffix(path: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> str:
    """Which of the image suffixes a name ends with, or nothing."""
    return next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), "")


def image_stem(path: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> str:
    """A file's name without its image suffix: "liver_0" of liver_0.nii.gz."""
    return path.name[: len(path.name) - len(image_suffix(path, suffixes))]
