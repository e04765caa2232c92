"""The mean of overlapping patches of scores, handed on slice by slice as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .sliding_window import Patch


class ScoreKeeper(Protocol):
    """Takes what a `PatchBlender` finishes: float32 means (channels, d, H, W) of the next d slices.

    From the first slice to the last, and over again in each further pass over the image.
    """

    def add(self, means: Tensor) -> None:
        """Take the means of the next slices; they are not used elsewhere afterwards."""

    def skip(self, count: int) -> None:
        """Go on by so many slices, which no patch holds."""


class PatchBlender:
    """The weighted mean of overlapping patches of scores.

    Patches come in the order of `plan_patches`, each any number of times. Sums are held for one patch depth
    only: slices that no further patch reaches are divided by their weights and handed on. Slices without any
    patch are skipped.

    Args:
        shape: voxels of the image (D, H, W), none fewer than the patch has.
        channels: number of score maps.
        weight: (D, H, W) of a patch, on the device where sums are held.
        keeper: gets the means.
        finish: what the means (channels, d, H, W) go through before that.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        weight: Tensor,
        keeper: ScoreKeeper,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._depth, height, width = shape
        window = weight.shape[0]
        self._weight = weight
        self._keeper = keeper
        self._finish = finish
        self._start = 0
        self._end = 0  # of the last patch
        self._weights = weight.new_zeros(window, height, width)
        self._sums = weight.new_zeros(channels, window, height, width)

    def add(self, patch: Patch, scores: Tensor) -> None:
        """Add the scores (channels, d, h, w) of a patch, from any device."""
        self.hand_on(patch.start[0])
        self._end = patch.slices[0].stop
        _, rows, columns = patch.slices
        self._weights[:, rows, columns] += self._weight
        self._sums[:, :, rows, columns].addcmul_(scores.to(self._weight.device), self._weight)

    def finish_pass(self) -> None:
        """Hand on all that is left, and take patches from the first slice on again."""
        self.hand_on(self._depth)
        self._start = self._end = 0

    def hand_on(self, start: int) -> None:
        """Finish the slices before `start`, which no further patch reaches."""
        if start < self._start:
            raise ValueError("Patches must be added in ascending order of their first slice.")
        done = max(0, min(start, self._end) - self._start)
        if done:
            self._finish_slices(done)
        if start > self._start + done:
            self._keeper.skip(start - self._start - done)
        self._start = start

    def _finish_slices(self, done: int) -> None:
        """Hand on the first slices of the sums, and move the others to their place."""
        window = self._sums.shape[1]
        means = self._sums[:, :done] / self._weights[:done].clamp_min(torch.finfo(torch.float32).tiny)
        self._keeper.add(means if self._finish is None else self._finish(means))
        for sums in (self._weights[None], self._sums):
            sums[:, : window - done] = sums[:, done:].clone()
            sums[:, window - done :] = 0


class KeptScores:
    """Keeps the means of the whole image, as float16; of several passes over it their plain mean.

    Slices without any patch are 0.

    Args:
        shape: voxels of the image (D, H, W).
        channels: number of score maps.
        device: where they are kept.
        passes: how often the image is gone through.

    Attributes:
        scores: (channels, D, H, W).
    """

    def __init__(self, shape: Sequence[int], channels: int, device: torch.device, passes: int = 1) -> None:
        self.scores = torch.zeros((channels, *shape), dtype=torch.float16, device=device)
        self._passes = passes
        self._next = 0

    def add(self, means: Tensor) -> None:
        """Keep the means of the next slices."""
        kept = self.scores[:, self._next : self._next + means.shape[1]]
        if self._passes == 1:
            kept.copy_(means)
        else:
            kept.add_(means.to(kept.device), alpha=1 / self._passes)
        self.skip(means.shape[1])

    def skip(self, count: int) -> None:
        """Leave the next slices as they are."""
        self._next = (self._next + count) % self.scores.shape[1]
