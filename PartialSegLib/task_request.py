"""What a prediction is asked for: tasks, and which of their structures to return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .errors import InputError
from .json_fields import suggestion
from .manifest import Manifest
from .task import Task


class TaskRequest(NamedTuple):
    """A task to run, its number in the network, and the structures to return."""

    number: int
    task: Task
    structures: list[str]


def request_tasks(
    manifest: Manifest, tasks: str | Iterable[str] | None, structures: str | Iterable[str] | None
) -> list[TaskRequest]:
    """Find the tasks that are to run.

    Args:
        manifest: of the model whose tasks they are.
        tasks: names of tasks; None for all.
        structures: ids of the structures to return, which drops tasks without any of them; "task/structure"
            means that of one task only; None for all.

    Raises:
        InputError: unknown task, or a structure that none of the tasks yields.
    """
    candidates = tasks_named(manifest, tasks)
    known = {structure for _, task in candidates for structure in task.structures}
    wanted = set([structures] if isinstance(structures, str) else known if structures is None else structures)
    qualified = {f"{task.name}/{structure}" for _, task in candidates for structure in task.structures}
    for structure in sorted(wanted - known - qualified):
        raise InputError(f"No chosen task yields {structure!r}; {suggestion(structure, sorted(known))}.")
    requests = (
        TaskRequest(number, task, [s for s in task.structures if s in wanted or f"{task.name}/{s}" in wanted])
        for number, task in candidates
    )
    return [request for request in requests if request.structures]


def tasks_named(manifest: Manifest, names: str | Iterable[str] | None = None) -> list[tuple[int, Task]]:
    """Index and task for each name, in the order asked for, each once; all tasks for None.

    Raises:
        InputError: a name is no task of this model.
    """
    tasks = {task.name: (index, task) for index, task in enumerate(manifest.tasks)}
    wanted = tasks if names is None else [names] if isinstance(names, str) else names
    for name in wanted:
        if name not in tasks:
            raise InputError(f"Unknown task {name!r} of model {manifest.name}; {suggestion(name, tasks)}.")
    return [tasks[name] for name in dict.fromkeys(wanted)]
