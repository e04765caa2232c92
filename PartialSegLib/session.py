"""The session: a model and one image, encoded once; every task is then a cheap head on the kept features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from . import __version__
from .devices import choose_device, choose_precision, explained_memory_errors
from .errors import InputError
from .feature_cache import FeatureCache, Features
from .mask_restoration import restore_masks
from .model import Model, load_model
from .network_runner import NetworkRunner
from .region import Region
from .region_selection import CoarsePass
from .segmentation import Segmentation
from .selection import SelectedImage, Selection
from .session_image import SessionImage
from .sliding_window import Patch, PatchBlender, gaussian_weight
from .task_request import TaskRequest, request_tasks
from .visit_plan import TaskView, describe_visits, visits
from .volume import Volume, read_volume

Progress = Callable[[int, int], object]
"""Called with the patches done and the patches in total; may raise `Cancelled`."""
Limits = Sequence[float] | Sequence[Sequence[float]]
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
        engine: of the convolutions: auto, torch, or openvino, an optional package that makes wide networks
            faster on CPUs.
        selection: which axial slices are looked at. "exact": those that the package's decision network keeps
            for the task, and there with the same scores, to the bit, as if all were; nothing is found in the
            others. "fast": patches are planned on the slices that any of the tasks asked for together keeps,
            which needs fewer of them and changes scores a little. "off": everything, also what the two
            options below would skip. "auto": exact where the package has a decision network, else all slices.
        skip_air: find nothing in air and table around the body, and do not visit patches of these alone;
            scores in the body stay the same to the bit. Not with "exact", which leaves air as it is.
        region_from: a coarse model, or `CoarsePass` with settings, that says where the tasks have anything to
            do: only patches that touch these regions are visited, and masks are empty outside.

    Attributes:
        timings: seconds per stage since `set_image`: preprocess, encode, head, restore.
        patches_encoded: forward passes since `set_image`.

    Raises:
        InputError: unknown device, precision, engine or selection, an engine that cannot run the network,
            wrong overlap, mirroring a model without mirror axes, or selecting slices with a model without
            decision network.
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
        engine: str = "auto",
        selection: str = "auto",
        skip_air: bool = False,
        region_from: CoarsePass | Model | None = None,
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
        self.selection = Selection.for_model(model, selection, skip_air, region_from)
        self._coarse: InferenceSession | None = None
        if coarse := self.selection.coarse:
            self._coarse = InferenceSession(
                coarse.model, device, cache_bytes=0, precision=precision, engine=engine
            )
        self._flips = _subsets(inference.mirror_axes if mirror else ())
        with explained_memory_errors(self.device):
            self._runner = NetworkRunner(model, self.device, choose_precision(self.device, precision), engine)
            self._weight = gaussian_weight(inference.patch_size).to(self.device)
        self._cache = FeatureCache(cache_bytes)
        self._selected: SelectedImage | None = None
        self._found_coarsely: Segmentation | None = None
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
            image = SessionImage.prepare(volume, manifest, self.overlap, self.device, crop)
            selected = SelectedImage.select(image, self.model, self.selection, self.overlap)
            if self._coarse is not None:
                self._coarse.set_image(volume)
            self._selected = selected

    def reset_image(self) -> None:
        """Forget the image and its features."""
        self._selected = None
        self._found_coarsely = None
        if self._coarse is not None:
            self._coarse.reset_image()
        self._cache.clear()
        self._decisions: dict[Any, Tensor] = {}
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
        selected = self._require_selected()
        requests = request_tasks(self.model.manifest, tasks, structures)
        region = None if roi is None else Region.from_limits(roi)
        with explained_memory_errors(self.device), torch.inference_mode():
            find = None if self._coarse is None else partial(self._find_coarsely, self._coarse, on_progress)
            views = selected.views(requests, region, find)
            blenders = self._blend(selected.image, requests, views, on_progress)
            grid = selected.image.prepared.input_shape, selected.image.prepared.affine
            segmentation = Segmentation(*grid, self._provenance(region, requests, views))
            with self._stage("restore"):
                for request in requests:
                    number = request.number
                    scores = blenders.pop(number).scores() if number in blenders else None
                    masks = restore_masks(selected.image, self._runner, request, scores, views[number].kept)
                    for structure, (box, mask) in masks:
                        if region is not None:
                            region.clear_outside(mask, box, segmentation.affine)
                        segmentation.add(request.task.name, structure, box, mask)
        return segmentation

    @property
    def precision(self) -> str:
        """The type that convolutions run in: float32, bfloat16 or float16."""
        return str(self._runner.dtype).removeprefix("torch.")

    @property
    def patches_planned(self) -> int:
        """Patches that cover the image; 0 without one."""
        return len(self._selected.image.patches) if self._selected is not None else 0

    def _require_selected(self) -> SelectedImage:
        if self._selected is None:
            raise InputError("The session has no image; call set_image(volume) first.")
        return self._selected

    def _require_image(self) -> SessionImage:
        return self._require_selected().image

    def _find_coarsely(self, coarse: InferenceSession, on_progress: Progress) -> Segmentation:
        """What the coarse model finds in the image; computed once, with all its tasks."""
        if self._found_coarsely is None:
            waiting = self.patches_planned
            with self._stage("encode"):
                self._found_coarsely = coarse.predict(on_progress=lambda *_: on_progress(0, waiting))
        return self._found_coarsely

    def _blend(
        self,
        image: SessionImage,
        requests: list[TaskRequest],
        views: dict[int, TaskView],
        on_progress: Progress,
    ) -> dict[int, PatchBlender]:
        """Visit the patches; per task number a blender with the scores of all of its patches."""
        blenders: dict[int, PatchBlender] = {}
        tasks = {number: task for number, task, _ in requests}
        plan = visits(views)
        for done, (patch, numbers) in enumerate(plan, start=1):
            for flip in self._flips:
                features = self._features(image, patch, flip)
                with self._stage("head"):
                    wanted = {number: tasks[number] for number in numbers}
                    for number, scores in zip(numbers, self._runner.score(features, wanted), strict=True):
                        if number not in blenders:
                            blenders[number] = PatchBlender(image.tensor.shape, len(scores), self._weight)
                        if flip:
                            scores = scores.flip([axis + 1 for axis in flip])
                        blenders[number].add(patch, scores)
            on_progress(done, len(plan))
        return blenders

    def _features(self, image: SessionImage, patch: Patch, flip: tuple[int, ...]) -> Features:
        def encode() -> Features:
            self.patches_encoded += 1
            with self._stage("encode"):
                return self._runner.encode(image.tensor[patch.slices].flip(flip))

        features = self._cache.get_or_compute((patch.start, flip), encode)
        decided = self._runner.network.decisions(features)
        if decided is not None:
            self._decisions[patch.start, flip] = decided.cpu()
        return features

    def _provenance(
        self, region: Region | None, requests: list[TaskRequest], views: dict[int, TaskView]
    ) -> dict[str, Any]:
        manifest = self.model.manifest
        decided = [self._decisions[key] for key in sorted(self._decisions)]
        return {
            "software": f"PartialSeg {__version__}",
            "model": manifest.name,
            "model_version": manifest.version,
            "weights_sha256": self.model.sha256,
            "overlap": self.overlap,
            "mirror": len(self._flips) > 1,
            "precision": self.precision,
            "engine": self._runner.engine,
            "device": self.device.type,
            "roi": region and [list(bound) for bound in region.bounds],
            "selection": self.selection.describe()
            | describe_visits(
                {task.name: views[number] for number, task, _ in requests}, self.patches_planned
            ),
            **({"decisions": self._runner.network.describe_decisions(decided)} if decided else {}),
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
