"""The panel's side of the pipe: one job at a time, model and image sent only when they have changed.

Nothing here waits longer than a millisecond, and nothing needs Qt: `poll` is called by a timer in the panel,
by a loop in scripts. After a crash the next job starts a new worker and sends model and image again.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from PartialSegLib import __version__, protocol
from PartialSegLib.files.json_fields import from_json
from PartialSegLib.protocol import ProtocolError, SetImage, decode, encode

from .backgroundWork import BackgroundWork
from .childProcess import lastWords, wasKilled
from .workerJobs import FileJob, Job, ReceivedSegment, WorkerError
from .workerProcess import WorkerProcess

CANCEL_SECONDS = 30.0
"""A worker that has not stopped so long after a cancel is ended: it hangs, or a patch takes minutes."""
READY_SECONDS = 300.0
"""A worker that has not said so long after its start that it hears us is ended; virus scanners are slow."""
_POLL_SECONDS = 0.001  # Slicer's event loop keeps the GIL: only while we wait can other threads read


class WorkerClient:
    """Runs jobs in a worker that stays warm between them.

    Args:
        startProcess: makes a `WorkerProcess`; tests give another one.
        onLog: called with every line of the worker's log.
    """

    def __init__(
        self,
        startProcess: Callable[[], WorkerProcess] = WorkerProcess,
        onLog: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._startProcess = startProcess
        self.onLog = onLog
        self._process: WorkerProcess | None = None
        self._job: Job | FileJob | None = None
        self._steps: list[Callable[[], None]] = []
        self._isReused = False
        self._lastId = 0
        self._cancelledAt: float | None = None
        self._mustBeReadyAt: float | None = None
        self._endProcess: Callable[[], object] = lambda: None
        self._sentModel: dict[str, Any] | None = None
        self._sentImage: object = None
        self._writing: BackgroundWork[None] | None = None

    @property
    def isBusy(self) -> bool:
        """Whether a job is running."""
        return self._job is not None

    @property
    def hasModel(self) -> bool:
        """Whether the worker has loaded the model of the last job, be it leaving; not after a crash."""
        return self._sentModel is not None

    @property
    def isWarm(self) -> bool:
        """Whether a worker is alive and has a model."""
        return self._process is not None and self._process.isRunning and self.hasModel

    @property
    def pid(self) -> int | None:
        """Process id of the worker."""
        return self._process.pid if self._process else None

    def keepsFeatures(self, model: dict[str, Any], imageKey: object) -> bool:
        """Whether a job with this model and image would find the image encoded, at least in part."""
        return self.isWarm and self._sentModel == model and self._sentImage == imageKey

    def start(self, job: Job | FileJob) -> None:
        """Begin a job; `poll` carries it on and makes its callbacks.

        Raises:
            RuntimeError: another job is running.
        """
        if self._job is not None:
            raise RuntimeError(_("The worker is busy; cancel the running segmentation or wait for it."))
        self._job, self._cancelledAt = job, None
        try:
            self._begin()
        except BaseException:  # whatever could not be said to the worker: nothing is running
            self._job, self._steps = None, []
            raise

    def _begin(self) -> None:
        if isinstance(self._job, Job):
            self._steps = [self._sendModel, self._writeImage, self._sendImage, self._sendRequest]
        else:
            self._steps = [self._sendModel, self._sendFile]
        try:
            self._isReused = self._isUsable
            if not self._isReused:
                self._forgetWorker()
                self._takeProcess(self._startProcess())
        except OSError as error:
            sentence = _("The worker could not be started: {error}.").format(error=error)
            self._fail(WorkerError("WorkerDied", sentence))
            return
        self._nextStep()

    def cancel(self) -> None:
        """Ask for the end of the running job; its `onFailed` follows within one patch.

        A worker that does not answer within `CANCEL_SECONDS` is ended.
        """
        if self._job is None or self._isCancelled:
            return
        self._cancelledAt = time.monotonic()
        if self._process is not None:
            self._process.send(encode({"method": "cancel"}))

    def stop(self) -> None:
        """End the worker, without waiting; a running job ends without callbacks."""
        self._job = None
        self._forgetWorker()

    def poll(self, timeoutSeconds: float = 0.0) -> None:
        """Handle what has arrived; callbacks are made from here, at most one reply in each call.

        Args:
            timeoutSeconds: how long to wait for something to handle.
        """
        if self._process is None:
            return
        for line in self._process.newLogLines():
            self.onLog(line)
        if self._writing is not None and self._writing.isDone(waitSeconds=0.0):
            self._imageWritten()
            return
        line = self._process.receive(max(timeoutSeconds, _POLL_SECONDS))
        if line is None:
            self._died()
        elif line:
            self._handle(line)
        elif self._cancelledAt is not None and time.monotonic() > self._cancelledAt + CANCEL_SECONDS:
            self._forgetWorker()
            self._fail(_cancelled())
        elif self._mustBeReadyAt is not None and time.monotonic() > self._mustBeReadyAt:
            self._forgetWorker()
            self._fail(_notReady())

    def wait(self) -> None:
        """Poll until the running job has ended; for scripts, never for the panel."""
        while self._job is not None:
            self.poll(0.02)

    @property
    def _isCancelled(self) -> bool:
        return self._cancelledAt is not None

    @property
    def _isUsable(self) -> bool:
        """Whether the worker lives, and nobody has cleaned its scratch folder away, as happens overnight."""
        process = self._process
        if process is None or not process.isRunning or process.receive() is None:
            return False
        return process.scratch.is_dir()

    def _takeProcess(self, process: WorkerProcess) -> None:
        """Use a worker; it ends with this client, even if nobody calls `stop`."""
        self._process = process
        self._mustBeReadyAt = time.monotonic() + READY_SECONDS
        end = weakref.finalize(self, process.stop)
        end.atexit = False  # the worker ends with this process anyway
        self._endProcess = end

    def _nextStep(self) -> None:
        if self._isCancelled:
            if self._steps[:1] == [self._sendImage]:  # the worker will never hear of this file
                self._removeFiles([self._imageName])
            self._fail(_cancelled())
        else:
            self._steps.pop(0)()

    def _send(self, method: str, params: dict[str, Any]) -> None:
        assert self._process is not None
        self._lastId += 1
        self._process.send(encode({"id": self._lastId, "method": method, "params": params}))

    def _sendModel(self) -> None:
        """Also when the model was sent before: its package may have been replaced, which the worker sees."""
        assert self._job is not None
        if self._sentModel != self._job.model:
            self._sentModel = self._sentImage = None
        elif isinstance(self._job, FileJob):
            self._nextStep()  # a batch has one model from its first case to the last
            return
        self._send("load_model", self._job.model)

    def _sendFile(self) -> None:
        assert isinstance(self._job, FileJob)
        self._sentModel, self._sentImage = self._job.model, None
        self._send("segment_file", asdict(self._job.request))

    def _writeImage(self) -> None:
        assert isinstance(self._job, Job)
        assert self._process is not None
        self._sentModel = self._job.model
        if self._sentImage == self._job.imageKey:
            del self._steps[0]  # nothing to send
            self._nextStep()
            return
        self._sentImage = None
        path = self._process.scratch / self._imageName
        save = partial(_saveImage, path, self._job.volume.array)
        self._writing = BackgroundWork(save, "image")  # half a gigabyte would hold up Slicer
        self._writing.start()

    def _imageWritten(self) -> None:
        assert self._writing is not None
        error, self._writing = self._writing.error, None
        if error is not None:
            sentence = _("The image could not be handed to the worker: {error}.").format(error=error)
            advice = _("Free some disk space or choose another temporary folder.")
            self._fail(WorkerError("InputError", sentence, advice))
        else:
            self._nextStep()

    def _sendImage(self) -> None:
        assert isinstance(self._job, Job)
        first, second, third, last = np.asarray(self._job.volume.affine).tolist()
        image = SetImage(self._imageName, (first, second, third, last))
        self._send("set_image", asdict(image))

    @property
    def _imageName(self) -> str:
        """Of the file in the scratch folder in which the image goes to the worker."""
        return f"image-{self._lastId + 1}.npy"

    def _removeFiles(self, names: Iterable[str]) -> None:
        """Remove from the scratch folder what nobody will read; an image may have half a gigabyte."""
        assert self._process is not None
        for name in names:
            with contextlib.suppress(OSError):
                (self._process.scratch / Path(name).name).unlink()

    def _sendRequest(self) -> None:
        assert isinstance(self._job, Job)
        self._sentImage = self._job.imageKey
        self._send("predict", asdict(self._job.request))

    def _handle(self, line: str) -> None:
        try:
            message = decode(line)
        except ProtocolError as error:
            self.onLog(f"Not understood: {error}")
            return
        job = self._job
        if "ready" in message:
            self._checkVersion(message["ready"]["version"])
        if job is None or message.get("id") != self._lastId:
            return
        if "progress" in message:
            if not self._isCancelled:
                job.onProgress(*message["progress"])
        elif "warning" in message:
            job.onWarning(message["warning"])
        elif "error" in message:
            error = message["error"]
            self._fail(WorkerError(error["type"], error["message"], error.get("advice", "")))
        elif self._steps:
            if not message["result"].get("keeps_image", True):
                self._sentImage = None
            self._nextStep()
        else:
            self._finish(message["result"])

    def _checkVersion(self, version: str) -> None:
        """The worker hears us; it is of another version when the files were replaced while Slicer runs."""
        self._mustBeReadyAt = None
        if version != __version__ and self._job is not None:
            sentence = _("PartialSeg was replaced: the panel is {own}, the worker {worker}; restart Slicer.")
            self._job.onWarning(sentence.format(own=__version__, worker=version))

    def _finish(self, result: dict[str, Any]) -> None:
        job, process = self._job, self._process
        assert job is not None
        assert process is not None
        if self._isCancelled:
            if isinstance(job, Job):
                self._removeFiles(str(entry.get("array", "")) for entry in result.get("segments", []))
            self._fail(_cancelled())
            return
        tell: Callable[[], object]
        try:
            entries = result.pop("segments")
            if isinstance(job, FileJob):
                tell = partial(job.onFinished, [from_json(protocol.FileSegment, entry) for entry in entries])
            else:
                found = [from_json(protocol.FoundSegment, entry) for entry in entries]
                segments = [_readSegment(process.scratch, segment) for segment in found]
                tell = partial(job.onFinished, segments, result)
        except (OSError, ValueError, KeyError) as error:
            sentence = _("The result of the worker could not be read: {error}.").format(error=error)
            self._fail(WorkerError("ProtocolError", sentence))
            return
        self._job = None
        tell()

    def _fail(self, error: WorkerError) -> None:
        job, self._job, self._steps = self._job, None, []
        if job is not None:
            job.onFailed(error)

    def _died(self) -> None:
        assert self._process is not None
        code, lines = self._process.exitCode, self._process.lastLogLines
        self._forgetWorker()
        if code == 0 and self._isReused and self._job is not None:
            self._begin()  # it left after its reply to the job before: library or graphics card did not work
            return
        words = lastWords(lines)
        last = _(" Its last words: {words}").format(words=words) if words else ""
        advice = _("Try again: a new one is started by itself.")
        if wasKilled(code, lines):
            memory = _("Was there too little memory? Close programs or choose a region of interest.")
            advice = f"{memory} {advice}"
        sentence = _("The worker has ended unexpectedly (exit code {code}).").format(code=code)
        self._fail(WorkerError("WorkerDied", sentence + last, advice))

    def _forgetWorker(self) -> None:
        self._endProcess()
        self._process = self._sentModel = self._sentImage = self._writing = self._mustBeReadyAt = None


def _cancelled() -> WorkerError:
    return WorkerError("Cancelled", _("The segmentation was cancelled."))


def _notReady() -> WorkerError:
    sentence = _("The worker did not answer within {count} s.").format(count=round(READY_SECONDS))
    advice = _("Try again, as a virus scanner may have held it up; then restart Slicer, and report it.")
    return WorkerError("WorkerDied", sentence, advice)


def _saveImage(path: Path, array: np.ndarray) -> None:
    """Write the image whole or not at all."""
    try:
        np.save(path, array, allow_pickle=False)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _readSegment(scratch: Path, found: protocol.FoundSegment) -> ReceivedSegment:
    path = scratch / Path(found.array).name
    mask = np.load(path, allow_pickle=False).view(bool)
    with contextlib.suppress(OSError):  # a virus scanner looks at it; the folder is removed later
        path.unlink()
    z, y, x = (slice(first, last) for first, last in found.box)
    return ReceivedSegment(found.task, found.structure, (z, y, x), mask)
