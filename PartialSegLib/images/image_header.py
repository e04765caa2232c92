"""What the headers of every image format must say for the image to be one scalar volume."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError


def check_one_scalar_volume(sizes: Sequence[int], components: int) -> None:
    """Check that an image holds one volume with one value per voxel.

    Args:
        sizes: Number of voxels along x, y, z and whatever axes follow.
        components: Number of values per voxel.

    Raises:
        InputError: When the image is in colour, 2-D, empty or a series of volumes.
    """
    if components > 1:
        raise InputError(
            f"The image has {components} values per voxel (colour or vectors), a CT has one; "
            "give the CT itself."
        )
    if len(sizes) < 3:
        raise InputError(f"The image is {len(sizes)}-D, a 3-D volume is needed; give the whole series.")
    if min(sizes) < 1:
        raise InputError(f"The header states an impossible size ({listed(sizes)}); export the image again.")
    count = int(np.prod(sizes[3:]))
    if count > 1:
        raise InputError(
            f"The image is {len(sizes)}-D with {count} volumes, one is needed; extract and give one of them."
        )


def check_spacing(spacing: Sequence[float] | np.ndarray) -> None:
    """Check that all distances between voxels (mm, in any order) are finite and positive.

    Raises:
        InputError: When one is not.
    """
    if not np.isfinite(spacing).all() or np.min(spacing) <= 0:
        raise InputError(
            f"The voxel spacing is {listed(spacing)} mm, it must be positive everywhere; "
            "export the image again."
        )


def check_straight_line(
    names: Sequence[str], positions: np.ndarray, normal: np.ndarray, tolerance: float
) -> None:
    """Check that slices are not shifted within their planes; a tilted stack is straight, too.

    Args:
        names: What the slices are called, in their order.
        positions: (N, 3), where their first voxels lie, in mm.
        normal: (3,), unit vector across the slices.
        tolerance: Largest distance in mm from the straight line between the first and the last, in the plane.

    Raises:
        InputError: When one lies further away.
    """
    line = np.linspace(positions[0], positions[-1], len(positions))
    distances = np.linalg.norm(np.cross(positions - line, normal), axis=1)
    worst = int(distances.argmax())
    if distances[worst] > tolerance:
        raise InputError(
            f"Slices are shifted within their planes: {names[worst]} lies {distances[worst]:.3g} mm beside "
            "the straight line from the first to the last; keep one scan in the folder, or resample the "
            "series to a rectangular grid first."
        )


def listed(values: Sequence[float] | np.ndarray) -> str:
    """Write the values along the axes of an image as in "512 x 512 x 300"."""
    return " x ".join(f"{value:g}" for value in values)
