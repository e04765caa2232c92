"""Many image files, one after the other, by way of a worker of their own; the scene is not touched."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from PartialSegLib.batch.cases import BatchCase, Outcome
from PartialSegLib.batch.request import BatchRequest, settings_of
from PartialSegLib.batch.running import Batch
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import read_manifest
from PartialSegLib.packages.installed import find_package
from PartialSegLib.protocol import FileSegment, SegmentFile

from .scripting import namesOf
from .worker.temporaryFolder import startWorker
from .worker.workerClient import WorkerClient
from .worker.workerJobs import FileJob, WorkerError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchListener:
    """Whom to tell; everything is called from `poll`.

    Attributes:
        onCase: called when a case has ended, with the case, its outcome, and how many of how many have ended.
        onProgress: called with the patches done and in total of the case in work.
        onWarning: called with a sentence.
        onFinished: called at the end, with the sentence that stopped the run early, or "".
    """

    onCase: Callable[[BatchCase, Outcome, int, int], object] = lambda case, outcome, done, total: None
    onProgress: Callable[[int, int], object] = lambda done, total: None
    onWarning: Callable[[str], object] = lambda sentence: None
    onFinished: Callable[[str], object] = lambda sentence: None


class BatchRun:
    """Works off what is left of a batch.

    The worker starts with the first case and ends with the last one, so the model is loaded once. A case that
    fails is written down and the next one begins; a missing device, a model that cannot be loaded, a full
    output folder, a name that another run has given to another image or a worker that dies twice in a row
    stops the run.

    Args:
        batch: what is to be done; says itself what is left.
        model: parameters of the worker's `load_model`.
        listener: whom to tell.
        anyModality: accept images that do not look like CT in HU.
        client: of the worker; one of its own when None.
    """

    def __init__(
        self,
        batch: Batch,
        model: dict[str, Any],
        listener: BatchListener,
        anyModality: bool = False,
        client: WorkerClient | None = None,
    ) -> None:
        self.batch = batch
        self.listener = listener
        self.client = client or WorkerClient(startWorker)
        self._model = {**model, "cache_bytes": 0}  # every image is new: kept features would help nobody
        self._anyModality = anyModality
        self._waiting = list(batch.left)
        self._total = len(self._waiting)
        self._isRunning = False
        self._lastFailure = ""
        self._begun: BatchCase | None = None
        self._started = 0.0

    @property
    def isRunning(self) -> bool:
        """Whether cases are being worked on; `poll` carries them on."""
        return self._isRunning

    def start(self) -> None:
        """Begin; with nothing left to do, end at once."""
        self._isRunning = True
        self._next()

    def poll(self, timeoutSeconds: float = 0.0) -> None:
        """Handle what the worker has sent."""
        if self._isRunning:
            self.client.poll(timeoutSeconds)

    def cancel(self) -> None:
        """Ask for the end; what is finished stays, and the same batch goes on from there another time."""
        self._waiting.clear()
        self.client.cancel()

    def stop(self) -> None:
        """End the worker at once, without callbacks."""
        self._isRunning = False
        self.client.stop()
        with contextlib.suppress(InputError):
            self._withdraw()

    def _next(self) -> None:
        if not self._waiting:
            self._end("")
            return
        case = self._waiting.pop(0)
        try:
            self.batch.begin(case)  # the worker writes the file before we hear of it
        except InputError as error:
            self._end(str(error))
            return
        self._begun, self._started = case, time.monotonic()
        self.client.start(
            FileJob(
                model=self._model,
                request=self._requestFor(case),
                onFinished=partial(self._finished, case),
                onFailed=partial(self._failed, case),
                onProgress=self.listener.onProgress,
                onWarning=self.listener.onWarning,
            )
        )

    def _requestFor(self, case: BatchCase) -> SegmentFile:
        return SegmentFile(
            image=str(case.image),
            output=self.batch.target(case),
            tasks=self.batch.request.tasks,
            structures=self.batch.request.structures,
            any_modality=self._anyModality,
        )

    def _finished(self, case: BatchCase, segments: list[FileSegment]) -> None:
        self._lastFailure = ""
        volumes = {(segment.task, segment.structure): segment.volume_ml for segment in segments}
        self._record(case, Outcome(self._seconds(), volumes))

    def _failed(self, case: BatchCase, error: WorkerError) -> None:
        diedAgain = error.kind == self._lastFailure == "WorkerDied"
        self._lastFailure = error.kind
        lacksModel = error.kind in ("InputError", "InternalError") and not self.client.hasModel
        if diedAgain or lacksModel or error.kind in ("Cancelled", "DeviceError"):
            self._end(str(error))
        else:
            self._record(case, Outcome(self._seconds(), error=str(error)))

    def _seconds(self) -> float:
        """How long the case in work has taken so far."""
        return time.monotonic() - self._started

    def _withdraw(self) -> None:
        """Write nothing down of a case that was cancelled, so that its folder takes other tasks."""
        begun, self._begun = self._begun, None
        if begun is not None:
            self.batch.withdraw(begun)

    def _record(self, case: BatchCase, outcome: Outcome) -> None:
        self._begun = None
        try:
            self.batch.record(case, outcome)
        except InputError as error:
            self._end(str(error))
            return
        self.listener.onCase(case, outcome, self._total - len(self._waiting), self._total)
        self._next()

    def _end(self, sentence: str) -> None:
        for step in (self._withdraw, self.batch.finish):
            try:
                step()
            except InputError as error:
                sentence = sentence or str(error)
        self._waiting.clear()
        self._isRunning = False
        self.client.stop()
        self.listener.onFinished(sentence)


def runBatch(
    batch: Batch, model: dict[str, Any], onCase: Callable[..., object], anyModality: bool = False
) -> None:
    """Work off a batch and wait for it, while Slicer stays usable; for scripts. Warnings are logged.

    Raises:
        WorkerError: the run ended early.
    """
    ends: list[str] = []
    listener = BatchListener(onCase=onCase, onWarning=logger.warning, onFinished=ends.append)
    run = BatchRun(batch, model, listener, anyModality, WorkerClient(startWorker, logger.warning))
    try:
        run.start()
        while run.isRunning:
            run.poll(0.02)
            slicer.app.processEvents()
    finally:
        run.stop()
    if ends != [""]:
        raise WorkerError("BatchStopped", *ends)


def makeBatch(
    paths: str | Path | Iterable[str | Path],
    outputFolder: str | Path,
    tasks: str | Iterable[str] | None,
    structures: str | Iterable[str] | None,
    model: dict[str, Any],
    outputFormat: str,
    overwrite: bool = False,
    anyModality: bool = False,
) -> Batch:
    """A batch for the worker's model options.

    Raises:
        InputError: an input, a name or the output folder cannot be used.
    """
    manifest = read_manifest(find_package(model["path"]))
    settings = settings_of(model)
    request = BatchRequest(manifest, namesOf(tasks), namesOf(structures), outputFormat, settings)
    inputs = [paths] if isinstance(paths, str | Path) else paths
    return Batch(inputs, outputFolder, request, overwrite, anyModality)


def summarySentence(batch: Batch) -> str:
    """How a batch stands, in a sentence."""
    return _("{done} of {total} cases done, {failed} failed; see {file}.").format(
        done=len(batch.done), total=len(batch.cases), failed=len(batch.failed), file=batch.summary
    )
