"""From the network's grid back to the volume's: the mirror image of `preprocess`, one structure at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .boxes import EMPTY_BOX, Box, box_around, box_shape, common_box, index_within, is_empty, placed_in
from .preprocessing import PreparedImage
from .resampling import (
    SLAB_VOXELS,
    Matrices,
    Resampler,
    bounding_box,
    resample_by_slabs,
    slabs,
    used_columns,
    used_rows,
)

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

    That is nnU-Net's order: interpolate, then compare. What is interpolated is by how much a channel exceeds
    the background, the first channel that is not wanted; it cannot win where it does so at none of the voxels
    around. So each channel is computed in the box around those of its voxels, slab by slab: the cost grows
    with the boxes of what is there, not with the number of channels. Of equal scores that of the background
    wins, then that of the first channel.

    Args:
        scores: (C, D, H, W), of the shape of `prepared.tensor`.
        prepared: what `preprocess` returned.
        channels: those whose masks are wanted; if these are all, channel 0 is what is left over.

    Yields:
        For each channel the box on the input grid (z, y, x) and the boolean mask within it.
    """
    scores = scores.permute([0, *(axis.network_axis + 1 for axis in prepared.axes)])
    background = next((channel for channel in range(len(scores)) if channel not in channels), 0)
    rivals = [
        _Rival.of_channel(channel, background, scores, prepared)
        for channel in range(len(scores))
        if channel != background
    ]
    box = reduce(box_around, (rival.box for rival in rivals), EMPTY_BOX)
    if background in channels:
        everything = slice(0, scores.shape[1]), slice(0, scores.shape[2]), slice(0, scores.shape[3])
        box = _way_back(prepared, everything, scores.device)[0]
    winners = np.zeros(box_shape(box), np.min_scalar_type(len(scores)))
    for planes in slabs(box[0], max(1, SLAB_VOXELS // max(winners[:1].size, 1))):
        slab = (planes, *box[1:])
        winners[index_within(box, slab)[0]] = _winners_of_slab(rivals, slab, scores.device).cpu().numpy()
    found = ndimage.find_objects(winners, len(scores))
    for channel in channels:
        number = 0 if channel == background else channel + 1
        inside = (found[number - 1] or EMPTY_BOX) if number else index_within(box, box)
        yield placed_in(box, inside), winners[inside] == number


@dataclass(frozen=True, eq=False)
class _Rival:
    """A channel that exceeds the background in places, and its way back to the input grid.

    Attributes:
        number: the channel, counted from 1.
        box: of the input grid (z, y, x), where it may win.
        read: returns planes of what it exceeds the background by, float32.
        resampler: brings them to the box.
    """

    number: int
    box: Box
    read: Callable[[slice], Tensor]
    resampler: Resampler

    @classmethod
    def of_channel(cls, channel: int, background: int, scores: Tensor, prepared: PreparedImage) -> _Rival:
        """From scores (C, D, H, W), the axes in the input's order."""
        extent = bounding_box(scores[channel] > scores[background])
        box, source, matrices = _way_back(prepared, extent, scores.device)
        own, others = scores[channel][source], scores[background][source]

        def read(planes: slice) -> Tensor:
            return own[planes].float() - others[planes].float()

        return cls(channel + 1, box, read, Resampler(matrices))


def _winners_of_slab(rivals: Sequence[_Rival], slab: Box, device: torch.device) -> Tensor:
    """The numbers of the rivals that win in a box of the input grid; 0 where none does.

    Channel by channel, so that the slab is compared while it is in the cache. Bytes are compared instead of
    filled, which would take four times as long.
    """
    highest = torch.zeros(box_shape(slab), device=device)
    winners = torch.zeros(
        box_shape(slab), device=device, dtype=torch.uint8 if len(rivals) < 255 else torch.int32
    )
    for rival in rivals:
        shared = common_box(rival.box, (slab[0], *rival.box[1:]))
        if is_empty(shared):
            continue
        margin = rival.resampler.planes(rival.read, index_within(rival.box, shared)[0])
        place = index_within(slab, shared)
        later = (margin > highest[place]).to(winners.dtype).mul_(rival.number)
        torch.maximum(winners[place], later, out=winners[place])
        torch.maximum(highest[place], margin, out=highest[place])
    return winners


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
