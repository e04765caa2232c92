"""The patches of one image: encoded once and kept, scored for any task, blended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .feature_cache import FeatureCache, Features
from .network_runner import NetworkRunner
from .session_image import SessionImage
from .sliding_window import Patch, PatchBlender, gaussian_weight
from .task import Task
from .visit_plan import TaskView, visits

STAGES = ("preprocess", "encode", "head", "restore")

Progress = Callable[[int, int], object]
"""Called with the patches done and the patches in total; may raise `Cancelled`."""


class PatchScoring:
    """Visits patches for tasks; what was encoded for one task serves the next.

    Args:
        runner: of the network.
        flips: axes (of D, H, W) along which each patch is mirrored, one entry for each time it is encoded.
        cache_bytes: budget for features.

    Attributes:
        cache: of the features.
        seconds: per stage since `forget`.
        patches_encoded: forward passes since `forget`.
    """

    def __init__(self, runner: NetworkRunner, flips: Sequence[tuple[int, ...]], cache_bytes: int) -> None:
        self.runner = runner
        self.flips = flips
        self.cache = FeatureCache(cache_bytes)
        self._weight = gaussian_weight(runner.inference.patch_size).to(runner.device)
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
        scores_device: torch.device,
        on_progress: Progress,
    ) -> dict[int, PatchBlender]:
        """Visit the patches that any task looks at, once for all of these tasks.

        Args:
            image: whose patches they are.
            tasks: by their numbers.
            views: what each of them looks at.
            scores_device: where scores are collected.
            on_progress: called after each patch.

        Returns:
            Per task number a blender with the scores of all of its patches; none for a task without patches.
        """
        blenders: dict[int, PatchBlender] = {}
        plan = visits(views)
        for done, (patch, numbers) in enumerate(plan, start=1):
            for flip in self.flips:
                features = self._features(image, patch, flip)
                with self.stage("head"):
                    wanted = {number: tasks[number] for number in numbers}
                    for number, scores in zip(numbers, self.runner.score(features, wanted), strict=True):
                        if number not in blenders:
                            blenders[number] = PatchBlender(
                                image.tensor.shape, len(scores), self._weight, scores_device
                            )
                        if flip:
                            scores = scores.flip([axis + 1 for axis in flip])
                        blenders[number].add(patch, scores)
            on_progress(done, len(plan))
        return blenders

    def describe_decisions(self) -> dict[str, Any]:
        """What the network decided about the patches, as plain JSON; empty for those that decide nothing."""
        decided = [self._decisions[key] for key in sorted(self._decisions)]
        return {"decisions": self.runner.network.describe_decisions(decided)} if decided else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        start = perf_counter()
        try:
            yield
            if self.runner.device.type == "cuda":
                torch.cuda.synchronize(self.runner.device)
        finally:
            self.seconds[name] += perf_counter() - start

    def _features(self, image: SessionImage, patch: Patch, flip: tuple[int, ...]) -> Features:
        def encode() -> Features:
            self.patches_encoded += 1
            with self.stage("encode"):
                return self.runner.encode(image.tensor[patch.slices].flip(flip))

        features = self.cache.get_or_compute((patch.start, flip), encode)
        decided = self.runner.network.decisions(features)
        if decided is not None:
            self._decisions[patch.start, flip] = decided.cpu()
        return features
