"""Look before you compute: how a session chooses what each task looks at in an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from ..errors import InputError
from ..manifest import Manifest
from ..masks.region import Region
from ..model import Model
from ..patches.choice import choose_patches, covered_voxels
from ..patches.slice_selection import FAST_CONTEXT_MM, keep_slices, plan_on_slabs, reduce_slices, slice_scores
from ..patches.sliding_window import Patch
from ..patches.visit_plan import CoarseShare, TaskView, all_of, touching
from ..sentences import suggestion
from ..task_request import TaskRequest
from .coarse_findings import CoarseFindings, MarkedRegion, mark_region
from .region_selection import CoarsePass, body_voxels, check_effort
from .score_keeping import winners_are_enough
from .session_image import SessionImage

MODES = ("auto", "off", "exact", "fast")


@dataclass(frozen=True, eq=False)
class Selection:
    """What a session may leave out.

    Attributes:
        mode: off, exact or fast; of the slices a decision network keeps, and, if fast, of the regions that a
            coarse model marks, on which patches are then planned.
        skip_air: whether air and table around the body are left out.
        coarse: the model that looks first, if any.
    """

    mode: str
    skip_air: bool = False
    coarse: CoarsePass | None = None

    @classmethod
    def for_model(
        cls, model: Model, mode: str, skip_air: bool, region_from: CoarsePass | Model | None
    ) -> Selection:
        """Decide what is meant by the options of a session; "off" turns all of them off.

        Raises:
            InputError: there is no such mode, or it does not go with the model or another option.
        """
        if mode not in MODES:
            raise InputError(f"Unknown selection {mode!r}; {suggestion(mode, list(MODES))}.")
        if model.decision is None and (mode == "exact" or (mode == "fast" and region_from is None)):
            wanting = "" if mode == "exact" else " and no coarse model looks first"
            raise InputError(
                f"Model {model.manifest.name} has no decision network to select slices with{wanting}; "
                "choose the selection off or auto."
            )
        if mode == "exact" and skip_air:
            raise InputError(
                "The exact selection leaves the scores of air as they are; choose fast or auto to skip air."
            )
        if mode == "off":
            return cls(mode)
        coarse = CoarsePass(region_from) if isinstance(region_from, Model) else region_from
        if mode == "auto":
            spec = model.manifest.decision
            asks = model.decision is not None and spec is not None and spec.automatic and not skip_air
            mode = "exact" if asks else "off"
        return cls(mode, skip_air, coarse)

    def describe(self) -> dict[str, Any]:
        """Plain JSON for the provenance."""
        coarse = self.coarse and self.coarse.describe()
        return {"slices": self.mode, "skip_air": self.skip_air, "region_from": coarse}


@dataclass(frozen=True, eq=False)
class SelectedImage:
    """An image, and what was chosen of it before any task was asked for.

    Attributes:
        image: of the session.
        manifest: of the model.
        selection: how to choose.
        overlap: shared fraction of neighbouring patches.
        slices: (T, S) bool, the axial slices of `image.prepared.tensor` that each task keeps; None for all.
        body: (D, H, W) bool, over `image.tensor`; None for everything.
    """

    image: SessionImage
    manifest: Manifest
    selection: Selection
    overlap: float
    slices: np.ndarray | None
    body: np.ndarray | None

    @classmethod
    def select(cls, image: SessionImage, model: Model, selection: Selection, overlap: float) -> SelectedImage:
        """Ask the decision network, once for all tasks, and look for the body, where these are wanted."""
        manifest, slices, body = model.manifest, None, None
        spec = manifest.decision
        if selection.mode != "off" and spec is not None and model.decision is not None:
            squares = reduce_slices(image.prepared.tensor, image.axial, spec.input_size)
            slices = keep_slices(slice_scores(model.decision, squares, spec), spec)
        if selection.skip_air:
            body = image.pad(body_voxels(image.prepared, manifest.preprocessing))
        return cls(image, manifest, selection, overlap, slices, body)

    def with_effort(self, effort: float | None) -> SelectedImage:
        """The same with another effort of the coarse model's; None, or no coarse model, changes nothing.

        Raises:
            InputError: the effort is not in [0, 1].
        """
        if effort is None:
            return self
        check_effort(effort)
        coarse = self.selection.coarse
        return replace(
            self, selection=replace(self.selection, coarse=coarse and replace(coarse, effort=effort))
        )

    def views(
        self,
        requests: Sequence[TaskRequest],
        region: Region | None,
        find_coarsely: Callable[[], CoarseFindings] | None,
    ) -> dict[int, TaskView]:
        """What each task looks at, by its number.

        Args:
            requests: tasks.
            region: of interest; None for everything.
            find_coarsely: returns what the coarse model finds; None where there is no such model.

        Raises:
            InputError: the region lies outside the image, or outside the body it was cropped to.
        """
        common = [] if region is None else [self.image.kept_voxels(region)]
        common += [] if self.body is None else [self.body]
        shape = self.image.tensor.shape
        shared = all_of(common, shape)  # by all tasks that keep no less
        found = find_coarsely() if find_coarsely is not None and requests else None
        kept: dict[int, np.ndarray | None] = {}
        regions: dict[int, MarkedRegion | None] = {}
        for number, task, _ in requests:
            parts, marked = [] if shared is None else [shared], None
            if self.slices is not None:
                parts.append(self.image.pad_slices(self.slices[number]))
            if self.selection.coarse is not None and found is not None:
                marked = mark_region(task, self.selection.coarse, found, self.image)
                parts += [] if marked.voxels is None else [marked.voxels]
                marked = replace(marked, voxels=None)  # many tasks have many of them
            kept[number], regions[number] = all_of(parts, shape), marked
        patches = self._plan(list(kept.values()))
        views = {}
        for number, task, _ in requests:
            voxels, marked = kept.pop(number), regions[number]
            is_mixed = marked is not None and marked.masks is not None
            by_winner = winners_are_enough(self.manifest.inference, task) and not is_mixed
            view = TaskView(touching(patches, voxels), voxels, self.image.input_slices(voxels, by_winner))
            views[number] = self._choose(view, marked, found)
        return views

    def _choose(self, view: TaskView, marked: MarkedRegion | None, found: CoarseFindings | None) -> TaskView:
        """Choose which patches of a view are visited, and which are left to the coarse model."""
        coarse = self.selection.coarse
        if marked is None or found is None or coarse is None:
            return view
        kept = view.kept
        if marked.masks is None or kept is None:
            return replace(view, remark=marked.remark)
        uncertain = kept & found.uncertain_voxels(marked.keys, self.image)
        chosen = choose_patches(view.patches, uncertain, coarse.effort)
        covered = covered_voxels(chosen, kept.shape)
        share = CoarseShare(kept & ~covered, marked.masks, frozenset(view.patches).difference(chosen))
        return TaskView(chosen, kept & covered, view.slices, marked.remark, share)

    def _plan(self, kept: list[np.ndarray | None]) -> list[Patch]:
        """The patches of the whole image, or those of slabs of what any of the tasks keeps, axis by axis.

        Slices that a decision network keeps get some context; the margin of a coarse model is enough.
        """
        patches = self.image.patches
        masks = [voxels for voxels in kept if voxels is not None]
        if self.selection.mode != "fast" or len(masks) < len(kept):
            return patches
        for axis in range(3):
            across = tuple(other for other in range(3) if other != axis)
            slices = np.logical_or.reduce([voxels.any(axis=across) for voxels in masks])
            if not slices.any():
                return []
            needs_context = axis == self.image.axial and self.slices is not None
            context = FAST_CONTEXT_MM / self.manifest.preprocessing.spacing[axis] if needs_context else 0
            patches = plan_on_slabs(patches, slices, axis, self.overlap, ceil(context))
        return patches
