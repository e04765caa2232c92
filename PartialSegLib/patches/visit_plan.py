"""What a prediction visits: for each task its patches, and the voxels whose scores count.

Views follow from the image, the model and the tasks that are asked for together, never from their order or
from what is kept of earlier ones; so results depend on neither. Which tasks are asked for together matters
only where patches are planned on slabs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..processing.restoration import Restored
from .slice_selection import index_ranges
from .sliding_window import Patch


@dataclass(frozen=True, eq=False)
class CoarseShare:
    """Where the result of a coarse model is enough for a task.

    Attributes:
        voxels: (D, H, W) bool: those that no patch of the task holds.
        masks: of the task's structures: a box of the input grid (z, y, x), and the coarse mask within it.
        patches: those that touch the task's region and are not visited for it.
    """

    voxels: np.ndarray
    masks: Mapping[str, Restored]
    patches: frozenset[Patch]


@dataclass(frozen=True, eq=False)
class TaskView:
    """What one task looks at.

    Attributes:
        patches: in ascending order of their start.
        kept: (D, H, W) bool; the other voxels get the score 0. None keeps all.
        slices: (D) bool, over the axial slices of the input grid: whether any score or coarse mask is wanted
            there.
        remark: how the region was chosen, for the provenance; None where none was asked for.
        coarse: where the masks of a coarse model are taken instead of scores; None for nowhere.
    """

    patches: list[Patch]
    kept: np.ndarray | None
    slices: np.ndarray
    remark: str | None = None
    coarse: CoarseShare | None = None


def touching(patches: Sequence[Patch], kept: np.ndarray | None) -> list[Patch]:
    """The patches that hold a kept voxel.

    Every patch over a kept voxel is among them, so its score is the same to the bit as if all were visited.
    """
    return [patch for patch in patches if kept is None or patch.touches(kept)]


def all_of(parts: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
    """Voxels that all parts keep, each of a shape that can be broadcast; None when there is no part."""
    if not parts:
        return None
    kept = np.broadcast_to(parts[0], shape)
    for part in parts[1:]:
        kept = kept & part
    return kept


def visits(views: Mapping[int, TaskView]) -> list[tuple[Patch, list[int]]]:
    """Each patch that any task visits, once, in ascending order, with the numbers of those tasks."""
    numbers: dict[Patch, list[int]] = {}
    for number, view in views.items():
        for patch in view.patches:
            numbers.setdefault(patch, []).append(number)
    return sorted(numbers.items(), key=lambda item: item[0].start)


def describe_visits(views: Mapping[str, TaskView], planned: int) -> dict[str, Any]:
    """What is visited and what is skipped, as plain JSON.

    Args:
        views: by the name of the task.
        planned: patches that cover the image.

    Returns:
        `patches`: how many are `visited` by any task, `of` how many, and the share `skipped`; `tasks`: for
        each the same of its own patches and of the axial `slices` of the input grid, and `skipped_slices`,
        the first and last index of each run of skipped ones. Where the result of a coarse model can be
        enough, `patches` also say in how many it is, as `coarse`; these are not skipped.
    """
    tasks = {}
    for name, view in views.items():
        tasks[name] = {
            "patches": _describe_patches([view], planned),
            "slices": _share(int(view.slices.sum()), len(view.slices)),
            "skipped_slices": index_ranges(~view.slices),
        } | ({"region": view.remark} if view.remark else {})
    return {"patches": _describe_patches(views.values(), planned), "tasks": tasks}


def _describe_patches(views: Collection[TaskView], planned: int) -> dict[str, Any]:
    """Of all patches how many any of the views visits, leaves to the coarse model, or skips."""
    visited = {patch for view in views for patch in view.patches}
    shares = [view.coarse for view in views if view.coarse is not None]
    coarse = frozenset[Patch]().union(*(share.patches for share in shares)) - visited
    return _share(len(visited), planned, len(coarse) if shares else None)


def _share(visited: int, planned: int, coarse: int | None = None) -> dict[str, Any]:
    skipped = max(0, planned - visited - (coarse or 0))
    return {
        "visited": visited,
        **({} if coarse is None else {"coarse": coarse}),
        "of": planned,
        "skipped": round(skipped / planned, 3) if planned else 0.0,
    }
