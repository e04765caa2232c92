"""What a prediction is asked for: tasks, and which of their structures to return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .errors import InputError
from .json_fields import suggestion
from .model import Model
from .task import Task


class TaskRequest(NamedTuple):
    """A task to run, its number in the network, and the structures to return."""

    number: int
    task: Task
    structures: list[str]


def request_tasks(
    model: Model, tasks: str | Iterable[str] | None, structures: str | Iterable[str] | None
) -> list[TaskRequest]:
    """Find the tasks that are to run.

    Args:
        model: whose tasks they are.
        tasks: names of tasks; None for all.
        structures: ids of the structures to return, which drops tasks without any of them; None for all.

    Raises:
        InputError: unknown task, or a structure that none of the tasks yields.
    """
    candidates = model.tasks_named(tasks)
    known = {structure for _, task in candidates for structure in task.structures}
    wanted = set([structures] if isinstance(structures, str) else known if structures is None else structures)
    for structure in sorted(wanted - known):
        raise InputError(f"No chosen task yields {structure!r}; {suggestion(structure, sorted(known))}.")
    return [
        TaskRequest(number, task, [structure for structure in task.structures if structure in wanted])
        for number, task in candidates
        if not wanted.isdisjoint(task.structures)
    ]
