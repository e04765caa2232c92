"""The panel: what the user sees and clicks. It computes nothing; it asks the segmenter and shows answers."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import qt
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Manifest, Task
from PartialSegLib.packages.model_facts import held_out, limits, training_data

from .. import checks, expectedTime
from ..installedModels import Models, installedModels, titlesOf
from ..modelOptions import ModelOptions
from ..parameters import Parameters
from ..scene import mrml
from ..segmenter import Result, Segmenter
from ..worker.temporaryFolder import temporaryFolder
from .advancedSection import AdvancedSection
from .batchSection import BatchChoice, BatchSection
from .messages import confirm, plain, showError
from .modelMenu import ModelMenu
from .parameterBinding import ParameterBinding
from .runSection import RunSection
from .taskTree import TaskTree

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
        self.advanced = AdvancedSection(ui, self.binding, self.update, self.log)
        self.runSection = RunSection(ui, segmenter, self.log, self._onFinished)
        self._models: Models = {}
        self._isRunning = False  # a run of the panel's own, not of a script that shares the segmenter
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self.poll)
        segmenter.client.onLog = self.log
        self.advanced.software.onBeforeInstall = self._endWorkers
        ui.applyButton.connect("clicked(bool)", lambda checked=False: self.onApply())
        ui.searchEdit.connect("textChanged(QString)", self.taskTree.search)
        ui.allButton.connect("clicked(bool)", lambda checked=False: self.taskTree.tickAll(True))
        ui.noneButton.connect("clicked(bool)", lambda checked=False: self.taskTree.tickAll(False))
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._onRoiAdded)

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
        self._models = installedModels()
        self.binding.offer("modelComboBox", titlesOf(self._models))
        self.update()

    def update(self) -> None:
        """Show the parameters in the widgets, and what can be done with them."""
        if self.parameters is None:
            return
        self.binding.show()
        self.advanced.show(self.parameters, self._models)
        self.taskTree.tick(self.parameters.tasks, self.parameters.excludedStructures)
        self._showModel()
        self.showWhatCanBeDone()

    def runTask(self, task: str) -> None:
        """Segment one task at once, whatever is ticked."""
        self._run([task])

    def onApply(self) -> None:
        """Segment the ticked tasks, or cancel what is running."""
        if self._isRunning:
            self.segmenter.cancel()
            self.runSection.showCancelling()
            self.ui.applyButton.enabled = False
        elif self.parameters is not None:
            self._run(self.taskTree.ticked)

    def poll(self) -> None:
        """One small piece of work; called by the timer while something is running."""
        self.segmenter.poll()
        if not self.segmenter.isBusy:
            self._timer.stop()
            self._isRunning = False
            self.showWhatCanBeDone()
        elif self.segmenter.isAdding:
            self.showWhatCanBeDone()

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self.ui.logText.appendPlainText(line)

    def stop(self) -> None:
        """End a running segmentation and the worker; the scene stays as it is."""
        self._timer.stop()
        self._isRunning = False
        self.segmenter.stop()
        self.runSection.showNothing()
        self.showWhatCanBeDone()

    def close(self) -> None:
        """End everything: the panel goes away, or Slicer does."""
        with contextlib.ExitStack() as stack:
            for stop in (self.advanced.software.stop, self.modelMenu.stop, self.batchSection.stop, self.stop):
                stack.callback(stop)

    def _endWorkers(self) -> None:
        self.stop()
        self.batchSection.stop()

    @property
    def manifest(self) -> Manifest | None:
        """Of the chosen model; None if it is not installed."""
        if self.parameters is None or self.parameters.model not in self._models:
            return None
        return self._models[self.parameters.model][1]

    def modelOptions(self, parameters: Parameters) -> ModelOptions:
        """How the model runs; the models by their folders, so that the worker finds the same ones."""
        options = parameters.modelOptions()
        coarse = self._models.get(options.regionFrom)
        return dataclasses.replace(
            options,
            model=str(self._models[parameters.model][0]),
            regionFrom=str(coarse[0]) if coarse is not None else options.regionFrom,
        )

    def _run(self, tasks: list[str]) -> None:
        parameters = self.parameters
        if parameters is None or self._isRunning:
            return
        if self.segmenter.isBusy:
            showError(_("A script is segmenting; wait until it has ended."))
            return
        volumeNode = parameters.inputVolume
        problem = self._whatIsMissing()
        if problem is not None:
            showError(problem)
            return
        manifest = self.manifest
        assert manifest is not None
        tasks = [task.name for task in manifest.tasks if task.name in tasks and self._isWanted(task)]
        if not tasks:
            showError(_("All structures of these tasks are unticked; tick at least one."))
            return
        warning = checks.findWarning(
            volumeNode,
            manifest,
            parameters.segmentation,
            tasks,
            parameters.regionOfInterest,
            parameters.excludedStructures,
            self._imageIsSent(),
        )
        if warning is not None and not confirm(warning, _("Segment this volume?")):
            return
        try:
            self.runSection.start(parameters, tasks, self.modelOptions(parameters), manifest)
        except InputError as error:
            showError(str(error))
            return
        self._isRunning = self.segmenter.isBusy
        self.showWhatCanBeDone()
        self._timer.start()

    def _onFinished(self, result: Result) -> None:
        if self.parameters is None:
            return
        if self.runSection.isStillChosen(self.parameters):
            self.parameters.segmentation = result.segmentationNode
        self._showModel()

    def _showModel(self) -> None:
        manifest = self.manifest
        if manifest is None:
            self.ui.modelLabel.text = _("The model is not installed; choose another one or install it.")
            self.taskTree.fill([], [], [])
            return
        parameters = self.parameters
        assert parameters is not None
        device = self.advanced.expectedDevice(parameters.device)
        options = self.modelOptions(parameters)
        time_ = expectedTime.expectation(parameters.inputVolume, manifest, options, device)
        self.ui.modelLabel.text = _("{count} tasks. {training}Licence: {license}. {time}").format(
            count=len(manifest.tasks),
            training=_trainingSentences(manifest),
            license=manifest.license,
            time=time_,
        )
        self.ui.modelLabel.toolTip = plain(str(manifest.training.get("data", "")))
        if not self.taskTree.shows(manifest.tasks):
            self.taskTree.fill(manifest.tasks, parameters.tasks, parameters.excludedStructures)
        self.taskTree.showFigures(held_out(manifest))

    def _isWanted(self, task: Task) -> bool:
        """Whether a structure of a task has a tick."""
        assert self.parameters is not None
        return any(f"{task.name}/{one}" not in self.parameters.excludedStructures for one in task.structures)

    def showWhatCanBeDone(self) -> None:
        """Enable the buttons, or say why they are not."""
        button = self.ui.applyButton
        if self._isRunning:
            isAdding = self.segmenter.isAdding
            button.text, button.enabled = _("Cancel"), not isAdding
            button.toolTip = _("Adding the segments.") if isAdding else _("Stop; the scene stays as it is.")
            self.taskTree.enableButtons(_("A segmentation is running."))
            return
        button.text = _("Apply")
        problem = self._whatIsMissing()
        self.taskTree.enableButtons(problem)
        if problem is None and not self.taskTree.ticked:
            problem = _("Tick at least one task.")
        button.enabled = problem is None
        button.toolTip = plain(problem or _("Segment the ticked tasks."))

    def _whatIsMissing(self) -> str | None:
        if self.parameters is None or self.manifest is None:
            return _("Choose a model that is installed.")
        parameters = self.parameters
        return self.advanced.problem(parameters, self._models) or checks.findProblem(
            parameters.inputVolume,
            parameters.regionOfInterest,
            temporaryFolder(),
            parameters.segmentation,
            self._imageIsSent(),
        )

    def _imageIsSent(self) -> bool:
        """Whether the worker has the chosen model and volume."""
        parameters = self.parameters
        if parameters is None or parameters.inputVolume is None:
            return False
        try:
            model = self.modelOptions(parameters).forWorker()
        except InputError:  # settings of a scene that somebody wrote by hand; starting says it
            return False
        return self.segmenter.keepsFeatures(parameters.inputVolume, model)

    def _batchChoice(self) -> BatchChoice:
        """What a batch shall look for.

        Raises:
            InputError: no task is ticked, or model, software or device are not there.
        """
        parameters, manifest = self.parameters, self.manifest
        if parameters is None or manifest is None:
            raise InputError(_("Choose a model that is installed."))
        if (problem := self.advanced.problem(parameters, self._models)) is not None:
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
        if not structures:
            raise InputError(_("All structures of these tasks are unticked; tick at least one."))
        return BatchChoice(self.modelOptions(parameters).forWorker(), self.taskTree.ticked, structures)

    def _onRoiAdded(self, roiNode: Any) -> None:
        """Lay a new region around the volume, to be made smaller in the views."""
        volumeNode = self.parameters.inputVolume if self.parameters is not None else None
        if volumeNode is not None and volumeNode.GetImageData() is not None:
            mrml.layRoiAround(roiNode, volumeNode)

    def _onTicked(self) -> None:
        if self.parameters is not None:
            self.parameters.tasks = self.taskTree.ticked
            self.parameters.excludedStructures = self.taskTree.excluded

    def _modelName(self) -> str:
        return self.parameters.model if self.parameters is not None else ""


def _trainingSentences(manifest: Manifest) -> str:
    """On what the model was trained and what it is not good at, as far as its package says so."""
    data = training_data(manifest)
    sentences = [_("Trained on: {data}.").format(data=data.rstrip("."))] if data else []
    return "".join(f"{sentence} " for sentence in [*sentences, limits(manifest)] if sentence)
