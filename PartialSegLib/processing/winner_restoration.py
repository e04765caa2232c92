"""Which channel of a softmax has the highest score, voxel by voxel of the input grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..masks.boxes import EMPTY_BOX, Box, box_around, box_shape, common_box, index_within, is_empty, placed_in
from ..pytorch.tensor_arrays import array_of
from .preprocessing import PreparedImage
from .resampling import (
    SLAB_VOXELS,
    Matrices,
    Resampler,
    bounding_box,
    slabs,
    used_columns,
    used_rows,
)
from .restoration import Restored, way_back, weights_to_input


class WinnerRestoration:
    """Brings the scores of all channels back to the input grid, where the highest one takes the voxel.

    That is nnU-Net's order: interpolate, then compare. What is interpolated is by how much a channel exceeds
    the background, the first channel that is not wanted; it cannot win where it does so at none of the voxels
    around. So each channel is computed in the box around those of its voxels, slab by slab: the cost grows
    with the boxes of what is there, not with the number of channels. Of equal scores that of the background
    wins, then that of the first channel.

    Scores come slice by slice and are forgotten as soon as every voxel that they reach is decided: one byte
    for a voxel of the input grid is kept, not two for each channel of one of the network's. Slices in which
    nothing can win are skipped: only those are filled in that a voxel beside them is interpolated from.

    Args:
        prepared: what `preprocess` returned.
        num_channels: C, of the scores.
        channels: those whose masks are wanted; if these are all, channel 0 is what is left over.
        device: of the scores.

    Attributes:
        background: the channel that is left over.
    """

    def __init__(
        self, prepared: PreparedImage, num_channels: int, channels: Sequence[int], device: torch.device
    ) -> None:
        self._num_channels = num_channels
        self.background = next((c for c in range(num_channels) if c not in channels), 0)
        self._order = [0, *(axis.network_axis + 1 for axis in prepared.axes)]
        self._axis = self._order.index(1) - 1  # of the input grid; slices come along it
        self._plane = prepared.tensor.shape[1:]
        self._to_input = weights_to_input(prepared, device)
        used = self._to_input[self._axis] != 0
        self._undecided = used.any(dim=1)
        self._needs_before = torch.where(
            self._undecided, used.shape[1] - used.flip(1).to(torch.uint8).argmax(dim=1), 0
        )
        self._pending: Tensor | None = None
        self._first = 0  # slice of the pending scores
        self._winners = np.zeros(prepared.input_shape, np.min_scalar_type(num_channels))
        self._box = EMPTY_BOX  # of the input grid, around all winners

    def add(self, scores: Tensor) -> None:
        """Take the scores (C, d, H, W) of the next slices, on the shape of `prepared.tensor` otherwise."""
        pending = scores if self._pending is None else torch.cat([self._pending, scores], dim=1)
        last = self._first + pending.shape[1]
        rows = used_rows((self._undecided & (self._needs_before <= last))[:, None])
        if rows.stop > rows.start:
            self._decide(pending, rows)
            self._undecided[rows] = False
        columns = used_columns(self._to_input[self._axis][self._undecided])
        still_needed = columns.start if columns.stop > columns.start else last
        self._pending = pending[:, max(0, still_needed - self._first) :].clone()
        self._first = max(self._first, min(still_needed, last))

    def skip(self, count: int, nothing: Tensor) -> None:
        """The same as to `add` so many slices of one score for each channel, of which the background's wins.

        Args:
            count: of slices.
            nothing: these scores (C,).
        """
        first = self._first + (0 if self._pending is None else self._pending.shape[1])
        used = self._to_input[self._axis] != 0
        beside = used.clone()
        beside[:, first : first + count] = False
        self._undecided &= beside.any(dim=1)
        needed = used[self._undecided, first : first + count].any(dim=0).tolist()
        for is_needed, run in groupby(needed):
            length = len(list(run))
            if is_needed:
                self.add(nothing[:, None, None, None].expand(-1, length, *self._plane))
            else:  # all that came before is decided
                self._first += length

    def masks(self, channels: Sequence[int]) -> Iterator[Restored]:
        """For some wanted channels the box on the input grid (z, y, x) and the boolean mask within it.

        Made one by one: in noise every mask is as large as the image.
        """
        z, y, x = (used_rows(weights) for weights in self._to_input)
        found = ndimage.find_objects(self._winners[self._box], self._num_channels)
        for channel in channels:
            if channel == self.background:
                box, number = (z, y, x), 0
            else:
                box, number = placed_in(self._box, found[channel] or EMPTY_BOX), channel + 1
            yield box, self._winners[box] == number

    def _decide(self, scores: Tensor, rows: slice) -> None:
        """Find the winners in some rows of the input grid, all of whose scores (C, d, H, W) are there."""
        to_input = list(self._to_input)
        to_input[self._axis] = to_input[self._axis][rows, self._first : self._first + scores.shape[1]]
        matrices = to_input[0], to_input[1], to_input[2]
        scores = scores.permute(self._order)
        others = [channel for channel in range(len(scores)) if channel != self.background]
        rivals = [_Rival.of_channel(channel, self.background, scores, matrices) for channel in others]
        box = reduce(box_around, (rival.box for rival in rivals), EMPTY_BOX)
        if is_empty(box):
            return
        part = [slice(0, size) for size in self._winners.shape]
        part[self._axis] = rows
        place = placed_in((part[0], part[1], part[2]), box)
        winners = self._winners[place]
        for planes in slabs(box[0], max(1, SLAB_VOXELS // max(winners[:1].size, 1))):
            slab = (planes, *box[1:])
            winners[index_within(box, slab)[0]] = array_of(_winners_of_slab(rivals, slab, scores.device))
        self._box = box_around(self._box, place)


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
    def of_channel(cls, channel: int, background: int, scores: Tensor, to_input: Matrices) -> _Rival:
        """From scores (C, D, H, W), the axes in the input's order."""
        extent = bounding_box(scores[channel] > scores[background])
        box, source, matrices = way_back(to_input, extent)
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
