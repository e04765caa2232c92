"""Separable resampling: every axis has a weight matrix, and a volume passes through the three slab by slab.

Grids are aligned at the outer edges of their first and last voxels (`align_corners=False`), so a grid and its
resampled counterpart cover the same box of the patient, and an axis may be turned round before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..masks.boxes import Box

SLAB_VOXELS = 1 << 20  # what one step reads or produces at most: 4 MB as float32, which caches hold
NEGLIGIBLE_WEIGHT = 1e-6  # B-spline weights decay by 0.27 per voxel and never end
MATRICES_KEPT = 16  # of each kind: for two models an image needs 12, there and back, time and again

Matrices = tuple[Tensor, Tensor, Tensor]


@lru_cache(MATRICES_KEPT)
def linear_weights(old_size: int, new_size: int) -> np.ndarray:
    """Linear interpolation; when the axis shrinks, the mean under a triangle of that width (anti-aliased).

    This is the separable kernel of `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`.

    Returns:
        Float32 weights (new, old), not negative, rows summing to 1.
    """
    scale = old_size / new_size
    centers = (np.arange(new_size) + 0.5) * scale - 0.5
    distances = np.abs(np.arange(old_size) - centers[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distances, 0)
    return _normalized(weights)


@lru_cache(MATRICES_KEPT)
def trilinear_weights(old_size: int, new_size: int) -> np.ndarray:
    """Linear interpolation without anti-aliasing: `interpolate(mode="trilinear")`, skimage's order 1.

    Returns:
        Float32 weights (new, old), not negative, rows summing to 1.
    """
    centers = np.clip((np.arange(new_size) + 0.5) * (old_size / new_size) - 0.5, 0, old_size - 1)
    distances = np.abs(np.arange(old_size) - centers[:, None])
    return _normalized(np.maximum(1 - distances, 0))


@lru_cache(MATRICES_KEPT)
def nearest_weights(old_size: int, new_size: int) -> np.ndarray:
    """The nearest voxel; of two at the same distance the later one (`ndimage.map_coordinates(order=0)`).

    Returns:
        Float32 weights (new, old), one 1 in each row.
    """
    centers = (np.arange(new_size) + 0.5) * (old_size / new_size) - 0.5
    nearest = np.clip(np.floor(centers + 0.5), 0, old_size - 1)
    return _normalized(np.arange(old_size) == nearest[:, None])


@lru_cache(MATRICES_KEPT)
def cubic_weights(old_size: int, new_size: int) -> np.ndarray:
    """Interpolating cubic B-splines without anti-aliasing: `skimage.transform.resize(order=3, mode="edge")`.

    Returns:
        Float32 weights (new, old), rows summing to 1.
    """
    impulses = np.eye(old_size)
    zoom = (new_size / old_size, 1)
    weights = ndimage.zoom(impulses, zoom, order=3, mode="nearest", grid_mode=True)
    weights[np.abs(weights) < NEGLIGIBLE_WEIGHT] = 0
    return _normalized(weights)


def _normalized(weights: np.ndarray) -> np.ndarray:
    normalized: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalized.astype(np.float32)


def used_rows(matrix: Tensor) -> slice:
    """Range from the first to the last row that has a non-zero entry; empty when there is none."""
    return _span(matrix.any(dim=1))


def used_columns(matrix: Tensor) -> slice:
    """Range from the first to the last column that has a non-zero entry; empty when there is none."""
    return _span(matrix.any(dim=0))


def bounding_box(mask: Tensor) -> Box:
    """Smallest box around the voxels of a boolean mask (D, H, W) that are set; empty when none is."""
    plane = mask.any(dim=0)
    return _span(mask.flatten(1).any(dim=1)), used_rows(plane), used_columns(plane)


def _span(flags: Tensor) -> slice:
    indices = flags.nonzero().flatten().tolist()
    return slice(indices[0], indices[-1] + 1) if indices else slice(0, 0)


class Resampler:
    """Brings planes of a volume to another grid.

    The first axis has a sparse matrix (each result plane depends on few planes), so it is applied where
    it meets the most voxels: first if the axis shrinks, last if it grows.

    Args:
        matrices: weights (new, old) along z, y and x.

    Attributes:
        depth: number of result planes.
        planes_per_slab: how many result planes to ask for at once.
    """

    def __init__(self, matrices: Matrices) -> None:
        self._along_z, along_y, self._along_x = matrices
        self.depth, old_depth = self._along_z.shape
        self._shrinks = self.depth < old_depth
        self._combine_rows = _row_combination(along_y)
        old_plane = along_y.shape[1] * self._along_x.shape[1]
        new_plane = along_y.shape[0] * self._along_x.shape[0]
        voxels_per_plane = max(new_plane, old_plane * old_depth // max(self.depth, 1), 1)
        self.planes_per_slab = max(1, SLAB_VOXELS // voxels_per_plane)

    def planes(self, read: Callable[[slice], Tensor], result: slice) -> Tensor:
        """Some result planes (planes, new_y, new_x).

        Args:
            read: returns the wanted planes as float32 (planes, old_y, old_x) on the device of the matrices.
            result: which planes.
        """
        source = used_columns(self._along_z[result])
        weights = self._along_z[result, source]
        planes = read(source)
        if self._shrinks:
            planes = _combine_planes(weights, planes)
        planes = self._combine_rows(planes @ self._along_x.T)
        return planes if self._shrinks else _combine_planes(weights, planes)


def resample_by_slabs(read: Callable[[slice], Tensor], matrices: Matrices) -> Iterator[tuple[slice, Tensor]]:
    """Resample a volume without ever holding it, or the result, in full; arguments as of `Resampler`.

    Yields:
        A range of result planes and these planes (planes, new_y, new_x), in order.
    """
    resampler = Resampler(matrices)
    for result in slabs(slice(0, resampler.depth), resampler.planes_per_slab):
        yield result, resampler.planes(read, result)


def slabs(planes: slice, count: int) -> Iterator[slice]:
    """Cut a range of planes into ranges of `count` and a rest."""
    for start in range(planes.start, planes.stop, count):
        yield slice(start, min(start + count, planes.stop))


def _row_combination(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """How planes (planes, old, x) become (planes, new, x) by weights (new, old).

    Where every result row mixes two rows, as when an axis grows, taking these takes a tenth of the time of a
    product with a matrix full of zeros.
    """
    used = matrix != 0
    if matrix.shape[1] < 2 or int(used.sum(dim=1).max()) > 2:
        return lambda planes: torch.matmul(matrix, planes)
    first = used.to(torch.uint8).argmax(dim=1).clamp_max(matrix.shape[1] - 2)
    weights = matrix.gather(1, torch.stack([first, first + 1], dim=1))

    def combine(planes: Tensor) -> Tensor:
        mixed = planes.index_select(1, first).mul_(weights[:, :1])
        return mixed.addcmul_(planes.index_select(1, first + 1), weights[:, 1:])

    return combine


def _combine_planes(weights: Tensor, planes: Tensor) -> Tensor:
    return (weights @ planes.flatten(1)).view(-1, *planes.shape[1:])
