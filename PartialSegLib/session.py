"""The session: a model and one image, encoded once; every task is then a cheap head on the kept features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import __version__
from .devices import choose_device, choose_precision, explained_memory_errors
from .errors import InputError
from .feature_cache import FeatureCache, Features
from .model import Model, load_model
from .network_runner import NetworkRunner
from .postprocessing import apply_postprocessing
from .preprocessing import Restored, restore, restore_winners
from .region import Region
from .segmentation import Segmentation
from .session_image import SessionImage
from .sliding_window import Patch, PatchBlender, gaussian_weight
from .task import Task
from .task_request import TaskRequest, request_tasks
from .volume import Volume, read_volume

Progress = Callable[[int, int], object]
"""Called with the patches done and the patches in total; may raise `Cancelled`."""
Limits = Sequence[float] | Sequence[Sequence[float]]
LOWEST_SCORE = -6e4  # that float16 can hold
STAGES = ("preprocess", "encode", "head", "restore")


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""


class InferenceSession:
    """Segments any number of tasks of one image; what is computed for one task serves the next.

    Args:
        model: from `load_model`; the session works on a copy of its network.
        device: auto, cpu, cuda, cuda:N or mps.
        cache_bytes: budget for features; results do not depend on it.
        overlap: of neighbouring patches, in [0, 1); None takes the manifest's.
        mirror: average over all flips of the manifest's mirror axes, at 2 to 8 times the cost.
        precision: of the convolutions: auto, float32, bfloat16 or float16.

    Attributes:
        timings: seconds per stage since `set_image`: preprocess, encode, head, restore.
        patches_encoded: forward passes since `set_image`.

    Raises:
        InputError: unknown device or precision, wrong overlap, or mirroring a model without mirror axes.
        DeviceError: the device is missing or out of memory.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        cache_bytes: int = 2 << 30,
        *,
        overlap: float | None = None,
        mirror: bool = False,
        precision: str = "auto",
    ) -> None:
        inference = model.manifest.inference
        self.model = model
        self.device = choose_device(device)
        self.overlap = inference.overlap if overlap is None else overlap
        if not 0 <= self.overlap < 1:
            raise InputError(
                f"The overlap is a fraction in [0, 1), such as {inference.overlap}, not {overlap}."
            )
        if mirror and not inference.mirror_axes:
            raise InputError(f"Model {model.manifest.name} has no axes to mirror; use it without mirroring.")
        self._flips = _subsets(inference.mirror_axes if mirror else ())
        with explained_memory_errors(self.device):
            self._runner = NetworkRunner(model, self.device, choose_precision(self.device, precision))
            self._weight = gaussian_weight(inference.patch_size).to(self.device)
        self._cache = FeatureCache(cache_bytes)
        self._image: SessionImage | None = None
        self.reset_image()

    def set_image(self, volume: Volume, crop_to_body: bool | None = None) -> None:
        """Prepare a volume for `predict`; nothing is encoded yet, and the image before is forgotten.

        Args:
            volume: a CT in HU, any orientation and spacing.
            crop_to_body: look only at the box around the body, which saves time where there is much air; None
                does what the manifest says.

        Raises:
            InputError: voxels are NaN or infinite.
            DeviceError: out of memory.
        """
        self.reset_image()
        with explained_memory_errors(self.device), torch.inference_mode(), self._stage("preprocess"):
            manifest = self.model.manifest
            crop = manifest.preprocessing.crop_to_body if crop_to_body is None else crop_to_body
            self._image = SessionImage.prepare(volume, manifest, self.overlap, self.device, crop)

    def reset_image(self) -> None:
        """Forget the image and its features."""
        self._image = None
        self._cache.clear()
        self.timings = dict.fromkeys(STAGES, 0.0)
        self.patches_encoded = 0

    def predict(
        self,
        tasks: str | Iterable[str] | None = None,
        on_progress: Progress = ignore_progress,
        structures: str | Iterable[str] | None = None,
        roi: Limits | None = None,
    ) -> Segmentation:
        """Segment the image; only patches without kept features are encoded.

        Args:
            tasks: names of tasks; None for all that yield a wanted structure.
            on_progress: called after each patch; when it raises `Cancelled`, the session stays usable.
            structures: ids of the structures to return; None for all of the tasks.
            roi: region of interest in RAS mm, ((x0, x1), (y0, y1), (z0, z1)): only patches that touch it are
                visited, and masks are empty outside. Components count with what lies inside.

        Returns:
            Masks on the grid of the volume given to `set_image`, keyed by task and structure.

        Raises:
            InputError: no image set, unknown task or structure, or a region outside the image.
            DeviceError: out of memory; the session stays usable.
        """
        image = self._require_image()
        requests = request_tasks(self.model.manifest, tasks, structures)
        region = None if roi is None else Region.from_limits(roi)
        kept = None if region is None else image.kept_voxels(region)
        patches = [patch for patch in image.patches if kept is None or patch.touches(kept)]
        segmentation = Segmentation(
            image.prepared.input_shape, image.prepared.affine, self._provenance(region)
        )
        with explained_memory_errors(self.device), torch.inference_mode():
            blenders = self._blend(image, patches, requests, on_progress)
            with self._stage("restore"):
                for request in requests:
                    scores = blenders.pop(request.number).scores()
                    for structure, (box, mask) in self._restored(image, request, scores, kept):
                        if region is not None:
                            region.clear_outside(mask, box, image.prepared.affine)
                        segmentation.add(request.task.name, structure, box, mask)
        return segmentation

    @property
    def precision(self) -> str:
        """The type that convolutions run in: float32, bfloat16 or float16."""
        return str(self._runner.dtype).removeprefix("torch.")

    @property
    def patches_planned(self) -> int:
        """Patches that cover the image; 0 without one."""
        return len(self._image.patches) if self._image is not None else 0

    def _require_image(self) -> SessionImage:
        if self._image is None:
            raise InputError("The session has no image; call set_image(volume) first.")
        return self._image

    def _blend(
        self, image: SessionImage, patches: list[Patch], requests: list[TaskRequest], on_progress: Progress
    ) -> dict[int, PatchBlender]:
        """Visit the patches; per task number a blender with the scores of all of them."""
        blenders: dict[int, PatchBlender] = {}
        for done, patch in enumerate(patches, start=1):
            for flip in self._flips:
                features = self._features(image, patch, flip)
                with self._stage("head"):
                    for number, task, _ in requests:
                        scores = self._runner.score(features, number, task)
                        if number not in blenders:
                            blenders[number] = PatchBlender(image.tensor.shape, len(scores), self._weight)
                        if flip:
                            scores = scores.flip([axis + 1 for axis in flip])
                        blenders[number].add(patch, scores)
            on_progress(done, len(patches))
        return blenders

    def _features(self, image: SessionImage, patch: Patch, flip: tuple[int, ...]) -> Features:
        def encode() -> Features:
            self.patches_encoded += 1
            with self._stage("encode"):
                return self._runner.encode(image.tensor[patch.slices].flip(flip))

        return self._cache.get_or_compute((patch.start, flip), encode)

    def _restored(
        self, image: SessionImage, request: TaskRequest, scores: Tensor, kept: np.ndarray | None
    ) -> Iterator[tuple[str, Restored]]:
        """The masks of the wanted structures of a task on the input grid, after the task's clean-up.

        A softmax is decided there, among all channels; a clean-up needs masks before that, one by one.
        """
        outside = None if kept is None else torch.from_numpy(~kept).to(self.device)
        if self._runner.decides_by_winner and not request.task.postprocessing:
            channels = list(request.task.structures.values())
            if outside is not None:
                scores[channels] = scores[channels].masked_fill(outside, LOWEST_SCORE)
            masks = restore_winners(image.unpad(scores), image.prepared, channels)
            found = dict(zip(request.task.structures, masks, strict=True))
            yield from ((structure, found[structure]) for structure in request.structures)
            return
        cleaned = self._clean_scores(image, request.task, scores, outside)
        for structure in request.structures:
            yield structure, restore(cleaned[structure], image.prepared, self._runner.threshold)

    def _clean_scores(
        self, image: SessionImage, task: Task, blended: Tensor, outside: Tensor | None
    ) -> dict[str, Tensor]:
        """Scores of a task's structures on the grid of the prepared image, after the task's clean-up."""
        scores = self._runner.structure_scores(blended, task)
        if outside is not None:
            scores = {structure: score.masked_fill(outside, 0) for structure, score in scores.items()}
        scores = {structure: image.unpad(score) for structure, score in scores.items()}
        return apply_postprocessing(scores, task.postprocessing, self._runner.threshold)

    def _provenance(self, region: Region | None) -> dict[str, Any]:
        manifest = self.model.manifest
        return {
            "software": f"PartialSeg {__version__}",
            "model": manifest.name,
            "model_version": manifest.version,
            "weights_sha256": self.model.sha256,
            "overlap": self.overlap,
            "mirror": len(self._flips) > 1,
            "precision": self.precision,
            "device": self.device.type,
            "roi": region and [list(bound) for bound in region.bounds],
        }

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to the timings."""
        start = perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.timings[name] += perf_counter() - start


def segment(
    volume: Volume | str | Path,
    model: Model | str | Path,
    tasks: str | Iterable[str] | None = None,
    **options: Any,
) -> Segmentation:
    """Segment one image in one call.

    Args:
        volume: a volume, or what `read_volume` reads.
        model: a model, or what `load_model` loads.
        tasks: names of tasks; None for all.
        options: of `InferenceSession`; no features are kept unless `cache_bytes` says so.

    Returns:
        Masks on the grid of the volume.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    session = InferenceSession(loaded, **{"cache_bytes": 0, **options})
    session.set_image(volume if isinstance(volume, Volume) else read_volume(volume))
    return session.predict(tasks)


def _subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of axes, none of them first."""
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]
