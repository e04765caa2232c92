"""The panel: what the user sees and clicks. It computes nothing; it asks the segmenter and shows answers."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Manifest
from PartialSegLib.packages import installed_packages

from . import checks, expectedTime
from .batchSection import BatchChoice, BatchSection
from .dependencies import DependencyReport
from .modelMenu import ModelMenu
from .parameterBinding import ParameterBinding
from .parameters import Parameters
from .segmenter import Request, Result, Segmenter
from .softwareRow import SoftwareRow
from .taskTree import TaskTree
from .workerClient import WorkerError

POLL_MILLISECONDS = 20


class Panel:
    """Connects the widgets of PartialSeg.ui with the parameters and the segmenter.

    Args:
        ui: the widgets by name.
        segmenter: does the work; its client must belong to this panel alone.
    """

    def __init__(self, ui: Any, segmenter: Segmenter) -> None:
        self.ui = ui
        self.segmenter = segmenter
        self.binding = ParameterBinding(ui)
        self.taskTree = TaskTree(ui.taskTree, self._onTicked, self.runTask)
        self.modelMenu = ModelMenu(ui.modelMenuButton, self._modelName, self.refreshModels, self.log)
        self.batchSection = BatchSection(ui, self._batchChoice, self.log)
        self.software = SoftwareRow(ui, self._onChecked, self.log)
        self._models: dict[str, tuple[Path, Manifest]] = {}
        self._startedAt = 0.0
        self._features = False
        self._started: _Started | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self.poll)
        segmenter.client.onLog = self.log
        ui.applyButton.connect("clicked(bool)", lambda checked=False: self.onApply())
        ui.searchEdit.connect("textChanged(QString)", self.taskTree.search)
        ui.allButton.connect("clicked(bool)", lambda checked=False: self.taskTree.tickAll(True))
        ui.noneButton.connect("clicked(bool)", lambda checked=False: self.taskTree.tickAll(False))

    @property
    def parameters(self) -> Parameters | None:
        """The settings of the scene; None while there is none."""
        return self.binding.parameters

    def setParameters(self, parameters: Parameters | None) -> None:
        """Show the settings of a scene; None while there is none."""
        self.binding.parameters = parameters
        if parameters is not None:
            self.refreshModels()
        self.update()

    def refreshModels(self) -> None:
        """Read which packages are installed."""
        self._models = {manifest.name: (folder, manifest) for folder, manifest in installed_packages()}
        titles = {
            name: f"{one.title} ({name} {one.version})" for name, (_folder, one) in self._models.items()
        }
        self.binding.fillModels(titles)
        self.update()

    def update(self) -> None:
        """Show the parameters in the widgets, and what can be done with them."""
        if self.parameters is None:
            return
        self.binding.show()
        self.taskTree.tick(self.parameters.tasks, self.parameters.excludedStructures)
        self._showModel()
        self._showWhatCanBeDone()

    def runTask(self, task: str) -> None:
        """Segment one task at once, whatever is ticked."""
        self._run([task])

    def onApply(self) -> None:
        """Segment the ticked tasks, or cancel what is running."""
        if self.segmenter.isBusy:
            self.segmenter.cancel()
            self.ui.statusLabel.text = _("Cancelling…")
            self.ui.applyButton.enabled = False
        elif self.parameters is not None:
            self._run(self.taskTree.ticked)

    def poll(self) -> None:
        """One small piece of work; called by the timer while something is running."""
        self.segmenter.poll()
        if not self.segmenter.isBusy:
            self._timer.stop()
            self._showWhatCanBeDone()

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self.ui.logText.appendPlainText(line)

    def stop(self) -> None:
        """End a running segmentation and the worker; the scene stays as it is."""
        self._timer.stop()
        self.segmenter.stop()
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = ""
        self._showWhatCanBeDone()

    def close(self) -> None:
        """End everything: the panel goes away."""
        self.stop()
        self.batchSection.stop()
        self.modelMenu.stop()
        self.software.stop()

    @property
    def manifest(self) -> Manifest | None:
        """Of the chosen model; None if it is not installed."""
        if self.parameters is None or self.parameters.model not in self._models:
            return None
        return self._models[self.parameters.model][1]

    def _run(self, tasks: list[str]) -> None:
        parameters = self.parameters
        if parameters is None or self.segmenter.isBusy:
            return
        volumeNode = parameters.inputVolume
        problem = self._whatIsMissing()
        if problem is not None:
            slicer.util.errorDisplay(problem)
            return
        warning = checks.findWarning(volumeNode, self.manifest, parameters.segmentation)
        if warning is not None and not slicer.util.confirmOkCancelDisplay(warning, _("Segment this volume?")):
            return
        options = self._modelOptions(parameters)
        self._startedAt = time.monotonic()
        self._features = volumeNode is not None and self.segmenter.keepsFeatures(volumeNode, options)
        self._started = _Started(parameters, self.manifest)
        try:
            self.segmenter.start(
                Request(
                    volumeNode=volumeNode,
                    tasks=tuple(tasks),
                    model=options,
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
        except InputError as error:
            slicer.util.errorDisplay(str(error))
            return
        self._showRunning(tasks)

    def _showRunning(self, tasks: list[str]) -> None:
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressBar.visible = True
        names = ", ".join(tasks)
        sentence = (
            _("Segmenting {tasks}, with features computed before.")
            if self._features
            else _("Segmenting {tasks}.")
        )
        self.ui.statusLabel.text = sentence.format(tasks=names)
        self._showWhatCanBeDone()
        self._timer.start()

    def _onProgress(self, done: int, total: int) -> None:
        self.ui.progressBar.setRange(0, total)
        self.ui.progressBar.value = done
        left = (time.monotonic() - self._startedAt) / done * (total - done)
        self.ui.statusLabel.text = _("Patch {done} of {total}, about {left} left").format(
            done=done, total=total, left=expectedTime.duration(left)
        )

    def _onWarning(self, sentence: str) -> None:
        self.log(sentence)
        self.ui.statusLabel.text = sentence

    def _onFinished(self, result: Result) -> None:
        seconds = time.monotonic() - self._startedAt
        started, parameters = self._started, self.parameters
        assert started is not None
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = _summary(result, seconds)
        self.log(self.ui.statusLabel.text)
        if not self._features and started.size > 0:
            device = str(result.reply["provenance"]["device"])
            expectedTime.remember(started.manifest, device, seconds, started.size)
        if started.show3D and result.segmentIds:
            result.segmentationNode.CreateClosedSurfaceRepresentation()
        if not started.keepWorker:
            self.segmenter.client.stop()
        if parameters is None:
            return
        if started.isStillChosen(parameters):
            parameters.segmentation = result.segmentationNode
        self._showModel()

    def _onFailed(self, error: WorkerError) -> None:
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = str(error)
        self.log(str(error))
        if error.kind != "Cancelled":
            slicer.util.errorDisplay(str(error))

    def _showModel(self) -> None:
        manifest = self.manifest
        if manifest is None:
            self.ui.modelLabel.text = _("The model is not installed; choose another one or install it.")
            self.taskTree.fill([], [], [])
            return
        assert self.parameters is not None
        time_ = expectedTime.expectation(self.parameters.inputVolume, manifest, self._expectedDevice())
        self.ui.modelLabel.text = _("{count} tasks. Licence: {license}. {time}").format(
            count=len(manifest.tasks), license=manifest.license, time=time_
        )
        if [task.name for task in manifest.tasks] != self.taskTree.names:
            self.taskTree.fill(manifest.tasks, self.parameters.tasks, self.parameters.excludedStructures)

    def _expectedDevice(self) -> str:
        assert self.parameters is not None
        device = self.parameters.device
        if device == "auto":
            device = self.software.report.automatic or "cpu"
        return device.split(":")[0]

    def _showWhatCanBeDone(self) -> None:
        """Enable the buttons, or say why they are not."""
        button = self.ui.applyButton
        if self.segmenter.isBusy:
            button.text, button.enabled = _("Cancel"), True
            button.toolTip = _("Stop; the scene stays as it is.")
            self.taskTree.enableButtons(False, _("A segmentation is running."))
            return
        button.text = _("Apply")
        problem = self._whatIsMissing()
        self.taskTree.enableButtons(problem is None, problem or _("Segment this task only, now."))
        if problem is None and not self.taskTree.ticked:
            problem = _("Tick at least one task.")
        button.enabled = problem is None
        button.toolTip = problem or _("Segment the ticked tasks.")

    def _whatIsMissing(self) -> str | None:
        if self.parameters is None or self.manifest is None:
            return _("Choose a model that is installed.")
        parameters = self.parameters
        return self._softwareProblem(parameters.device) or checks.findProblem(
            parameters.inputVolume,
            parameters.regionOfInterest,
            tempfile.gettempdir(),
            parameters.segmentation,
        )

    def _softwareProblem(self, device: str) -> str | None:
        report = self.software.report
        if report.canBeMended:
            return _("{finding} The button is in Advanced, Software.").format(finding=report.sentence())
        if report.lacks(device):
            sentence = _("The device {device} is not on this computer; choose another one in Advanced.")
            return sentence.format(device=device)
        return None

    def _modelOptions(self, parameters: Parameters) -> dict[str, Any]:
        """Parameters of the worker's `load_model`; the model by its folder."""
        return {**parameters.modelOptions(), "path": str(self._models[parameters.model][0])}

    def _batchChoice(self) -> BatchChoice:
        """What a batch shall look for.

        Raises:
            InputError: no task is ticked, or model, software or device are not there.
        """
        parameters, manifest = self.parameters, self.manifest
        if parameters is None or manifest is None:
            raise InputError(_("Choose a model that is installed."))
        if (problem := self._softwareProblem(parameters.device)) is not None:
            raise InputError(problem)
        if not self.taskTree.ticked:
            raise InputError(_("Tick at least one task."))
        structures = [
            f"{task.name}/{structure}"
            for task in manifest.tasks
            for structure in task.structures
            if task.name in self.taskTree.ticked
            and f"{task.name}/{structure}" not in parameters.excludedStructures
        ]
        return BatchChoice(self._modelOptions(parameters), self.taskTree.ticked, structures)

    def _onChecked(self, report: DependencyReport) -> None:
        self.binding.fillDevices(report)
        if report.canBeMended:
            self.ui.advancedCollapsibleButton.collapsed = False
        self.update()

    def _onTicked(self) -> None:
        if self.parameters is not None:
            self.parameters.tasks = self.taskTree.ticked
            self.parameters.excludedStructures = self.taskTree.excluded

    def _modelName(self) -> str:
        return self.parameters.model if self.parameters is not None else ""


class _Started:
    """What was set when a run began: the user may set something else while it goes on."""

    def __init__(self, parameters: Parameters, manifest: Manifest) -> None:
        self.manifest = manifest
        self.show3D, self.keepWorker = parameters.show3D, parameters.keepWorker
        whole = parameters.regionOfInterest is None
        self.size = expectedTime.megavoxels(parameters.inputVolume, manifest) if whole else 0.0
        self._nodeIds = _nodeIds(parameters)

    def isStillChosen(self, parameters: Parameters) -> bool:
        """Whether volume and segmentation are those of the run."""
        return _nodeIds(parameters) == self._nodeIds


def _nodeIds(parameters: Parameters) -> list[str | None]:
    nodes = (parameters.inputVolume, parameters.segmentation)
    return [node.GetID() if node is not None else None for node in nodes]


def _summary(result: Result, seconds: float) -> str:
    """What was found, in a sentence."""
    found = len(result.segmentIds)
    sentences = [
        _("{count} segments in {time}.").format(count=found, time=expectedTime.duration(seconds))
        if found
        else _("Nothing was found.")
    ]
    if found and result.notFound:
        names = ", ".join(f"{structure.replace('_', ' ')} ({task})" for task, structure in result.notFound)
        sentences.append(_("Nothing was found of: {structures}.").format(structures=names))
    return " ".join(sentences)
