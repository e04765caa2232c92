"""How well two masks agree: Dice, normalized surface distance and Hausdorff distance.

Conventions for empty masks: both empty is full agreement (Dice 1, NSD 1, HD95 0 mm); one empty is none
(Dice 0, NSD 0, HD95 infinite, since there is no surface to measure to).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .surface_distance import surface_distances

TOLERANCE_MM = 3.0
"""Default tolerance of the normalized surface distance, the one TotalSegmentator reports with."""


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2 |a ∩ b| / (|a| + |b|) of two boolean masks; 1 when both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def normalized_surface_distance(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Share of both surfaces that lies within a tolerance of the other one ("surface Dice").

    Args:
        a: boolean mask (z, y, x).
        b: another of the same shape.
        spacing: voxel size (z, y, x), mm.
        tolerance_mm: distance up to which surfaces agree.

    Returns:
        0 to 1; 1 when both masks are empty, 0 when one is.
    """
    return surface_distances(a, b, spacing).fraction_within(tolerance_mm)


def hausdorff95(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """Distance in mm within which 95 % of either surface (by area) lies from the other one.

    Args:
        a: boolean mask (z, y, x).
        b: another of the same shape.
        spacing: voxel size (z, y, x), mm.

    Returns:
        The larger of both directions; 0 when both masks are empty, infinity when one is.
    """
    return surface_distances(a, b, spacing).percentile(0.95)
