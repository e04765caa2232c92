"""The sliding window: where the patches lie, and what a voxel of a patch counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..pytorch.tensor_arrays import tensor_of

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Patch:
    """A box of voxels of the network grid: index of its first voxel, and its size, both (z, y, x)."""

    start: Size
    size: Size

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The patch as an index into the image."""
        z, y, x = (slice(first, first + size) for first, size in zip(self.start, self.size, strict=True))
        return z, y, x

    def touches(self, kept: np.ndarray) -> bool:
        """Whether the patch holds a voxel that is kept.

        Args:
            kept: boolean, over the first axis (D,) or over all three (D, H, W).
        """
        return bool(kept[self.slices[: kept.ndim]].any())


def plan_patches(
    shape: Sequence[int], patch_size: Size, overlap: float, positions: str = "stride"
) -> list[Patch]:
    """Cover an image with patches, in ascending order of their start.

    Along each axis they lie at multiples of the stride ceil(patch * (1 - overlap)), and the last one is
    shifted back to the border (the official DoDNet); or they lie "even", at equal distances of at most
    patch * (1 - overlap), rounded to voxels (nnU-Net). Both have an overlap of 0.5.

    Args:
        shape: voxels of the image (z, y, x); a patch sticks out of a shorter image.
        patch_size: voxels of a patch (z, y, x).
        overlap: shared fraction of neighbouring patches, in [0, 1).
        positions: "stride" or "even".
    """
    starts = [
        positions_along_axis(length, size, overlap, positions)
        for length, size in zip(shape, patch_size, strict=True)
    ]
    return [Patch((z, y, x), patch_size) for z, y, x in product(*starts)]


def positions_along_axis(length: int, size: int, overlap: float, positions: str = "stride") -> list[int]:
    """Where patches of a size start along one axis, ascending; arguments as in `plan_patches`."""
    last = max(0, length - size)
    steps = _steps_along_axis(length, size, overlap, positions)
    if positions == "even":
        distance = last / max(
            steps, 1
        )  # first divided, then multiplied, so that halves round as nnU-Net's do
        return [round(distance * step) for step in range(steps + 1)]
    return [min(step * _stride(size, overlap), last) for step in range(steps + 1)]


def count_patches(shape: Sequence[int], patch_size: Size, overlap: float, positions: str = "stride") -> int:
    """How many patches `plan_patches` lays, without laying them; the same arguments."""
    lengths = zip(shape, patch_size, strict=True)
    return prod(_steps_along_axis(length, size, overlap, positions) + 1 for length, size in lengths)


def _steps_along_axis(length: int, size: int, overlap: float, positions: str) -> int:
    """From the first position to the last; even ones of less than a voxel would give some of them twice."""
    last = max(0, length - size)
    if positions == "even":
        return min(last, ceil(round(last / (size * (1 - overlap)), 6)))
    return ceil(last / _stride(size, overlap))


def _stride(size: int, overlap: float) -> int:
    return max(1, ceil(round(size * (1 - overlap), 6)))  # 10 * (1 - 0.7) is a little more than 3


def mirrored_patches(patches: Sequence[Patch], shape: Sequence[int], axes: Sequence[int]) -> list[Patch]:
    """Where the patches of a mirrored image lie in the image itself, in ascending order of their start.

    Args:
        patches: as `plan_patches` lays them.
        shape: voxels of the image (z, y, x), none fewer than a patch has.
        axes: along which it is mirrored (0 = z, 1 = y, 2 = x).
    """
    starts = [
        tuple(
            shape[axis] - patch.size[axis] - first if axis in axes else first
            for axis, first in enumerate(patch.start)
        )
        for patch in patches
    ]
    return [Patch((z, y, x), patches[0].size) for z, y, x in sorted(starts)]


def missing_voxels(shape: Sequence[int], patch_size: Size) -> Size:
    """How many voxels an image lacks along (z, y, x) to hold a patch."""
    z, y, x = (max(0, size - length) for size, length in zip(patch_size, shape, strict=True))
    return z, y, x


def pad_to_patch(image: Tensor, patch_size: Size, value: float, before: Size = (0, 0, 0)) -> Tensor:
    """Fill an image (D, H, W) with a value along each axis that is shorter than the patch.

    Args:
        image: (D, H, W).
        patch_size: voxels of a patch.
        value: of the new voxels.
        before: how many of the missing voxels lie before the image; the others lie behind it.
    """
    missing = missing_voxels(image.shape, patch_size)
    widths = [n for axis in (2, 1, 0) for n in (before[axis], missing[axis] - before[axis])]
    return functional.pad(image, widths, value=value) if any(missing) else image


def patch_weight(patch_size: Size, weighting: str) -> Tensor:
    """How much each voxel of a patch counts: float32 (D, H, W), "gaussian" or "constant"."""
    return gaussian_weight(patch_size) if weighting == "gaussian" else torch.ones(patch_size)


def gaussian_weight(patch_size: Size) -> Tensor:
    """How much each voxel of a patch counts: a Gaussian around its centre with sigma = an eighth of its size.

    As in the official DoDNet (and nnU-Net): a unit impulse at patch // 2, filtered, divided by its maximum;
    zeros become the smallest positive weight.

    Returns:
        Float32 weights (D, H, W) in (0, 1].
    """
    impulse = np.zeros(patch_size)
    impulse[tuple(size // 2 for size in patch_size)] = 1
    sigma = [size / 8 for size in patch_size]
    weight = ndimage.gaussian_filter(impulse, sigma, mode="constant").astype(np.float32)
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return tensor_of(weight)
