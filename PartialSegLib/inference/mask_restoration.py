"""From the blended scores of a task to its masks on the input grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..engines.network_runner import NetworkRunner
from ..manifest import Inference
from ..masks.boxes import EMPTY_BOX
from ..patches.blending import KeptScores
from ..patches.packed_scores import PackedScores
from ..patches.visit_plan import CoarseShare, TaskView
from ..processing.mask_combination import clear_voxels, combine_masks, without_overlap
from ..processing.nearest_voxels import on_network_grid
from ..processing.postprocessing import apply_postprocessing, keep_largest_of_unions
from ..processing.restoration import Restored, interpolation_reach, restore
from ..processing.winner_restoration import WinnerRestoration
from ..pytorch.tensor_arrays import tensor_of
from ..task import Task
from ..task_request import TaskRequest
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


def keeps_winners(inference: Inference, task: Task, passes: int, scores_are_wanted: bool = False) -> bool:
    """Whether winners are kept instead of scores, see `KeptWinners`: where nothing else needs scores.

    Args:
        inference: of the model.
        task: whose scores they are.
        passes: how often the image is gone through; the winner of a mean is known after the last one only.
        scores_are_wanted: whether somebody looks at the scores themselves, as a coarse model's are.
    """
    return passes == 1 and not scores_are_wanted and winners_are_enough(inference, task)


def packs_scores(
    inference: Inference, tasks: Collection[Task], voxels: int, passes: int, device: torch.device
) -> bool:
    """Whether scores that change no mask are dropped at once, see `PackedScores`: where they are many.

    Each task needs all of its scores in the end, so nothing would be gained for a single one.

    Args:
        inference: of the model.
        tasks: whose scores are collected together.
        voxels: of the image on the network's grid.
        passes: how often the image is gone through; which scores are high is known after the last one only.
        device: where scores are collected; packing is for CPUs.
    """
    if inference.activation != "sigmoid" or len(tasks) < 2 or passes > 1 or device.type != "cpu":
        return False
    return 2 * voxels * sum(len(task.structures) for task in tasks) > PACKED_ABOVE_BYTES


def packed_scores(image: SessionImage, inference: Inference, channels: int) -> PackedScores:
    """What packs the scores of a task; of logits as of probabilities."""
    threshold, nothing = (0.5, 0.0) if inference.blend == "probabilities" else (0.0, LOWEST_SCORE)
    reach = interpolation_reach(image.prepared)
    return PackedScores(image.tensor.shape, channels, threshold, nothing, reach)


Kept = KeptScores | PackedScores | KeptWinners


def restore_masks(
    image: SessionImage, runner: NetworkRunner, request: TaskRequest, scores: Kept | None, view: TaskView
) -> Iterator[tuple[str, Restored]]:
    """The masks of the wanted structures of a task on the input grid, after the task's clean-up.

    A softmax is decided there, among all channels; a clean-up on the network's grid needs masks before that,
    one by one. Where the view takes coarse masks, these are put in on the input grid, in all voxels that a
    score from there would reach; for a softmax they give each voxel to one structure only. The clean-up on
    the network's grid sees them, so that what they connect stays connected, and leaves them as they are; that
    on the image's grid comes last and treats all masks alike.

    Args:
        image: of the session.
        runner: whose scores they are.
        request: the task and the wanted structures.
        scores: blended, on the grid of `image.tensor`, or their winners. None where the task visited no
            patch: then nothing but coarse masks is found.
        view: of the task.

    Yields:
        Structure, and its mask within a box of the input grid.
    """
    steps = request.task.image_steps
    if not steps:
        yield from _restore(image, runner, request, scores, view)
        return
    needed = {structure for step in steps for structure in step.union}.union(request.structures)
    complete = request._replace(structures=[name for name in request.task.structures if name in needed])
    cleaned = keep_largest_of_unions(dict(_restore(image, runner, complete, scores, view)), steps)
    yield from ((structure, cleaned[structure]) for structure in request.structures)


def _restore(
    image: SessionImage, runner: NetworkRunner, request: TaskRequest, scores: Kept | None, view: TaskView
) -> Iterator[tuple[str, Restored]]:
    """The masks on the input grid, before the clean-up there; arguments as for `restore_masks`."""
    share = view.coarse
    if share is None:
        yield from _restore_scores(image, runner, request, scores, view.kept, None)
        return
    if runner.inference.decides_by_winner and all(
        step.step != "include" for step in request.task.network_steps
    ):
        share = replace(share, masks=without_overlap(share.masks))
    region = restore(image.unpad(tensor_of(share.voxels)), image.prepared, 0.0)
    for structure, found in _restore_scores(image, runner, request, scores, view.kept, share):
        yield structure, combine_masks(found, share.masks[structure], region)


def _restore_scores(
    image: SessionImage,
    runner: NetworkRunner,
    request: TaskRequest,
    scores: Kept | None,
    kept: np.ndarray | None,
    share: CoarseShare | None,
) -> Iterator[tuple[str, Restored]]:
    """The masks that follow from the scores of kept voxels."""
    if scores is None:
        yield from ((structure, (EMPTY_BOX, np.zeros((0, 0, 0), bool))) for structure in request.structures)
        return
    if isinstance(scores, KeptScores) and winners_are_enough(runner.inference, request.task):
        blended = scores.scores
        scores = KeptWinners(image, request.task, len(blended), kept, blended.device)
        scores.add(blended)
    if isinstance(scores, KeptWinners):
        yield from scores.masks(request.structures)
        return
    separate = runner.structure_scores(scores.scores, request.task)
    device = next(iter(separate.values())).device
    threshold = runner.threshold(request.task)
    if kept is not None:
        outside = tensor_of(~kept).to(device)
        nothing = 0.0 if threshold else LOWEST_SCORE
        separate = {structure: score.masked_fill(outside, nothing) for structure, score in separate.items()}
    separate = {structure: image.unpad(score) for structure, score in separate.items()}
    cleaned = _clean_up(image, request, separate, threshold, share)
    for structure in request.structures:
        yield structure, restore(cleaned[structure], image.prepared, threshold)


def _clean_up(
    image: SessionImage,
    request: TaskRequest,
    scores: Mapping[str, Tensor],
    threshold: float,
    share: CoarseShare | None,
) -> dict[str, Tensor]:
    """Scores (D, H, W) on the grid of `image.prepared` after the clean-up; coarse masks are 0 and 1 in it."""
    steps = request.task.network_steps
    if share is None or not steps:
        return apply_postprocessing(scores, steps, threshold)
    device = next(iter(scores.values())).device
    voxels = image.unpad(tensor_of(share.voxels)).to(device)
    filled = {}
    for structure, score in scores.items():
        coarse = tensor_of(on_network_grid(share.masks[structure], image.prepared)).to(score)
        filled[structure] = torch.where(voxels, coarse, score)
    cleaned = apply_postprocessing(filled, steps, threshold)
    # the coarse masks take their own way to the input grid: without them less has to be restored
    return {structure: score.masked_fill(voxels, 0) for structure, score in cleaned.items()}
