"""How the blended scores of tasks wait for their masks: as they are, packed, or as winners alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..manifest import Inference
from ..patches.blending import KeptScores
from ..patches.packed_scores import PackedScores
from ..processing.mask_combination import clear_voxels
from ..processing.restoration import Restored, interpolation_reach, restore
from ..processing.winner_restoration import WinnerRestoration
from ..pytorch.tensor_arrays import tensor_of
from ..task import Task
from .session_image import SessionImage

LOWEST_SCORE = -6e4  # that float16 can hold
PACKED_ABOVE_BYTES = 256 << 20
"""Below, scores are kept as they are: packing them takes three times as long as copying."""


class KeptWinners:
    """Keeps, instead of blended scores, which structure they make win on the input grid.

    Args:
        image: of the session.
        task: whose scores they are.
        channels: number of score maps.
        kept: voxels (D, H, W) of `image.tensor` whose scores count; None for all.
        device: of the scores.
    """

    def __init__(
        self, image: SessionImage, task: Task, channels: int, kept: np.ndarray | None, device: torch.device
    ) -> None:
        self._channels = task.structures
        self._wanted = list(task.structures.values())
        self._place, self._prepared = image.place, image.prepared
        self._kept = kept
        self._winners = WinnerRestoration(image.prepared, channels, self._wanted, device)
        self._nothing = torch.zeros(channels, dtype=torch.float16, device=device)
        self._nothing[self._wanted] = LOWEST_SCORE
        self._next = 0

    def add(self, means: Tensor) -> None:
        """Take the means (channels, d, H, W) of the next slices of `image.tensor`."""
        start, slices = self._next, self._next_slices(means.shape[1])
        if slices.start >= slices.stop:
            return
        _, rows, columns = self._place
        within = slice(slices.start - start, slices.stop - start)
        scores = means[:, within, rows, columns].half()
        if self._kept is not None:
            outside = tensor_of(~self._kept[slices, rows, columns]).to(scores.device)
            scores[self._wanted] = scores[self._wanted].masked_fill(outside, LOWEST_SCORE)
        self._winners.add(scores)

    def skip(self, count: int) -> None:
        """Go on by so many slices of `image.tensor`, none of whose scores count."""
        slices = self._next_slices(count)
        if slices.start < slices.stop:
            self._winners.skip(slices.stop - slices.start, self._nothing)

    def masks(self, structures: Sequence[str]) -> Iterator[tuple[str, Restored]]:
        """For some structures of the task a box of the input grid (z, y, x), and the mask within it."""
        masks = self._winners.masks([self._channels[structure] for structure in structures])
        outside = None
        if self._kept is not None and self._winners.background in self._wanted:
            # a task without a background of its own: where it does not look nothing is left over
            outside = restore(tensor_of(~self._kept[self._place]), self._prepared, 0.0)
        for structure, found in zip(structures, masks, strict=True):
            if outside is not None:
                clear_voxels(found, outside)
            yield structure, found

    def _next_slices(self, count: int) -> slice:
        """Which slices of `image.prepared.tensor`, as they lie in `image.tensor`, the next ones are."""
        start, self._next = self._next, self._next + count
        return slice(max(start, self._place[0].start), min(self._next, self._place[0].stop))


def winners_are_enough(inference: Inference, task: Task) -> bool:
    """Whether a voxel's winner is all that masks need; a clean-up on the network's grid needs more."""
    return inference.decides_by_winner and not task.network_steps


Kept = KeptScores | PackedScores | KeptWinners


@dataclass(frozen=True)
class ScoreKeeping:
    """Chooses what the scores of a task are kept as; which never changes a mask.

    Attributes:
        inference: of the model.
        passes: how often the image is gone through; which structure wins and which scores are high is known
            after the last pass only.
        as_they_are: whether somebody looks at the scores themselves, as at those of a coarse model.
    """

    inference: Inference
    passes: int = 1
    as_they_are: bool = False

    def keeps_winners(self, task: Task) -> bool:
        """Whether winners are kept instead of scores, see `KeptWinners`: where nothing else needs scores."""
        return self.passes == 1 and not self.as_they_are and winners_are_enough(self.inference, task)

    def packs(self, tasks: Collection[Task], voxels: int, device: torch.device) -> bool:
        """Whether scores that change no mask are dropped at once, see `PackedScores`: where they are many.

        Each task needs all of its scores in the end, so nothing would be gained for a single one.

        Args:
            tasks: whose scores are collected together.
            voxels: of the image on the network's grid.
            device: where scores are collected; packing is for CPUs.
        """
        if self.as_they_are or self.passes > 1 or device.type != "cpu":
            return False
        if self.inference.activation != "sigmoid" or len(tasks) < 2:
            return False
        return 2 * voxels * sum(len(task.structures) for task in tasks) > PACKED_ABOVE_BYTES

    def start(
        self,
        image: SessionImage,
        task: Task,
        channels: int,
        kept: np.ndarray | None,
        device: torch.device,
        is_packed: bool,
    ) -> Kept:
        """What keeps the scores of a task; nothing yet.

        Args:
            image: of the session.
            task: whose scores they are.
            channels: number of score maps.
            kept: voxels (D, H, W) of `image.tensor` whose scores count; None for all.
            device: where scores are collected.
            is_packed: see `packs`.
        """
        if self.keeps_winners(task):
            return KeptWinners(image, task, channels, kept, device)
        if not is_packed:
            return KeptScores(image.tensor.shape, channels, device, self.passes)
        threshold, nothing = (0.5, 0.0) if self.inference.blend == "probabilities" else (0.0, LOWEST_SCORE)
        reach = interpolation_reach(image.prepared)
        return PackedScores(image.tensor.shape, channels, threshold, nothing, reach)
