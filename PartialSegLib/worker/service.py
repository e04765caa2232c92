"""What the worker does for its client: load a model, take an image, segment tasks of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Cancelled, InputError
from ..manifest import read_manifest
from ..packages.installed import find_package
from ..protocol import (
    FileSegment,
    FoundSegment,
    ImageSet,
    LoadedModel,
    LoadModel,
    Predict,
    Prediction,
    Request,
    Result,
    SegmentedFile,
    SegmentFile,
    SetImage,
)
from ..segmentation import Segmentation
from ..segmentation_files.formats import write_segmentation
from ..volume import Volume, read_ct
from .scratch import ScratchFolder

if TYPE_CHECKING:
    from ..session import InferenceSession
    from .warm_session import WarmSession


@dataclass(frozen=True)
class Conversation:
    """How a request that is being served talks to its client.

    Attributes:
        send_progress: called with the patches done and in total.
        send_warning: called with a sentence.
        is_cancelled: whether to stop.
    """

    send_progress: Callable[[int, int], object]
    send_warning: Callable[[str], object]
    is_cancelled: Callable[[], bool]

    def progress(self, done: int, total: int) -> None:
        """Report the patches done, unless the request is to stop.

        Raises:
            Cancelled: the client asked for it.
        """
        self.stop_if_cancelled()
        self.send_progress(done, total)

    def stop_if_cancelled(self) -> None:
        """Stop where the client asked for it.

        Raises:
            Cancelled: it did.
        """
        if self.is_cancelled():
            raise Cancelled


class Service:
    """One model and one image, warm between requests.

    Args:
        scratch: where arrays are handed over.
    """

    def __init__(self, scratch: ScratchFolder) -> None:
        self._scratch = scratch
        self._warm: WarmSession | None = None
        self._image_file: str | None = None
        self._writing = threading.Lock()

    def finish_file(self, seconds: float) -> None:
        """Wait until the file of the user's that is being written is whole; no other is begun afterwards.

        For whoever is about to end the process, which would leave the half that is there.

        Args:
            seconds: to wait at most.
        """
        self._writing.acquire(timeout=seconds)

    def serve(self, request: Request, talk: Conversation) -> Result:
        """Do what a request asks for.

        Raises:
            Cancelled: the client asked for it; all is as before, but `set_image` leaves no image.
            InputError: the user's input cannot be used.
            DeviceError: the device is missing or out of memory.
            ProtocolError: the request cannot be served as it is.
        """
        talk.stop_if_cancelled()
        match request.params:
            case LoadModel():
                result: Result = self._load_model(request.params, talk)
            case SetImage():
                result = self._set_image(request.params, talk)
            case Predict():
                result = self._predict(request.id, request.params, talk)
            case SegmentFile():
                result = self._segment_file(request.params, talk)
        return result

    def _load_model(self, options: LoadModel, talk: Conversation) -> LoadedModel:
        """Keep the session if it is the one asked for; otherwise replace it once the new one stands."""
        names = [name for name in (options.path, options.region_from) if name is not None]
        folders = [find_package(name).resolve() for name in names]
        packages = [(folder, read_manifest(folder)) for folder in folders]
        if self._warm is None or not self._warm.serves(packages, options):
            from ..model import load_model  # these two import torch
            from .warm_session import WarmSession

            model, *coarse = (load_model(folder) for folder in folders)
            warm = WarmSession(model, options, *coarse)
            talk.stop_if_cancelled()
            if self._warm is not None:
                self._warm.release()
            warm.run(_place, talk.send_warning)  # fails before anything is given up
            talk.stop_if_cancelled()
            self._forget_image()
            self._warm = warm
        device, precision = self._warm.run(_place, talk.send_warning)
        manifest, sha256 = self._warm.model.manifest, self._warm.model.sha256
        tasks = {task.name: list(task.structures) for task in manifest.tasks}
        kept = self._image_file is not None
        return LoadedModel(manifest.name, manifest.version, sha256, device, precision, tasks, kept)

    def _set_image(self, params: SetImage, talk: Conversation) -> ImageSet:
        """The image before is forgotten, even when this one cannot be used."""
        warm = self._require_model()
        self._forget_image(keep_file=params.array)
        self._image_file = params.array
        try:
            volume = Volume(self._scratch.map(params.array), np.array(params.affine))
            warm.set_image(volume, params.crop_to_body, talk.send_warning)
            talk.stop_if_cancelled()
        except BaseException:
            self._forget_image()
            raise
        return warm.run(_image_set, talk.send_warning)

    def _predict(self, request_id: int, params: Predict, talk: Conversation) -> Prediction:
        found, timings, encoded = self._find(params, talk)
        segments: list[FoundSegment] = []
        try:
            for task, structure in found:
                talk.stop_if_cancelled()
                name = f"mask-{request_id}-{len(segments)}.npy"
                segments.append(self._write_mask(name, found, (task, structure)))
            talk.stop_if_cancelled()
        except BaseException:
            for segment in segments:
                self._scratch.remove(segment.array)
            raise
        return Prediction(segments, found.provenance, timings, encoded)

    def _segment_file(self, params: SegmentFile, talk: Conversation) -> SegmentedFile:
        """The image is forgotten at the end: its features are of no use to the next one."""
        warm, start = self._require_model(), perf_counter()
        self._forget_image()
        volume = read_ct(params.image, is_forced=params.any_modality)
        seconds = {"read": perf_counter() - start}
        try:
            talk.stop_if_cancelled()
            warm.set_image(volume, None, talk.send_warning)
            prepared = warm.run(lambda session: session.timings["preprocess"], talk.send_warning)
            found, timings, _ = self._find(Predict(params.tasks, params.structures), talk)
        finally:
            self._forget_image()
        talk.stop_if_cancelled()
        start = perf_counter()
        with self._writing:
            write_segmentation(params.output, found, params.image, any_modality=params.any_modality)
        timings["preprocess"] += prepared
        seconds |= {**timings, "write": perf_counter() - start}
        segments = [FileSegment(*key, found.voxel_count(key), found.volume_ml(key)) for key in found]
        return SegmentedFile(segments, found.provenance, seconds)

    def _find(self, params: Predict, talk: Conversation) -> tuple[Segmentation, dict[str, float], int]:
        """What is in the image, seconds per stage, and patches that had to be encoded for it."""

        def work(session: InferenceSession) -> tuple[Segmentation, dict[str, float], int]:
            talk.stop_if_cancelled()
            timings, encoded = session.timings, session.patches_encoded
            found = session.predict(
                params.tasks,
                talk.progress,
                structures=params.structures,
                roi=params.roi,
                effort=params.effort,
            )
            seconds = {stage: session.timings[stage] - before for stage, before in timings.items()}
            return found, seconds, session.patches_encoded - encoded

        return self._require_model().run(work, talk.send_warning)

    def _write_mask(self, name: str, found: Segmentation, key: tuple[str, str]) -> FoundSegment:
        box, mask = found.cropped(key)
        self._scratch.write(name, mask.astype(np.uint8))
        bounds = tuple((int(part.start), int(part.stop)) for part in box)
        return FoundSegment(*key, name, bounds, found.voxel_count(key))

    def _require_model(self) -> WarmSession:
        if self._warm is None:
            raise InputError("No model is loaded; send load_model first.")
        return self._warm

    def _forget_image(self, keep_file: str | None = None) -> None:
        """Drop the image and delete its file, unless the next image has the same name."""
        if self._warm is not None:
            self._warm.forget_image()
        name, self._image_file = self._image_file, None
        if name is not None and name != keep_file:
            self._scratch.remove(name)


def _place(session: InferenceSession) -> tuple[str, str]:
    return str(session.device), session.precision


def _image_set(session: InferenceSession) -> ImageSet:
    return ImageSet(session.patches_planned, session.timings)
