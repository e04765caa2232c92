"""The session: a model and one image, encoded once; every task is then a cheap head on the kept features."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .engines.network_runner import NetworkRunner
from .errors import InputError
from .image_channel import check_one_ct
from .inference.coarse_findings import CoarseFindings, uncertain_parts
from .inference.memory_estimate import MemoryEstimate, MemoryEstimator
from .inference.patch_scoring import PatchScoring, Progress, all_flips
from .inference.prediction import Prediction
from .inference.region_selection import CoarsePass, is_number
from .inference.score_keeping import Kept, ScoreKeeping
from .inference.selection import SelectedImage, Selection
from .inference.session_image import SessionImage
from .masks.region import Region
from .model import Model, as_model
from .patches.blending import KeptScores
from .patches.visit_plan import describe_visits
from .processing.restoration import Restored
from .pytorch.devices import choose_device, choose_precision, explained_memory_errors
from .segmentation import Key, Segmentation
from .segmentation_files.label_values import label_values
from .task_request import TaskRequest, request_tasks
from .volume import Volume, as_volume, find_doubt

logger = logging.getLogger(__name__)

Limits = Sequence[float] | Sequence[Sequence[float]]


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""


class InferenceSession:
    """Segments any number of tasks of one image; what is computed for one task serves the next.

    Args:
        model: from `load_model`, or what that loads; the session works on a copy of its network.
        device: auto, cpu, cuda, cuda:N or mps.
        cache_bytes: budget for features; results do not depend on it. None takes half of what is free on the
            device beside what the run itself needs, for each image anew.
        overlap: of neighbouring patches, in [0, 1); None takes the manifest's.
        mirror: average over all flips of the manifest's mirror axes, at 2 to 8 times the cost.
        precision: of the convolutions: auto, float32, bfloat16 or float16.
        engine: of the convolutions: auto, torch, or openvino, an optional package that makes wide networks
            faster on CPUs; openvino-int8 rounds convolutions to 8 bits, which is faster still and changes
            masks a little. auto never takes that.
        selection: which axial slices are looked at. "exact": those that the package's decision network keeps
            for the task, and there with the same scores, to the bit, as if all were; nothing is found in the
            others. "fast": patches are planned on the slices that any of the tasks asked for together keeps,
            and around the regions of `region_from`, which needs fewer of them and changes scores a little;
            for a single structure that is the fastest. "off": everything, also what the two
            options below would skip. "auto": exact where the package's decision network is to be asked by
            itself (`DecisionSpec.automatic`) and air is not left out, else all slices.
        skip_air: find nothing in air and table around the body, and do not visit patches of these alone;
            scores in the body stay the same to the bit. Not with "exact", which leaves air as it is.
        region_from: a coarse model or its name, or `CoarsePass` with settings, that says where the tasks have
            anything to do: only patches that touch these regions are visited, and masks are empty outside. A
            task of which it finds nothing, or whose structures it does not know, looks everywhere. With an
            effort below 1 some of these patches are left to the coarse model.

    Raises:
        InputError: unknown model, device, precision, engine or selection, an engine that cannot run the
            network, wrong overlap or cache size, mirroring a model without mirror axes, selecting slices with
            a model without decision network, or a model whose images are not one CT.
        DeviceError: the device is missing or out of memory.
    """

    _looks_at_scores = False

    def __init__(
        self,
        model: Model | str | Path,
        device: str = "auto",
        cache_bytes: int | None = None,
        *,
        overlap: float | None = None,
        mirror: bool = False,
        precision: str = "auto",
        engine: str = "auto",
        selection: str = "auto",
        skip_air: bool = False,
        region_from: CoarsePass | Model | str | Path | None = None,
    ) -> None:
        model = as_model(model)
        if not isinstance(region_from, CoarsePass | None):
            region_from = as_model(region_from)
        check_one_ct(model.manifest.name, model.manifest.preprocessing.image_channels)
        inference = model.manifest.inference
        self.model = model
        self.device = choose_device(device)
        self.overlap = inference.overlap if overlap is None else overlap
        if not is_number(self.overlap) or not 0 <= self.overlap < 1:
            raise InputError(
                f"The overlap is a fraction in [0, 1), such as {inference.overlap}, not {overlap}."
            )
        if cache_bytes is not None and not (is_number(cache_bytes) and cache_bytes >= 0):
            raise InputError(f"cache_bytes is a number of bytes, such as 2_000_000_000, not {cache_bytes!r}.")
        if mirror and not inference.mirror_axes:
            raise InputError(f"Model {model.manifest.name} has no axes to mirror; use it without mirroring.")
        self.selection = Selection.for_model(model, selection, skip_air, region_from)
        self._coarse: _CoarseSession | None = None
        if coarse := self.selection.coarse:
            self._coarse = _CoarseSession(coarse.model, device, 0, precision=precision, engine=engine)
        flips = all_flips(inference.mirror_axes if mirror else ())
        self._cache_bytes = cache_bytes
        with explained_memory_errors(self.device):
            self._runner = NetworkRunner(model, self.device, choose_precision(self.device, precision), engine)
            self._scoring = PatchScoring(self._runner, flips, cache_bytes or 0)
        self._keeping = ScoreKeeping(inference, self._scoring.num_passes, self._looks_at_scores)
        self._selected: SelectedImage | None = None
        self._found_coarsely: CoarseFindings | None = None

    def __repr__(self) -> str:
        """Return model, device and the shape of the image."""
        manifest, image = self.model.manifest, "no image"
        if self._selected is not None:
            image = f"image of {' × '.join(map(str, self._selected.image.prepared.input_shape))}"
        return f"InferenceSession({manifest.name} {manifest.version}, {self.device}, {image})"

    def set_image(
        self, volume: Volume | str | Path, crop_to_body: bool | None = None, *, check: bool = True
    ) -> None:
        """Prepare a volume for `predict`; nothing is encoded yet, and the image before is forgotten.

        Args:
            volume: a CT in HU, any orientation and spacing; or what `read_volume` reads.
            crop_to_body: look only at the box around the body, which saves time where there is much air; None
                does what the manifest says.
            check: log a warning where this is hardly a CT of a patient (`check_hounsfield`, and its size);
                False for callers who have looked.

        Raises:
            InputError: the image cannot be read, or voxels are NaN or infinite.
            DeviceError: out of memory.
        """
        volume = as_volume(volume)
        self.reset_image()
        with explained_memory_errors(self.device), torch.inference_mode(), self._scoring.stage("preprocess"):
            manifest = self.model.manifest
            crop = manifest.preprocessing.crop_to_body if crop_to_body is None else crop_to_body
            image = SessionImage.prepare(volume, manifest, self.overlap, self.device, crop)
            selected = SelectedImage.select(image, self.model, self.selection, self.overlap)
            if self._coarse is not None:
                self._coarse.set_image(volume, check=False)
            if self._cache_bytes is None:
                self._scoring.cache.budget_bytes = self._memory.choose_cache_bytes(image)
            self._selected = selected
            if check and (doubt := find_doubt(volume)):
                logger.warning("%s, or what is found may be wrong.", doubt)

    def reset_image(self) -> None:
        """Forget the image and its features."""
        self._selected = None
        self._found_coarsely = None
        if self._coarse is not None:
            self._coarse.reset_image()
        self._scoring.forget()

    def predict(
        self,
        tasks: str | Iterable[str] | None = None,
        on_progress: Progress = ignore_progress,
        *,
        structures: str | Iterable[str] | None = None,
        roi: Limits | None = None,
        effort: float | None = None,
    ) -> Segmentation:
        """Segment the image; only patches without kept features are encoded.

        Args:
            tasks: names of tasks; None for all that yield a wanted structure.
            on_progress: called after each patch; when it raises `Cancelled`, the session stays usable.
            structures: ids of the structures to return, or "task/structure" for one task's alone; None for
                all of the tasks. What else names may look like says `request_tasks`.
            roi: region of interest in RAS mm, ((x0, x1), (y0, y1), (z0, z1)), or these six numbers: only
                patches that touch it are visited, and masks are empty outside. Components count with what
                lies inside.
            effort: instead of that of `region_from`, see `CoarsePass`; where features are kept, a higher one
                than before costs only the patches that are new. Without a coarse model it means nothing.

        Returns:
            Masks on the grid of the volume given to `set_image`, keyed by task and structure.

        Raises:
            InputError: no image set, unknown task or structure, a region outside the image, or an effort
                that is not in [0, 1].
            DeviceError: out of memory; the session stays usable.
        """
        selected = self._require_selected().with_effort(effort)
        requests = request_tasks(self.model.manifest, tasks, structures)
        region = None if roi is None else Region.from_limits(roi)
        with explained_memory_errors(self.device), torch.inference_mode():
            prediction = self._score(selected, requests, region, on_progress)
            return self._restore(prediction, selected.selection, region)

    def _score(
        self,
        selected: SelectedImage,
        requests: list[TaskRequest],
        region: Region | None,
        on_progress: Progress,
    ) -> Prediction:
        """Decide what each task looks at, and blend its scores there."""
        find = None if self._coarse is None else partial(self._find_coarsely, self._coarse, on_progress)
        with self._scoring.stage("preprocess"):
            views = selected.views(requests, region, find)
        image, device = selected.image, self.device
        if device.type == "cuda":
            device = self._memory.choose_scores_device(image, requests, self._scoring.cache)
        tasks = {request.number: request.task for request in requests}
        is_packed = self._keeping.packs(tasks.values(), image.tensor.numel(), device)

        def start_keeping(number: int, channels: int) -> Kept:
            return self._keeping.start(image, tasks[number], channels, views[number].kept, device, is_packed)

        kept = self._scoring.blend(image, tasks, views, start_keeping, on_progress, device)
        return Prediction(image, requests, views, kept)

    def _restore(self, prediction: Prediction, selection: Selection, region: Region | None) -> Segmentation:
        """Make the masks on the grid of the volume."""
        prepared = prediction.image.prepared
        provenance = self._provenance(selection, region, prediction)
        values = label_values(self.model.manifest)
        segmentation = Segmentation(prepared.input_shape, prepared.affine, provenance, label_values=values)
        with self._scoring.stage("restore"):
            for task, structure, (box, mask) in prediction.masks(self._runner):
                if region is not None:
                    region.clear_outside(mask, box, segmentation.affine)
                segmentation.add(task.name, structure, box, mask)
        return segmentation

    def estimate_memory(
        self,
        volume: Volume,
        tasks: str | Iterable[str] | None = None,
        structures: str | Iterable[str] | None = None,
        is_loaded: bool = True,
    ) -> MemoryEstimate:
        """Predict the memory of a run on the CPU, before `set_image`; the device holds parts of it otherwise.

        Args:
            volume: only shape, affine and voxel type are looked at, so `np.broadcast_to(np.int16(0), shape)`
                may stand for the array of one that is yet to be read.
            tasks: names of tasks; None for all that yield a wanted structure.
            structures: as for `predict`; None for all of the tasks.
            is_loaded: whether the voxels are in memory already.

        Raises:
            InputError: unknown task or structure.
        """
        requests = request_tasks(self.model.manifest, tasks, structures)
        estimate = self._memory.estimate(volume, requests, self._cache_bytes, is_loaded)
        if self._coarse is None:
            return estimate
        requests = request_tasks(self._coarse.model.manifest, None, None)
        coarse = self._coarse._memory.estimate(volume, requests, 0, is_loaded)
        return estimate.with_coarse(coarse)

    @cached_property
    def _memory(self) -> MemoryEstimator:
        with explained_memory_errors(self.device):
            flips = len(self._scoring.flips)
            given = self.model, self._runner, self.overlap, flips, self._keeping, self.selection
            return MemoryEstimator(*given)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage since `set_image`: preprocess, encode, head, restore."""
        return dict(self._scoring.seconds)

    @property
    def patches_encoded(self) -> int:
        """Forward passes since `set_image`."""
        return self._scoring.patches_encoded

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

    def _find_coarsely(self, coarse: _CoarseSession, on_progress: Progress) -> CoarseFindings:
        """What the coarse model finds in the image; computed once, with all its tasks."""
        if self._found_coarsely is None:
            waiting = self.patches_planned
            with self._scoring.stage("encode"):
                self._found_coarsely = coarse.find_all(lambda *_: on_progress(0, waiting))
        return self._found_coarsely

    def _provenance(
        self, selection: Selection, region: Region | None, prediction: Prediction
    ) -> dict[str, Any]:
        manifest = self.model.manifest
        views = {task.name: prediction.views[number] for number, task, _ in prediction.requests}
        return {
            "software": f"PartialSeg {__version__}",
            "model": manifest.name,
            "model_version": manifest.version,
            "weights_sha256": self.model.sha256,
            "overlap": self.overlap,
            "mirror": len(self._scoring.flips) > 1,
            "precision": self.precision,
            "engine": self._runner.engine,
            "device": self.device.type,
            "roi": region and [list(bound) for bound in region.bounds],
            "selection": selection.describe() | describe_visits(views, self.patches_planned),
            **self._scoring.describe_decisions(),
        }


class _CoarseSession(InferenceSession):
    """The session of a coarse model, whose scores say where it is uncertain."""

    _looks_at_scores = True

    def find_all(self, on_progress: Progress) -> CoarseFindings:
        """Segment the image with all tasks, and note where their scores are uncertain."""
        selected, inference = self._require_selected(), self._runner.inference
        requests = request_tasks(self.model.manifest, None, None)
        uncertain: dict[Key, Restored] = {}
        with explained_memory_errors(self.device), torch.inference_mode():
            prediction = self._score(selected, requests, None, on_progress)
            with self._scoring.stage("restore"):
                for number, task, _ in requests:
                    if isinstance(scores := prediction.kept.get(number), KeptScores):
                        where = prediction.views[number].kept, task, inference, selected.image
                        uncertain |= uncertain_parts(scores.scores, *where)
            masks = self._restore(prediction, selected.selection, None)
        return CoarseFindings(masks, uncertain, selected.image.prepared)
