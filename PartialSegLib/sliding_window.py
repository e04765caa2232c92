"""The sliding window: where the patches lie, what a voxel of a patch counts, and the mean of all patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

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
    return (_even_positions if positions == "even" else _stride_positions)(length, size, overlap)


def _stride_positions(length: int, size: int, overlap: float) -> list[int]:
    stride = max(1, ceil(round(size * (1 - overlap), 6)))  # 10 * (1 - 0.7) is a little more than 3
    last = max(0, length - size)
    return [min(step * stride, last) for step in range(ceil(last / stride) + 1)]


def _even_positions(length: int, size: int, overlap: float) -> list[int]:
    last = max(0, length - size)
    steps = ceil(round(last / (size * (1 - overlap)), 6))
    return sorted({round(step * last / max(steps, 1)) for step in range(steps + 1)})


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
    return torch.from_numpy(weight)


class PatchBlender:
    """The weighted mean of overlapping patches of scores.

    Patches come in the order of `plan_patches`, each any number of times. Sums are held for one patch depth
    only; slices that no further patch reaches are divided by their weights and kept in float16. Where there
    are several passes over the image the result is the plain mean of these.

    Args:
        shape: voxels of the image (D, H, W), none fewer than the patch has.
        channels: number of score maps.
        weight: (D, H, W) of a patch, on the device of the scores that are added.
        keep_on: where the means are kept; None for the same device.
        passes: how often the image is gone through, see `begin_pass`.
        finish: what the means (channels, d, H, W) of each pass go through before they are kept.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        weight: Tensor,
        keep_on: torch.device | None = None,
        passes: int = 1,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        depth, height, width = shape
        window = weight.shape[0]
        self._weight = weight
        self._passes = passes
        self._finish = finish
        self._start = 0
        self._weights = weight.new_zeros(window, height, width)
        self._sums = weight.new_zeros(channels, window, height, width)
        self._scores = torch.zeros(
            (channels, depth, height, width), dtype=torch.float16, device=keep_on or weight.device
        )

    def add(self, patch: Patch, scores: Tensor) -> None:
        """Add the scores (channels, d, h, w) of a patch."""
        if patch.start[0] != self._start:
            self._advance(patch.start[0])
        _, rows, columns = patch.slices
        self._weights[:, rows, columns] += self._weight
        self._sums[:, :, rows, columns].addcmul_(scores, self._weight)

    def begin_pass(self) -> None:
        """Close the sums of one pass over the image, and take patches from its first slice on again."""
        self._advance(self._start + self._sums.shape[1])
        self._start = 0

    def scores(self) -> Tensor:
        """Close the sums; float16 means (channels, D, H, W), 0 where no patch was added."""
        self._advance(self._start + self._sums.shape[1])
        return self._scores

    def _advance(self, start: int) -> None:
        """Store the slices before start, and let the window of sums begin there."""
        if start < self._start:
            raise ValueError("Patches must be added in ascending order of their first slice.")
        window = self._sums.shape[1]
        done = min(start - self._start, window)
        weights = self._weights[:done].clamp_min(torch.finfo(torch.float32).tiny)
        means = self._sums[:, :done] / weights
        if self._finish is not None:
            means = self._finish(means)
        kept = self._scores[:, self._start : self._start + done]
        if self._passes == 1:
            kept.copy_(means)
        else:
            kept.add_(means.to(kept.device), alpha=1 / self._passes)
        for sums in (self._weights[None], self._sums):
            sums[:, : window - done] = sums[:, done:].clone()
            sums[:, window - done :] = 0
        self._start = start
