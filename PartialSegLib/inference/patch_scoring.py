"""The patches of one image: encoded once and kept, scored for any task, blended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..engines.network_runner import NetworkRunner
from ..patches.blending import PatchBlender, ScoreKeeper
from ..patches.feature_cache import FeatureCache, Features
from ..patches.sliding_window import Patch, mirrored_patches, patch_weight
from ..patches.visit_plan import TaskView, touching, visits
from ..task import Task
from .session_image import SessionImage

STAGES = ("preprocess", "encode", "head", "restore")

Flip = tuple[int, ...]
"""Axes (of D, H, W) that are mirrored."""

Keeper = TypeVar("Keeper", bound=ScoreKeeper)

Progress = Callable[[int, int], object]
"""Called with the patches done and the patches in total; may raise `Cancelled`."""


def all_flips(axes: Sequence[int]) -> list[Flip]:
    """All combinations of axes, none of them first."""
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


class PatchScoring:
    """Visits patches for tasks; what was encoded for one task serves the next.

    Args:
        runner: of the network.
        flips: how patches or the image are mirrored, as the manifest says, one entry for each time.
        cache_bytes: budget for features.

    Attributes:
        cache: of the features.
        seconds: per stage since `forget`.
        patches_encoded: forward passes since `forget`.
    """

    def __init__(self, runner: NetworkRunner, flips: Sequence[Flip], cache_bytes: int) -> None:
        self.runner = runner
        self.flips = flips
        self.cache = FeatureCache(cache_bytes)
        inference = runner.inference
        self._weight = patch_weight(inference.patch_size, inference.weighting).to(runner.device)
        self._finish = partial(torch.softmax, dim=0) if inference.second_softmax else None
        self.forget()

    def forget(self) -> None:
        """Drop what is known of an image."""
        self.cache.clear()
        self._decisions: dict[Any, Tensor] = {}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.patches_encoded = 0

    def blend(
        self,
        image: SessionImage,
        tasks: Mapping[int, Task],
        views: Mapping[int, TaskView],
        start_keeping: Callable[[int, int], Keeper],
        on_progress: Progress,
        device: torch.device,
    ) -> dict[int, Keeper]:
        """Visit the patches that any task looks at, once for all of these tasks.

        Args:
            image: whose patches they are.
            tasks: by their numbers.
            views: what each of them looks at.
            start_keeping: makes what keeps the blended scores of a task, from its number and the number of
                their channels.
            on_progress: called after each patch.
            device: where scores are summed up.

        Returns:
            Per task number what has been kept; nothing for a task without patches.
        """
        self._decisions.clear()
        passes = self._passes(image, views)
        total, done = sum(len(plan) for _, plan in passes), 0
        weight = self._weight.to(device)

        def start(number: int, channels: int) -> tuple[PatchBlender, Keeper]:
            keeper = start_keeping(number, channels)
            return PatchBlender(image.tensor.shape, channels, weight, keeper, self._finish), keeper

        blending = _Blending(start)
        for flips, plan in passes:
            for patch, numbers in plan:
                wanted = {number: tasks[number] for number in numbers}
                with self.stage("restore"):
                    blending.hand_on(wanted, patch.start[0])
                for flip in flips:
                    self._visit(image, patch, flip, wanted, blending)
                done += 1
                on_progress(done, total)
            with self.stage("restore"):
                blending.finish_pass()
        return blending.keepers

    def _visit(
        self,
        image: SessionImage,
        patch: Patch,
        flip: Flip,
        wanted: Mapping[int, Task],
        blending: _Blending[Keeper],
    ) -> None:
        """Score a patch for some tasks, given by their numbers, and blend the scores as they come."""
        features = self._features(image, patch, flip)
        with self.stage("head"):
            for number, scores in zip(wanted, self.runner.score(features, wanted), strict=True):
                if flip:
                    scores = scores.flip([axis + 1 for axis in flip])
                blending.of(number, len(scores)).add(patch, scores)

    @property
    def num_passes(self) -> int:
        """How often an image is gone through."""
        return 1 if self.runner.inference.mirroring == "patches" else len(self.flips)

    def _passes(
        self, image: SessionImage, views: Mapping[int, TaskView]
    ) -> list[tuple[Sequence[Flip], list[tuple[Patch, list[int]]]]]:
        """How patches are flipped in each pass over the image, and which are visited, see `visits`.

        A mirrored image has patches of its own; of these a task visits all that hold a kept voxel.
        """
        if self.runner.inference.mirroring == "patches":
            return [(self.flips, visits(views))]
        passes: list[tuple[Sequence[Flip], list[tuple[Patch, list[int]]]]] = []
        for flip in self.flips:
            patches = mirrored_patches(image.patches, image.tensor.shape, flip)
            of_flip = {
                number: replace(view, patches=touching(patches, view.kept)) if flip else view
                for number, view in views.items()
            }
            passes.append(([flip], visits(of_flip)))
        return passes

    def describe_decisions(self) -> dict[str, Any]:
        """What the network decided about the patches, as plain JSON; empty for those that decide nothing."""
        decided = [self._decisions[key] for key in sorted(self._decisions)]
        return {"decisions": self.runner.network.describe_decisions(decided)} if decided else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to a stage, but for those of stages within it."""
        start, before = perf_counter(), sum(self.seconds.values())
        try:
            yield
            if self.runner.device.type == "cuda":
                torch.cuda.synchronize(self.runner.device)
        finally:
            within = sum(self.seconds.values()) - before
            self.seconds[name] += perf_counter() - start - within

    def _features(self, image: SessionImage, patch: Patch, flip: Flip) -> Features:
        def encode() -> Features:
            self.patches_encoded += 1
            with self.stage("encode"):
                return self.runner.encode(image.tensor[patch.slices].flip(flip))

        features = self.cache.get_or_compute((patch.start, flip), encode)
        decided = self.runner.network.decisions(features)
        if decided is not None:
            self._decisions[patch.start, flip] = decided.cpu()
        return features


class _Blending(Generic[Keeper]):
    """What blends the scores of each task and what keeps them, made when the first scores of it come.

    Args:
        start: makes both, from the number of the task and the number of its channels.

    Attributes:
        keepers: by the numbers of the tasks.
    """

    def __init__(self, start: Callable[[int, int], tuple[PatchBlender, Keeper]]) -> None:
        self._start = start
        self._blenders: dict[int, PatchBlender] = {}
        self.keepers: dict[int, Keeper] = {}

    def of(self, number: int, channels: int) -> PatchBlender:
        """The blender of a task."""
        if number not in self._blenders:
            self._blenders[number], self.keepers[number] = self._start(number, channels)
        return self._blenders[number]

    def hand_on(self, numbers: Iterable[int], start: int) -> None:
        """Finish, for some tasks, the slices before `start`, which no further patch of theirs reaches."""
        for number in self._blenders.keys() & numbers:
            self._blenders[number].hand_on(start)

    def finish_pass(self) -> None:
        """Hand on all that is left of all tasks."""
        for blender in self._blenders.values():
            blender.finish_pass()
