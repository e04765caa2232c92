"""Blended scores of a whole image that take little memory: only those are kept that can change a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TILE_VOXELS = 16
ROUNDING = 1e-3  # of a score as float16, below 1


@dataclass(eq=False)
class _Layer:
    """Some slices.

    Attributes:
        start: first slice.
        stop: the one behind the last.
        hot: which tiles (rows, columns) the layers before, this one and those behind must keep for it.
        scores: (channels, d, H, W); once packed, those of the kept tiles (n, channels, d, h, w).
        is_kept: the kept tiles (rows, columns), once packed.
    """

    start: int
    stop: int
    hot: tuple[Tensor, Tensor, Tensor]
    scores: Tensor
    is_kept: Tensor | None = None


class PackedScores:
    """Keeps the means of the whole image as float16, where they or a neighbour reach a threshold.

    A restored score is a weighted mean of scores, so no mask depends on those that lie further from a voxel
    above the threshold than the interpolation reaches. They are dropped tile by tile, each as deep as the
    slices that come together; for all channels alike, since a clean-up may look from one structure to
    another. In an image of the trunk that is most of them; where scores are high everywhere, all are kept.

    Args:
        shape: voxels of the image (D, H, W).
        channels: number of score maps.
        threshold: a voxel belongs to a structure when its score is greater.
        nothing: what stands for the scores that are not kept; below the threshold.
        reach: along each axis how many voxels apart two can be that one restored score is a mean of.
    """

    def __init__(
        self, shape: Sequence[int], channels: int, threshold: float, nothing: float, reach: Sequence[int]
    ) -> None:
        self._shape = (channels, *shape)
        self._lowest = threshold - ROUNDING
        self._nothing = nothing
        self._reach = reach
        self._layers: list[_Layer] = []
        self._num_packed = 0
        self._next = 0

    def add(self, means: Tensor) -> None:
        """Keep what is needed of the means (channels, d, H, W) of the next slices."""
        start, self._next = self._next, self._next + means.shape[1]
        highest = means.amax(dim=0)
        reach = min(self._reach[0], len(highest))
        first, last = highest[:reach], highest[len(highest) - reach :]
        hot = self._hot_tiles(first), self._hot_tiles(highest), self._hot_tiles(last)
        self._layers.append(_Layer(start, self._next, hot, means.to("cpu", torch.float16)))
        self._pack()

    def skip(self, count: int) -> None:
        """Leave the next slices empty."""
        self._next += count
        self._pack()

    @property
    def scores(self) -> Tensor:
        """The scores (channels, D, H, W), made anew at each access; "nothing" where they are not kept."""
        scores = torch.full(self._shape, self._nothing, dtype=torch.float16)
        for layer in self._layers:
            slices = scores[:, layer.start : layer.stop]
            slices.copy_(layer.scores if layer.is_kept is None else self._unpacked(layer, layer.is_kept))
        return scores

    @property
    def nbytes(self) -> int:
        """What is held."""
        return sum(layer.scores.nbytes for layer in self._layers)

    def _pack(self) -> None:
        """Pack the layers that no further slice can reach."""
        for layer in self._layers[self._num_packed :]:
            if layer.stop + self._reach[0] > self._next < self._shape[1]:
                return
            layer.is_kept = layer.hot[1].clone()
            for other in self._layers:
                if 0 <= other.start - layer.stop < self._reach[0]:
                    layer.is_kept |= other.hot[0]
                elif 0 <= layer.start - other.stop < self._reach[0]:
                    layer.is_kept |= other.hot[2]
            layer.scores = _tiles(self._padded(layer.scores, 0))[layer.is_kept]
            self._num_packed += 1

    def _hot_tiles(self, highest: Tensor) -> Tensor:
        """The tiles (rows, columns) within reach of a voxel of some slices (d, H, W) that is high enough."""
        if not len(highest):
            highest = highest.new_full((1, *highest.shape[1:]), -torch.inf)
        _, rows, columns = self._reach
        plane = self._padded(highest.amax(dim=0)[None], -torch.inf)
        plane = functional.pad(plane, (columns, columns, rows, rows), value=-torch.inf)
        window = (TILE_VOXELS + 2 * rows, TILE_VOXELS + 2 * columns)
        return (functional.max_pool2d(plane, window, stride=TILE_VOXELS)[0] >= self._lowest).cpu()

    def _padded(self, maps: Tensor, value: float) -> Tensor:
        """Maps (…, H, W) with whole tiles."""
        missing = [-size % TILE_VOXELS for size in maps.shape[-2:]]
        return functional.pad(maps, (0, missing[1], 0, missing[0]), value=value)

    def _unpacked(self, layer: _Layer, is_kept: Tensor) -> Tensor:
        channels, _, height, width = self._shape
        shape = (channels, layer.stop - layer.start, height, width)
        maps = self._padded(torch.full(shape, self._nothing, dtype=torch.float16), self._nothing)
        _tiles(maps)[is_kept] = layer.scores
        return maps[..., :height, :width]


def _tiles(maps: Tensor) -> Tensor:
    """A view (rows, columns, channels, d, h, w) of maps (channels, d, H, W) by their tiles."""
    channels, depth, height, width = maps.shape
    rows, columns = height // TILE_VOXELS, width // TILE_VOXELS
    split = maps.view(channels, depth, rows, TILE_VOXELS, columns, TILE_VOXELS)
    return split.permute(2, 4, 0, 1, 3, 5)
