"""From the blended scores of a task to its masks on the input grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..engines.network_runner import NetworkRunner
from ..masks.boxes import EMPTY_BOX
from ..patches.blending import KeptScores
from ..patches.visit_plan import CoarseShare, TaskView
from ..processing.mask_combination import combine_masks, without_overlap
from ..processing.nearest_voxels import on_network_grid
from ..processing.postprocessing import apply_postprocessing, keep_largest_of_unions
from ..processing.restoration import Restored, restore
from ..pytorch.tensor_arrays import tensor_of
from ..task_request import TaskRequest
from .score_keeping import LOWEST_SCORE, Kept, KeptWinners, winners_are_enough
from .session_image import SessionImage


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
