"""Distances between the surfaces of two masks, each surface element weighted by its area.

A surface element is a corner where eight voxels meet of which some, not all, are inside. Its area is the
voxel volume times the length of the mask's gradient at the corner, so that the areas of a mask add up to the
surface integral of the co-area formula: exact for planes along the axes and along their diagonals, and fair
to anisotropic spacing, unlike counts of boundary voxels. Outside the image is background.

Definitions: Nikolov et al., "Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy"
(J Med Internet Res 2021, doi 10.2196/26151). Their package (surface-distance 0.1) does not run with NumPy 2;
it takes areas from marching cubes. On random blobs its areas are 2 % larger and NSD differs by up to 0.013.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .boxes import bounding_box

ROUNDING_MM = 1e-6
"""Distances above a tolerance by less than this count as within it: spacings are rounded numbers."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Per surface element of two masks, its distance in mm to the other surface and its area in mm².

    Attributes:
        distances: (elements of a to the surface of b, elements of b to the surface of a); infinite where the
            other mask is empty.
        areas: of the same elements.
    """

    distances: tuple[np.ndarray, np.ndarray]
    areas: tuple[np.ndarray, np.ndarray]

    def fraction_within(self, tolerance_mm: float) -> float:
        """Share of the area of both surfaces that lies this close to the other; 1 when both are empty."""
        total = sum(float(areas.sum()) for areas in self.areas)
        within = sum(
            float(areas[distances <= tolerance_mm + ROUNDING_MM].sum())
            for distances, areas in zip(self.distances, self.areas, strict=True)
        )
        return within / total if total else 1.0

    def percentile(self, fraction: float) -> float:
        """Distance in mm that this share of either surface does not exceed; 0 when both are empty."""
        return max(map(_weighted_quantile, self.distances, self.areas, (fraction, fraction)))


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Measure how far the surfaces of two masks are from each other.

    Args:
        a: boolean mask (z, y, x).
        b: another of the same shape.
        spacing: voxel size (z, y, x), mm.
    """
    box = bounding_box(a | b)
    (is_surface_a, areas_a), (is_surface_b, areas_b) = (
        _surface_elements(mask[box], spacing) for mask in (a, b)
    )
    to_a, to_b = (_distances_to(surface, spacing) for surface in (is_surface_a, is_surface_b))
    return SurfaceDistances((to_b[is_surface_a], to_a[is_surface_b]), (areas_a, areas_b))


def _surface_elements(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Which voxel corners (z + 1, y + 1, x + 1) are surface elements, and the areas of those."""
    voxels = np.pad(mask, 1).astype(np.int8)
    inside = _pair_sums(voxels, (0, 1, 2))
    is_surface = (inside > 0) & (inside < 8)
    squared_gradient = np.zeros(np.count_nonzero(is_surface))
    for axis, step in enumerate(spacing):
        difference = _pair_sums(np.diff(voxels, axis=axis), {0, 1, 2} - {axis})
        squared_gradient += (difference[is_surface] / (4 * step)) ** 2
    return is_surface, np.sqrt(squared_gradient) * np.prod(spacing)


def _pair_sums(array: np.ndarray, axes: Sequence[int] | set[int]) -> np.ndarray:
    for axis in axes:
        size = array.shape[axis]
        array = array.take(range(size - 1), axis) + array.take(range(1, size), axis)
    return array


def _distances_to(is_surface: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    if not is_surface.any():
        return np.full(is_surface.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~is_surface, sampling=spacing))


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, fraction: float) -> float:
    if not weights.any():
        return 0.0
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, fraction * cumulated[-1])])
