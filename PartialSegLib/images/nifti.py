"""NIfTI-1 files (.nii, .nii.gz): header, geometry and voxels.

Written out here because ITK, which reads every other format, is too kind to NIfTI files: it returns a
truncated file with zeros at its end, turns a spacing of 0 or NaN into 1 mm, and drops a sheared or singular
sform without a word. Field names and the three ways to state the geometry are those of the standard (Cox et
al., "A (sort of) new image data format standard: NIfTI-1", 2004, and the comments of its header file
nifti1.h).
"""

import gzip
import io
import itertools
import logging
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import InputError
from .affine import check_affine
from .image_header import check_one_scalar_volume, check_spacing, listed

_HEADER = np.dtype([
    ("sizeof_hdr", "<i4"), ("analyze_fields", "V36"), ("dim", "<i2", 8), ("intent_p", "<f4", 3),
    ("intent_code", "<i2"), ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2"),
    ("pixdim", "<f4", 8), ("vox_offset", "<f4"), ("scl_slope", "<f4"), ("scl_inter", "<f4"),
    ("slice_end", "<i2"), ("slice_code", "i1"), ("xyzt_units", "i1"), ("cal_max", "<f4"), ("cal_min", "<f4"),
    ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"), ("glmin", "<i4"), ("descrip", "S80"),
    ("aux_file", "S24"), ("qform_code", "<i2"), ("sform_code", "<i2"), ("quatern", "<f4", 3),
    ("qoffset", "<f4", 3), ("srow", "<f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
])  # fmt: skip
_DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_CHANNEL_AXIS, _VECTOR_AXIS = 3, 4
_COMPONENTS = {32: 2, 128: 3, 1792: 2, 2304: 4}
_MILLIMETRES_PER_UNIT = {1: 1000.0, 3: 0.001}
_MILLIMETRE_UNIT = 2
_SCANNER_COORDINATES = 1
_VOXEL_OFFSET = 352
_LARGEST_GZIP_RATIO = 1032  # of deflate: 258 bytes from two bits
_SPACING_TOLERANCE = 0.01
"""Largest relative difference allowed between the two statements of the spacing, pixdim and sform."""
_PLACE_TOLERANCE = 1.0
"""Largest distance in mm between the places that sform and qform give a corner without a warning; the
rounding of a quaternion to float32 moves them by up to 0.5 mm in a large CT."""

logger = logging.getLogger(__name__)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one NIfTI-1 file with a single scalar volume.

    Args:
        path: A .nii or .nii.gz file, of either byte order.

    Returns:
        The voxels (z, y, x), scaled by scl_slope and scl_inter (float32) where the header asks for it, and
        the affine (4, 4) from array index order (k, j, i, 1) to RAS mm: the sform if set, else the qform,
        else pixdim. Where both are set and differ, the log has a warning.

    Raises:
        InputError: When the file is not NIfTI-1, is truncated, holds anything but one scalar 3-D volume, or
            states no usable geometry.
    """
    (voxels,), affine = _read(path, one_volume=True)
    return voxels, affine


def read_nifti_channels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one NIfTI-1 file whose fourth axis, if it has one, counts the channels of one image.

    Args:
        path: A .nii or .nii.gz file, of either byte order.

    Returns:
        As `read_nifti`, but the voxels are (channels, z, y, x).

    Raises:
        InputError: As `read_nifti`; any number of scalar volumes will do.
    """
    return _read(path, one_volume=False)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write one scalar volume as NIfTI-1, with the geometry both as sform and as qform.

    The bytes depend on nothing but the arguments. The header holds float32: the affine is kept to 7 digits.

    Args:
        path: A .nii or .nii.gz file; gzip is used for the latter.
        array: Voxels (z, y, x) of one of the real NIfTI datatypes.
        affine: (4, 4), from array index order (k, j, i, 1) to RAS mm.
    """
    header = _header_of(array, affine[:, [2, 1, 0, 3]])
    with open(path, "wb") as file:
        compressed = path.name.lower().endswith(".gz")
        stream = gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) if compressed else file
        stream.write(header.tobytes().ljust(_VOXEL_OFFSET, b"\0"))
        for slice_2d in array:
            stream.write(slice_2d.astype(slice_2d.dtype.newbyteorder("<"), copy=False).tobytes())
        stream.close()


def _read(path: Path, one_volume: bool) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (channels, z, y, x), scaled, and the affine (4, 4) from (k, j, i, 1) to RAS mm."""
    try:
        with _open(path) as stream:
            header = _read_header(stream)
            shape = _shape(header, one_volume)
            affine = _affine(header)
            _warn_of_contradiction(path, header, affine, shape)
            voxels = _read_voxels(stream, header, shape, path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError("The file is truncated or damaged; copy or download it again.") from error
    return _scaled(voxels, header), affine[:, [2, 1, 0, 3]]


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip else open(path, "rb")


def _read_header(stream: BinaryIO) -> np.void:
    """Read the header and leave the stream at its end; the byte order is found from sizeof_hdr."""
    buffer = stream.read(_HEADER.itemsize)
    if len(buffer) == _HEADER.itemsize:
        for dtype in (_HEADER, _HEADER.newbyteorder(">")):
            header = cast(np.void, np.frombuffer(buffer, dtype)[0])
            if header["sizeof_hdr"] == _HEADER.itemsize and header["magic"] == b"n+1":
                return header
    if buffer[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        raise InputError("The file is in the rare NIfTI-2 format; save the image as NIfTI-1.")
    raise InputError(
        "The file is not a NIfTI-1 image, whatever its name says; "
        "give a .nii, .nii.gz, .nrrd or .mha image or a folder with one DICOM series."
    )


def _shape(header: np.void, one_volume: bool) -> tuple[int, int, int, int]:
    """Number of volumes in the file and their size (z, y, x)."""
    sizes = [int(size) for size in header["dim"][1:]][: max(0, int(header["dim"][0]))]
    vector_length = sizes[_VECTOR_AXIS] if len(sizes) > _VECTOR_AXIS else 1
    count = sizes[_CHANNEL_AXIS] if len(sizes) > _CHANNEL_AXIS else 1
    checked = sizes if one_volume or count < 1 else [*sizes[:_CHANNEL_AXIS], *sizes[_VECTOR_AXIS:]]
    check_one_scalar_volume(checked, _COMPONENTS.get(int(header["datatype"]), vector_length))
    return count, sizes[2], sizes[1], sizes[0]


def _affine(header: np.void) -> np.ndarray:
    """Affine (4, 4) from (i, j, k, 1) to RAS mm, by sform, qform or pixdim, in that order."""
    pixdim = header["pixdim"][1:4].astype(float)
    check_spacing(pixdim)
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = header["srow"]
        check_affine(affine)
        _check_spacings_agree(affine, pixdim)
    elif header["qform_code"] > 0:
        affine[:3] = _qform(header)
    else:
        affine[:3, :3] = np.diag(pixdim * (-1, -1, 1))  # as ITK, and so Slicer and nnU-Net, take it
    affine[:3] *= _millimetres_per_unit(header)
    return affine


def _qform(header: np.void) -> np.ndarray:
    """First three rows of the affine from (i, j, k, 1) that the qform states, in the units of the header."""
    return np.column_stack([_rotation(header) * header["pixdim"][1:4].astype(float), header["qoffset"]])


def _millimetres_per_unit(header: np.void) -> float:
    return _MILLIMETRES_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _warn_of_contradiction(
    path: Path, header: np.void, affine: np.ndarray, shape: tuple[int, int, int, int]
) -> None:
    """Other programs, such as Slicer, may take the qform and so see the image elsewhere than we do."""
    if max(header["sform_code"], header["qform_code"]) <= 0:
        logger.warning(
            "%s: The header does not say how the patient lies (no sform, no qform). The first axis is taken "
            "to point left and the second to the back, as in 3D Slicer; check left and right in the result.",
            path,
        )
    if min(header["sform_code"], header["qform_code"]) <= 0:
        return
    corners = np.array(
        [(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape[:0:-1]))]
    )
    with np.errstate(invalid="ignore"):  # the qform may hold anything
        difference = affine[:3] - _qform(header) * _millimetres_per_unit(header)
        largest = float(np.linalg.norm(corners @ difference.T, axis=1).max())
    if largest > _PLACE_TOLERANCE:
        logger.warning(
            "%s: The header contradicts itself: sform and qform place the image up to %.0f mm apart. The "
            "sform is used, but 3D Slicer and others may take the qform; check left and right in the result, "
            "or export the image again.",
            path, largest,
        )  # fmt: skip


def _check_spacings_agree(affine: np.ndarray, pixdim: np.ndarray) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(np.abs(lengths / pixdim - 1) > _SPACING_TOLERANCE):
        raise InputError(
            f"The header contradicts itself: the voxel spacing is {listed(pixdim)} mm by its pixdim "
            f"but {listed(lengths)} mm by its sform; export the image again."
        )


def _rotation(header: np.void) -> np.ndarray:
    """Rotation (3, 3) of the qform, its third column reversed when pixdim[0] (qfac) is negative."""
    b, c, d = header["quatern"].astype(float)
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return rotation * (1, 1, -1 if header["pixdim"][0] < 0 else 1)


def _read_voxels(
    stream: BinaryIO, header: np.void, shape: tuple[int, int, int, int], file_bytes: int
) -> np.ndarray:
    code = int(header["datatype"])
    if code not in _DATATYPES:
        raise InputError(f"The voxels are of NIfTI datatype {code}; save the image as 16-bit integers.")
    little_endian = header.dtype == _HEADER
    dtype = np.dtype(_DATATYPES[code]).newbyteorder("<" if little_endian else ">")
    offset = _voxel_offset(header)
    ratio = _LARGEST_GZIP_RATIO if isinstance(stream, gzip.GzipFile) else 1
    if offset + math.prod(shape) * dtype.itemsize > ratio * file_bytes:
        raise InputError(
            f"The file is truncated or damaged: its {file_bytes} bytes are too few for the "
            f"{listed(shape[:0:-1])} voxels of its header; copy or download it again."
        )
    voxels = np.empty(shape, dtype)
    stream.seek(offset)
    buffer = voxels.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(buffer):
        count = cast(io.BufferedReader, stream).readinto(buffer[done : done + (1 << 24)])
        if not count:
            raise EOFError
        done += count
    _check_end(stream)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _check_end(stream: BinaryIO) -> None:
    """Past the last voxel gzip checks its checksum; bytes behind the whole file harm no voxel."""
    try:
        stream.read(1)
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise


def _voxel_offset(header: np.void) -> int:
    """Where the voxels begin, in bytes."""
    offset = float(header["vox_offset"])
    if not math.isfinite(offset):
        raise InputError(f"The header says that the voxels begin at byte {offset}; export the image again.")
    return max(int(offset), _VOXEL_OFFSET)


def _scaled(voxels: np.ndarray, header: np.void) -> np.ndarray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite([slope, intercept]).all() or slope == 0 or (slope, intercept) == (1, 0):
        return voxels
    scaled = voxels.astype(np.float32)
    scaled *= slope
    scaled += intercept
    return scaled


def _header_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Header (0-D structured array) for voxels (z, y, x) and an affine from (i, j, k, 1) to RAS mm."""
    from scipy.spatial.transform import Rotation

    dtype = array.dtype.newbyteorder("=")
    code = next(code for code, name in _DATATYPES.items() if np.dtype(name) == dtype)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / lengths
    handedness = 1.0 if np.linalg.det(cosines) > 0 else -1.0
    quaternion = Rotation.from_matrix(cosines * (1, 1, handedness)).as_quat(canonical=True)
    header = np.zeros((), _HEADER)
    header["sizeof_hdr"], header["magic"], header["vox_offset"] = _HEADER.itemsize, b"n+1", _VOXEL_OFFSET
    header["dim"] = (3, *array.shape[::-1], 1, 1, 1, 1)
    header["datatype"], header["bitpix"], header["scl_slope"] = code, 8 * dtype.itemsize, 1
    header["pixdim"] = (handedness, *lengths, 0, 0, 0, 0)
    header["xyzt_units"] = _MILLIMETRE_UNIT
    header["qform_code"] = header["sform_code"] = _SCANNER_COORDINATES
    header["quatern"], header["qoffset"], header["srow"] = quaternion[:3], affine[:3, 3], affine[:3]
    return header
