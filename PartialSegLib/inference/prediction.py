"""Tasks of an image with their blended scores, on the way to masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..engines.network_runner import NetworkRunner
from ..patches.visit_plan import TaskView
from ..processing.restoration import Restored
from ..task import Task
from ..task_request import TaskRequest
from .mask_restoration import restore_masks
from .score_keeping import Kept
from .session_image import SessionImage


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was computed for some tasks of an image.

    Attributes:
        image: of the session.
        requests: the tasks, in the order in which masks are wanted.
        views: what each task looked at, by its number.
        kept: its blended scores, or what is kept instead; nothing for a task that visited no patch.
    """

    image: SessionImage
    requests: list[TaskRequest]
    views: dict[int, TaskView]
    kept: dict[int, Kept]

    def masks(self, runner: NetworkRunner) -> Iterator[tuple[Task, str, Restored]]:
        """Task, structure and mask of all that is wanted; scores of a task are given up with its last mask.

        Args:
            runner: of the network whose scores they are.
        """
        for request in self.requests:
            view, kept = self.views[request.number], self.kept.pop(request.number, None)
            for structure, restored in restore_masks(self.image, runner, request, kept, view):
                yield request.task, structure, restored
