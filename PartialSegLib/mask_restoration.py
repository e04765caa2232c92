"""From the blended scores of a task to its masks on the input grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .network_runner import NetworkRunner
from .postprocessing import apply_postprocessing
from .preprocessing import EMPTY_BOX, Restored, restore, restore_winners
from .session_image import SessionImage
from .task import Task
from .task_request import TaskRequest

LOWEST_SCORE = -6e4  # that float16 can hold


def restore_masks(
    image: SessionImage,
    runner: NetworkRunner,
    request: TaskRequest,
    scores: Tensor | None,
    kept: np.ndarray | None,
) -> Iterator[tuple[str, Restored]]:
    """The masks of the wanted structures of a task on the input grid, after the task's clean-up.

    A softmax is decided there, among all channels; a clean-up needs masks before that, one by one.

    Args:
        image: of the session.
        runner: whose scores they are.
        request: the task and the wanted structures.
        scores: (C, D, H, W), blended, on the grid of `image.tensor`; may be changed. None where the task
            visited no patch: then all masks are empty.
        kept: (D, H, W) bool; there is nothing in the other voxels. None keeps all.

    Yields:
        Structure, and its mask within a box of the input grid.
    """
    if scores is None:
        yield from ((structure, (EMPTY_BOX, np.zeros((0, 0, 0), bool))) for structure in request.structures)
        return
    outside = None if kept is None else torch.from_numpy(~kept).to(scores.device)
    if runner.decides_by_winner and not request.task.postprocessing:
        channels = list(request.task.structures.values())
        if outside is not None:
            scores[channels] = scores[channels].masked_fill(outside, LOWEST_SCORE)
        masks = restore_winners(image.unpad(scores), image.prepared, channels)
        found = dict(zip(request.task.structures, masks, strict=True))
        yield from ((structure, found[structure]) for structure in request.structures)
        return
    cleaned = _clean_scores(image, runner, request.task, scores, outside)
    for structure in request.structures:
        yield structure, restore(cleaned[structure], image.prepared, runner.threshold)


def _clean_scores(
    image: SessionImage, runner: NetworkRunner, task: Task, blended: Tensor, outside: Tensor | None
) -> dict[str, Tensor]:
    """Scores of a task's structures on the grid of the prepared image, after the task's clean-up."""
    scores = runner.structure_scores(blended, task)
    if outside is not None:
        scores = {structure: score.masked_fill(outside, 0) for structure, score in scores.items()}
    scores = {structure: image.unpad(score) for structure, score in scores.items()}
    return apply_postprocessing(scores, task.postprocessing, runner.threshold)
