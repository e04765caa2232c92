"""Affines: (4, 4) matrices from array index order (k, j, i, 1) to patient coordinates in RAS mm."""

import itertools

import numpy as np

from ..errors import InputError
from .image_header import check_spacing

AXIS_LETTERS = ("RL", "AP", "SI")
"""For each RAS axis, the letter of its positive and of its negative direction."""
SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of a volume that still counts as a right angle."""
SINGULAR = "The affine is singular: two axes of the image point the same way; export the image again."
"""The sentence for an affine without an inverse."""


def check_affine(affine: np.ndarray) -> None:
    """Check that the affine places a rectangular grid.

    Raises:
        InputError: When it is not a finite (4, 4) affine, has an axis of no length, is singular or sheared.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise InputError(
            "The affine is not a 4 x 4 matrix of finite numbers ending in 0 0 0 1; export the image again."
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    check_spacing(lengths[::-1])
    cosines = affine[:3, :3] / lengths
    if np.linalg.matrix_rank(cosines, tol=SHEAR_TOLERANCE) < 3:
        raise InputError(SINGULAR)
    largest = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if largest > SHEAR_TOLERANCE:
        raise InputError(
            "The affine is sheared: two axes of the image meet at "
            f"{np.degrees(np.arccos(largest)):.2f} degrees, not 90; resample it to a rectangular grid first."
        )


def closest_axes(affine: np.ndarray) -> tuple[list[int], list[float]]:
    """For each array axis, the RAS axis it is closest to (each taken once) and the sign along it."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(
        itertools.permutations(range(3)),
        key=lambda axes: sum(abs(cosines[axis, column]) for column, axis in enumerate(axes)),
    )
    return list(best), [float(np.sign(cosines[axis, column])) for column, axis in enumerate(best)]
