"""What a prediction is asked for: tasks, and which of their structures to return."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from .errors import InputError
from .manifest import Manifest
from .sentences import suggestion
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

    Where no name is exactly the one given, capitals do not count, "_" and "-" are blanks, and commas separate
    several names.

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
    qualified = {f"{task.name}/{structure}" for _, task in candidates for structure in task.structures}
    wanted = known if structures is None else set(_meant(structures, known | qualified))
    for structure in sorted(wanted - known - qualified):
        raise InputError(f"No chosen task yields {structure!r}; {suggestion(structure, sorted(known))}.")
    requests = (
        TaskRequest(number, task, [s for s in task.structures if s in wanted or f"{task.name}/{s}" in wanted])
        for number, task in candidates
    )
    return [request for request in requests if request.structures]


def tasks_named(manifest: Manifest, names: str | Iterable[str] | None = None) -> list[tuple[int, Task]]:
    """Index and task for each name, in the order asked for, each once; all tasks for None.

    Names are matched as in `request_tasks`.

    Raises:
        InputError: a name is no task of this model.
    """
    tasks = {task.name: (index, task) for index, task in enumerate(manifest.tasks)}
    wanted = list(tasks if names is None else _meant(names, tasks))
    for name in wanted:
        if name not in tasks:
            raise InputError(f"Unknown task {name!r} of model {manifest.name}; {suggestion(name, tasks)}.")
    return [tasks[name] for name in dict.fromkeys(wanted)]


def _meant(given: str | Iterable[str], names: Collection[str]) -> Iterator[str]:
    """The names that texts stand for; what is none of them comes as it is.

    Raises:
        InputError: something else than texts is given.
    """
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if others := [text for text in texts if not isinstance(text, str)]:
        raise InputError(f"Tasks and structures are given by their names, not as {others[0]!r}.")
    for text in texts:
        parts = [text] if _closest(text, names) in names else text.split(",")
        given_parts = [part.strip() for part in parts if part.strip()] or parts
        yield from (_closest(part, names) for part in given_parts)


def _closest(text: str, names: Collection[str]) -> str:
    """The name itself, or the only one that is the same but for capitals, "_" and "-"."""
    same = [name for name in names if _plain(name) == _plain(text)]
    return same[0] if text not in names and len(same) == 1 else text


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")
