"""From the network's grid back to the volume's: the mirror image of `preprocess`, one structure at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .preprocessing import EMPTY_BOX, PreparedImage
from .resampling import Matrices, bounding_box, resample_by_slabs, used_columns, used_rows
from .segmentation import Box

Restored = tuple[Box, np.ndarray]
"""A box of the input grid (z, y, x), and the boolean mask within it."""


def restore(scores: Tensor, prepared: PreparedImage, threshold: float) -> Restored:
    """Bring scores back to the input grid and threshold them there.

    A restored score is a weighted mean of network scores, so it exceeds the threshold only where one of these
    does: that box is computed, slab by slab, and no more.

    Args:
        scores: (D, H, W), the shape of `prepared.tensor`; outside the crop they count as 0.
        prepared: what `preprocess` returned.
        threshold: at least 0.

    Returns:
        The box on the input grid (z, y, x) and the boolean mask `score > threshold` within it.
    """
    scores = scores.permute([axis.network_axis for axis in prepared.axes])
    box, source, matrices = _way_back(prepared, bounding_box(scores > threshold), scores.device)
    part = scores[source].float()
    mask = torch.empty([matrix.shape[0] for matrix in matrices], dtype=torch.bool)
    for planes, slab in resample_by_slabs(lambda rows: part[rows], matrices):
        mask[planes] = slab > threshold
    return box, mask.numpy()


def restore_winners(scores: Tensor, prepared: PreparedImage, channels: Sequence[int]) -> Iterator[Restored]:
    """Bring the scores of all channels back to the input grid, where the highest one takes the voxel.

    That is nnU-Net's order: interpolate, then compare. Where the same channel leads at all voxels around a
    point it leads there too, so only the box around the voxels that one of `channels` leads is computed, slab
    by slab. This is exact as long as only one other channel, the background, is left out.

    Args:
        scores: (C, D, H, W), of the shape of `prepared.tensor`.
        prepared: what `preprocess` returned.
        channels: those whose masks are wanted.

    Yields:
        For each channel the box on the input grid (z, y, x) and the boolean mask within it.
    """
    scores = scores.permute([0, *(axis.network_axis + 1 for axis in prepared.axes)])
    led = torch.isin(_first_maximum(scores, len(scores)), torch.tensor(channels, device=scores.device))
    box, source, matrices = _way_back(prepared, bounding_box(led), scores.device)
    part = scores[(slice(None), *source)]
    size = tuple(matrix.shape[0] for matrix in matrices)
    first = np.zeros(size, np.uint8) if len(part) < 255 else np.zeros(size, np.uint16)
    slabs = [resample_by_slabs(_float_planes(channel), matrices) for channel in part]
    for planes, slab in slabs[0]:  # channel by channel, so that a slab is compared while it is in the cache
        others = (next(channel)[1] for channel in slabs[1:])
        first[planes] = _first_maximum(chain([slab], others), len(part)).cpu().numpy() + 1
    found = ndimage.find_objects(first, len(part))
    for channel in channels:
        inside = found[channel] or EMPTY_BOX
        yield _shifted(box, inside), first[inside] == channel + 1


def _way_back(prepared: PreparedImage, extent: Box, device: torch.device) -> tuple[Box, Box, Matrices]:
    """How scores in an extent of the network grid, its axes in the input's order, return to the input grid.

    Returns:
        The box of the input grid that they reach, the box of network voxels that this box is interpolated
        from, and the weights between the two.
    """
    box, source, matrices = [], [], []
    for axis, columns in zip(prepared.axes, extent, strict=True):
        weights = axis.to_input(device)[:, prepared.crop[axis.network_axis]]
        rows = used_rows(weights[:, columns])
        needed = used_columns(weights[rows])
        box.append(rows)
        source.append(needed)
        matrices.append(weights[rows, needed].contiguous())
    return (
        (box[0], box[1], box[2]),
        (source[0], source[1], source[2]),
        (matrices[0], matrices[1], matrices[2]),
    )


def _float_planes(scores: Tensor) -> Callable[[slice], Tensor]:
    return lambda planes: scores[planes].float()


def _first_maximum(volumes: Iterable[Tensor], count: int) -> Tensor:
    """Which of some volumes (planes, y, x) is the highest at each voxel, the first of equals.

    On a CPU in a third of the time of `argmax`.
    """
    remaining = iter(volumes)
    highest = next(remaining).clone()
    first = torch.zeros_like(highest, dtype=torch.uint8 if count < 256 else torch.int32)
    for number, volume in enumerate(remaining, start=1):
        later = (volume > highest).to(first.dtype).mul_(number)  # masked_fill_ would take four times as long
        torch.maximum(first, later, out=first)
        torch.maximum(highest, volume, out=highest)
    return first


def _shifted(outer: Box, inner: Sequence[slice]) -> Box:
    """A box within a box, counted from the outer grid's first voxel."""
    z, y, x = (slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))
    return z, y, x
