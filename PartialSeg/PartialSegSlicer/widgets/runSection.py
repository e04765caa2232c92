"""What the panel shows of a run: progress, time left, and at the end what was found and what was skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from PartialSegLib.manifest import Manifest

from .. import expectedTime
from ..modelOptions import ModelOptions
from ..parameters import Parameters
from ..segmenter import Request, Result, Segmenter
from ..worker.workerClient import WorkerError
from .messages import showError


@dataclass(frozen=True)
class _Started:
    """What was set when a run began: the user may set something else while it goes on.

    Attributes:
        manifest: of the model.
        options: of the model.
        show3D: show surfaces at the end.
        keepWorker: whether the worker stays alive at the end.
        size: of the volume in millions of network voxels; 0 for a part of it.
        nodeIds: of volume and segmentation.
        hasFeatures: whether features were computed before.
        at: when it began, in seconds.
    """

    manifest: Manifest
    options: ModelOptions
    show3D: bool
    keepWorker: bool
    size: float
    nodeIds: list[str | None]
    hasFeatures: bool
    at: float


class RunSection:
    """Progress bar and status line.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        segmenter: does the work; whoever owns this calls its `poll`.
        log: called with lines to show.
        onFinished: called with the result, when it has been shown.
    """

    def __init__(
        self,
        ui: Any,
        segmenter: Segmenter,
        log: Callable[[str], object],
        onFinished: Callable[[Result], object],
    ) -> None:
        self.ui = ui
        self.segmenter = segmenter
        self._log = log
        self._tellFinished = onFinished
        self._started: _Started | None = None

    def start(
        self, parameters: Parameters, tasks: list[str], options: ModelOptions, manifest: Manifest
    ) -> None:
        """Begin to segment.

        Args:
            parameters: say what.
            tasks: of the model.
            options: of the model.
            manifest: of the model.

        Raises:
            InputError: something is wrong with the volume or the request.
        """
        volumeNode, model = parameters.inputVolume, options.forWorker()
        isWhole = volumeNode is not None and parameters.regionOfInterest is None
        self._started = _Started(
            manifest,
            options,
            parameters.show3D,
            parameters.keepWorker,
            expectedTime.megavoxels(volumeNode, manifest) if isWhole else 0.0,
            _nodeIds(parameters),
            volumeNode is not None and self.segmenter.keepsFeatures(volumeNode, model),
            time.monotonic(),
        )
        self.segmenter.start(
            Request(
                volumeNode=volumeNode,
                tasks=tuple(tasks),
                model=model,
                segmentationNode=parameters.segmentation,
                excluded=frozenset(parameters.excludedStructures),
                roiNode=parameters.regionOfInterest,
                makeTable=parameters.volumesTable,
                onFinished=self._onFinished,
                onFailed=self._onFailed,
                onProgress=self._onProgress,
                onWarning=self._onWarning,
            )
        )
        if self.segmenter.isBusy:  # not if the worker could not be started, which has been told
            self._showStart(tasks)

    def showCancelling(self) -> None:
        """Say that the run will end soon."""
        self.ui.statusLabel.text = _("Cancelling…")

    def showNothing(self) -> None:
        """Forget what was shown of a run that was given up."""
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = ""

    def isStillChosen(self, parameters: Parameters) -> bool:
        """Whether volume and segmentation are those of the run."""
        return self._started is not None and _nodeIds(parameters) == self._started.nodeIds

    def _showStart(self, tasks: list[str]) -> None:
        assert self._started is not None
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressBar.visible = True
        sentence = (
            _("Segmenting {tasks}, with features computed before.")
            if self._started.hasFeatures
            else _("Segmenting {tasks}.")
        )
        self.ui.statusLabel.text = sentence.format(tasks=", ".join(tasks))

    def _onProgress(self, done: int, total: int) -> None:
        assert self._started is not None
        self.ui.progressBar.setRange(0, total)
        self.ui.progressBar.value = done
        if done == 0:
            self.ui.statusLabel.text = _("Looking first, to find where to look closely.")
            return
        left = (time.monotonic() - self._started.at) / done * (total - done)
        self.ui.statusLabel.text = _("Patch {done} of {total}, about {left} left").format(
            done=done, total=total, left=expectedTime.duration(left)
        )

    def _onWarning(self, sentence: str) -> None:
        self._log(sentence)
        self.ui.statusLabel.text = sentence

    def _onFinished(self, result: Result) -> None:
        started = self._started
        assert started is not None
        seconds = time.monotonic() - started.at
        provenance = result.reply["provenance"]
        self.ui.progressBar.visible = False
        found = _foundSentence(result, seconds, isPart=started.size == 0)
        sentences = [found, result.note, *_skippedSentences(provenance)]
        self.ui.statusLabel.text = " ".join(sentence for sentence in sentences if sentence)
        self._log(self.ui.statusLabel.text)
        if not started.hasFeatures and started.size > 0:
            device = str(provenance["device"])
            expectedTime.remember(started.manifest, started.options, device, seconds / started.size)
        if started.show3D and result.segmentIds:
            result.segmentationNode.CreateClosedSurfaceRepresentation()
        if not started.keepWorker:
            self.segmenter.client.stop()
        self._tellFinished(result)

    def _onFailed(self, error: WorkerError) -> None:
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = str(error)
        self._log(str(error))
        if self._started is not None and not self._started.keepWorker:
            self.segmenter.client.stop()
        if error.kind != "Cancelled":
            showError(str(error))


def _nodeIds(parameters: Parameters) -> list[str | None]:
    nodes = (parameters.inputVolume, parameters.segmentation)
    return [node.GetID() if node is not None else None for node in nodes]


def _foundSentence(result: Result, seconds: float, isPart: bool) -> str:
    """What was found, in the whole volume or in a part of it."""
    found = len(result.segmentIds)
    if not found:
        return _("Nothing was found inside the region of interest.") if isPart else _("Nothing was found.")
    time_ = expectedTime.duration(seconds)
    sentences = [_("Segments found: {count}, in {time}.").format(count=found, time=time_)]
    if result.notFound:
        names = ", ".join(f"{structure.replace('_', ' ')} ({task})" for task, structure in result.notFound)
        text = _("Nothing was found of: {structures}.")
        if isPart:
            text = _("Inside the region of interest nothing was found of: {structures}.")
        sentences.append(text.format(structures=names))
    return " ".join(sentences)


def _skippedSentences(provenance: Mapping[str, Any]) -> list[str]:
    """What was not looked at, if anything."""
    patches = provenance["selection"]["patches"]
    if patches["visited"] >= patches["of"]:
        return []
    if patches.get("coarse"):
        sentence = _(
            "Looked closely at {visited} of {total} patches; in {coarse} the coarse result was taken, "
            "{share} % were skipped; see the segmentation's provenance."
        )
    else:
        sentence = _(
            "Looked at {visited} of {total} patches ({share} % skipped); see the segmentation's provenance."
        )
    numbers = {"visited": patches["visited"], "total": patches["of"], "coarse": patches.get("coarse")}
    return [sentence.format(share=round(100 * patches["skipped"]), **numbers)]
