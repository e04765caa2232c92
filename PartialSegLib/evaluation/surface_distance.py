"""Distances between the surfaces of two masks, each surface element weighted by its area.

A surface element is a corner where eight voxels meet of which some, not all, are inside. Its area is the
voxel volume times the length of the mask's gradient at the corner, so that the areas of a mask add up to the
surface integral of the co-area formula: exact for planes along the axes and along their diagonals, and fair
to anisotropic spacing, unlike counts of boundary voxels. Outside the image is background.

Voxels that nobody has labelled tell nothing about a surface: an element needs labelled voxels on both sides,
and its gradient comes from pairs of these. So the contours of single labelled slices count, and the faces at
which masks are cut do not.

Definitions: Nikolov et al., "Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy"
(J Med Internet Res 2021, doi 10.2196/26151). Their package (surface-distance 0.1) does not run with NumPy 2;
it takes areas from marching cubes. On random blobs its areas are 2 % larger and NSD differs by up to 0.013.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..masks.boxes import Box, bounding_box

ROUNDING_MM = 1e-6
"""Distances above a tolerance by less than this count as within it: spacings are rounded numbers."""
_SLAB_SLICES = 16
_MAX_TRANSFORM_VOXELS = 1 << 27
"""Of a distance transform, 16 bytes each. A tree needs no box, but is slow where surfaces are far apart."""


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


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float], is_labelled: np.ndarray | None = None
) -> SurfaceDistances:
    """Measure how far the surfaces of two masks are from each other.

    Args:
        a: boolean mask (z, y, x).
        b: another of the same shape.
        spacing: voxel size (z, y, x), mm.
        is_labelled: voxels of the same shape that tell something, which hold both masks; None for all. A mask
            with labelled voxels on one side only of its surface is measured where it is cut.
    """
    (corners_a, areas_a), (corners_b, areas_b) = (_surface_elements(m, is_labelled, spacing) for m in (a, b))
    distances = _distances(corners_a, corners_b, spacing), _distances(corners_b, corners_a, spacing)
    return SurfaceDistances(distances, (areas_a, areas_b))


def _surface_elements(
    mask: np.ndarray, is_labelled: np.ndarray | None, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 3) that are surface elements, and their areas; slab by slab, which needs little memory."""
    box = bounding_box(mask)
    padded = np.pad(mask[box], 1)
    labelled = None if is_labelled is None else _surrounded(is_labelled, box)
    corners, areas = [], []
    for first in range(0, len(padded) - 1, _SLAB_SLICES):
        slab = slice(first, first + _SLAB_SLICES + 1)
        is_surface, slab_areas = _surface_corners(
            padded[slab], None if labelled is None else labelled[slab], spacing
        )
        start = np.array([first + box[0].start, box[1].start, box[2].start])
        corners.append(np.argwhere(is_surface) + start)
        areas.append(slab_areas)
    if is_labelled is not None and not any(part.any() for part in areas):
        return _surface_elements(mask, None, spacing)
    return np.concatenate(corners), np.concatenate(areas)


def _surrounded(is_labelled: np.ndarray, box: Box) -> np.ndarray:
    """The voxels of a box and those around it; what lies outside the image is labelled."""
    padded = np.pad(is_labelled, 1, constant_values=True)
    return padded[tuple(slice(extent.start, extent.stop + 2) for extent in box)]


def _surface_corners(
    mask: np.ndarray, labelled: np.ndarray | None, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Which corners between the voxels (z - 1, y - 1, x - 1) are surface elements, and the areas of those."""
    voxels = mask.astype(np.int8)
    inside = _pair_sums(voxels, (0, 1, 2))
    labels = 8 if labelled is None else _pair_sums(labelled.astype(np.int8), (0, 1, 2))
    is_surface = (inside > 0) & (inside < labels)
    squared_gradient = np.zeros(np.count_nonzero(is_surface))
    for axis, step in enumerate(spacing):
        others = {0, 1, 2} - {axis}
        differences, pairs = np.diff(voxels, axis=axis), 4
        if labelled is not None:
            size = labelled.shape[axis]
            both = labelled.take(range(size - 1), axis) & labelled.take(range(1, size), axis)
            differences *= both
            pairs = np.maximum(_pair_sums(both.astype(np.int8), others)[is_surface], 1)
        squared_gradient += (_pair_sums(differences, others)[is_surface] / (pairs * step)) ** 2
    return is_surface, np.sqrt(squared_gradient) * np.prod(spacing)


def _pair_sums(array: np.ndarray, axes: Sequence[int] | set[int]) -> np.ndarray:
    for axis in axes:
        size = array.shape[axis]
        array = array.take(range(size - 1), axis) + array.take(range(1, size), axis)
    return array


def _distances(corners: np.ndarray, others: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """From each corner (n, 3) to the nearest of the others, mm."""
    if not len(corners) or not len(others):
        return np.full(len(corners), np.inf)
    start = np.minimum(corners.min(0), others.min(0))
    shape = np.maximum(corners.max(0), others.max(0)) + 1 - start
    if shape.prod() > _MAX_TRANSFORM_VOXELS:
        tree = cKDTree(others * spacing, balanced_tree=False)  # equal coordinates make medians slow
        return np.asarray(tree.query(corners * spacing)[0])
    is_free = np.ones(shape, bool)
    is_free[tuple((others - start).T)] = False
    nearest = ndimage.distance_transform_edt(is_free, spacing, return_distances=False, return_indices=True)
    steps = nearest[:, *(corners - start).T].T + start - corners
    return np.sqrt(((steps * spacing) ** 2).sum(1))


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, fraction: float) -> float:
    if not weights.any():
        return 0.0
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, fraction * cumulated[-1])])
