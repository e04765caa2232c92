"""PartialSeg, a module of 3D Slicer: organs and tumours in CT, one click for each task."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

HOMEPAGE = "https://github.com/PartialSeg/SlicerPartialSeg"
NEEDED_PYTHON = (3, 11)
"""Of the library; Slicer 5.10 and newer have 3.12, 5.8 has 3.9. This file itself is read by all of them."""


def _findLibrary() -> None:
    """Let a source checkout find PartialSegLib; an installed module has it beside itself."""
    root = Path(__file__).resolve().parent.parent
    if (root / "PartialSegLib" / "__init__.py").exists() and str(root) not in sys.path:
        sys.path.append(str(root))


_findLibrary()


def _whyTooOld() -> str:
    """Why this Slicer cannot run the module, in a sentence; "" if it can."""
    if sys.version_info >= NEEDED_PYTHON:
        return ""
    return _(
        "PartialSeg needs Slicer 5.10 or newer (5.12 is best); this one has Python {version}. Get a newer "
        "Slicer from download.slicer.org and install the extension there."
    ).format(version=platform.python_version())


class PartialSeg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("PartialSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["The PartialSeg developers"]
        parent.helpText = _(
            "Segments organs and tumours in CT with models trained on partially labelled data. "
            "Choose a volume, tick tasks, click Apply; a further task on the volume reuses what is computed. "
            "Research use only, not a medical device. "
            '<a href="{homepage}">Documentation</a>'
        ).format(homepage=HOMEPAGE)
        parent.acknowledgementText = _(
            "Re-implements DoDNet (Zhang et al., CVPR 2021), TransDoDNet (Xie et al., TPAMI 2023), "
            "MultiTalent (Ulrich et al., MICCAI 2023), STU-Net in FLARE 2023 (Huang et al.) and Med-DANet "
            "(Wang et al., ECCV 2022), and runs models of nnU-Net (Isensee et al., Nature Methods 2021). The "
            "included model was trained on synthetic CT, in part made from the SPL/NAC/BWH abdominal atlas "
            '(Open Anatomy Project). How to cite: <a href="{homepage}">{homepage}</a>'
        ).format(homepage=HOMEPAGE)
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the phantom CT in Sample Data; it is computed, not downloaded."""
    if _whyTooOld():
        return
    from PartialSegSlicer import sampleData

    sampleData.register()


class PartialSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life of the panel: made when the module is first shown, told when scenes come and go."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: PartialSegLogic | None = None
        self.panel: Any = None
        self._watched: list[Any] = []
        self._importing = False

    def setup(self) -> None:
        """Load the .ui and connect it; where Slicer is too old, say so instead."""
        ScriptedLoadableModuleWidget.setup(self)
        if _whyTooOld():
            self._showWhyTooOld()
            return
        from PartialSegSlicer.widgets.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/PartialSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = PartialSegLogic()
        self.panel = Panel(self.ui, self.logic.segmenter)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onSceneEndBatch)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        for end in (self.logic.cleanup, self.panel.close):
            slicer.app.connect("aboutToQuit()", end)
        self._useParameterNode()

    def enter(self) -> None:
        """The module is shown."""
        if self.panel is not None:
            self._useParameterNode()
            self.panel.advanced.software.checkUnlessReady()

    def cleanup(self) -> None:
        """The module is closed or reloaded; nothing stays behind, even when a part of this fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.removeObservers)
            if self.logic is not None:
                stack.callback(self.logic.cleanup)
                stack.callback(slicer.app.disconnect, "aboutToQuit()", self.logic.cleanup)
            if self.panel is not None:
                stack.callback(slicer.app.disconnect, "aboutToQuit()", self.panel.close)
                stack.callback(self.panel.setParameters, None)
                self.panel.close()

    def onReload(self) -> None:
        """Read all files anew, not only this one; a developer has clicked Reload."""
        for name in list(sys.modules):
            if name.split(".")[0] in ("PartialSegSlicer", "PartialSegLib"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """Give up the run and the parameter node: the scene goes away."""
        if self.panel is not None:
            self.panel.stop()
            self._observe(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """Begin again in the empty scene, if the module is shown."""
        if self.parent.isEntered:
            self._useParameterNode()

    def onSceneStartImport(self, caller: Any, event: Any) -> None:
        """Let go of the settings while a file brings new ones; a run goes on."""
        self._observe(None)
        self._importing = True

    def onSceneEndBatch(self, caller: Any, event: Any) -> None:
        """Show the settings that a file has brought; only now do the selectors know its nodes."""
        if self._importing:
            self._importing = False
            if self.parent.isEntered or self.logic.hasParameters():
                self._useParameterNode()

    def onNodeRemoved(self, caller: Any, event: Any) -> None:
        """Begin with new settings if somebody has deleted the old ones, and the module is shown."""
        parameters = self.panel.parameters
        if parameters is None or parameters.node.GetScene() is not None:
            return
        self._observe(None)
        if self.parent.isEntered:
            self._useParameterNode()

    def _showWhyTooOld(self) -> None:
        import qt

        label = qt.QLabel(_whyTooOld())
        label.wordWrap = True
        self.layout.addWidget(label)

    def _useParameterNode(self) -> None:
        """Show the settings in the scene, made when there are none; the first volume is chosen if none is."""
        assert self.logic is not None
        parameters = self.logic.getParameters()
        if parameters.inputVolume is None:
            parameters.inputVolume = _firstVolume()
        self._observe(parameters)

    def _observe(self, parameters: Any) -> None:
        modified = vtk.vtkCommand.ModifiedEvent
        if self.panel.parameters is not None:
            self.removeObserver(self.panel.parameters.node, modified, self._onModified)
        if parameters is not None:
            self.addObserver(parameters.node, modified, self._onModified)
        self.panel.setParameters(parameters)
        self._watchNodes()

    def _onModified(self, caller: Any, event: Any) -> None:
        self._watchNodes()
        self.panel.update()

    def _watchNodes(self) -> None:
        """Hear of it when voxels, transform or region of interest change: what can be done may change."""
        parameters = self.panel.parameters
        volumeNode = parameters.inputVolume if parameters is not None else None
        roiNode = parameters.regionOfInterest if parameters is not None else None
        if [volumeNode, roiNode] == self._watched:
            return
        for node in self._watched:
            for event in _changesOf(node):
                self.removeObserver(node, event, self._onNodeChanged)
        self._watched = [volumeNode, roiNode]
        for node in self._watched:
            for event in _changesOf(node):
                self.addObserver(node, event, self._onNodeChanged)

    def _onNodeChanged(self, caller: Any, event: Any) -> None:
        if caller is self._watched[0]:
            self.panel.update()
        else:
            self.panel.showWhatCanBeDone()  # often: the region is being dragged


def _firstVolume() -> Any:
    """The first volume of the scene that people see and that is no label map, or None."""
    kind = "vtkMRMLScalarVolumeNode"
    nodes = slicer.util.getNodesByClass(kind)
    return next((one for one in nodes if one.GetClassName() == kind and not one.GetHideFromEditors()), None)


def _changesOf(node: Any) -> tuple[int, ...]:
    """The events after which a volume or a region of interest may be segmented, or no longer."""
    if node is None:
        return ()
    moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
    if node.IsA("vtkMRMLVolumeNode"):
        return vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, moved
    return vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, moved


def _tellNobody(*answer: Any) -> None:
    """Stand for a callback that a script does not want."""


def _logWarning(sentence: str) -> None:
    """Tell the log, and with it the console, what a script should know."""
    logging.warning("PartialSeg: %s", sentence)


def _printCase(case: Any, outcome: Any, done: int, total: int) -> None:
    """Tell the console how a case of a batch has ended."""
    print(f"{done} of {total}: {case.name}, {outcome.error or f'{outcome.seconds:.1f} s'}")  # noqa: T201


class PartialSegLogic(ScriptedLoadableModuleLogic):
    """Segmentation from scripts; the panel uses the same parts."""

    def __init__(self) -> None:
        if why := _whyTooOld():
            raise RuntimeError(why)
        from PartialSegSlicer.installedModels import useStoredFolder
        from PartialSegSlicer.segmenter import Segmenter
        from PartialSegSlicer.worker.temporaryFolder import startWorker
        from PartialSegSlicer.worker.workerClient import WorkerClient

        ScriptedLoadableModuleLogic.__init__(self)
        useStoredFolder()
        self.segmenter = Segmenter(WorkerClient(startWorker))

    def getParameters(self) -> Any:
        """The settings in the scene; made when there are none."""
        from PartialSegSlicer.parameters import Parameters

        return Parameters(self.getParameterNode())

    def hasParameters(self) -> bool:
        """Whether there are settings in the scene."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        return node is not None

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        tasks: str | Iterable[str],
        segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
        **options: Any,
    ) -> slicer.vtkMRMLSegmentationNode:
        """Segment a volume and wait for it; for scripts.

        Args:
            volumeNode: a CT in HU.
            tasks: names of tasks of the model.
            segmentationNode: where the segments go; None makes a new node.
            options: of `segmentAsync`, the callbacks excepted.

        Returns:
            The segmentation node.

        Raises:
            InputError: something is wrong with the volume or the request.
            WorkerError: the worker could not do it; the scene is unchanged.
        """
        answers: list[Any] = []
        callbacks = {"onFinished": answers.append, "onFailed": answers.append}
        self.segmentAsync(volumeNode, tasks, segmentationNode, **options, **callbacks)
        self.segmenter.wait()
        (answer,) = answers
        if isinstance(answer, Exception):
            raise answer
        return answer.segmentationNode

    def segmentAsync(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        tasks: str | Iterable[str],
        segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
        *,
        structures: Iterable[str] | None = None,
        roiNode: slicer.vtkMRMLMarkupsROINode | None = None,
        onFinished: Callable[..., object] = _tellNobody,
        onFailed: Callable[..., object] = _tellNobody,
        onProgress: Callable[..., object] = _tellNobody,
        onWarning: Callable[..., object] = _logWarning,
        **options: Any,
    ) -> None:
        """Begin to segment a volume; call `segmenter.poll` until the callbacks have been made.

        Args:
            volumeNode: a CT in HU.
            tasks: names of tasks of the model.
            segmentationNode: where the segments go; None makes a new node when there is a result.
            structures: ids of the wanted structures; None for all.
            roiNode: segment only this box.
            onFinished: called with the `PartialSegSlicer.segmenter.Result`.
            onFailed: called with a `PartialSegSlicer.worker.workerClient.WorkerError`.
            onProgress: called with the patches done and in total.
            onWarning: called with a sentence, also with what the panel would ask about; none stops the run.
            options: model, device and whatever else `PartialSegSlicer.modelOptions.ModelOptions` has.

        Raises:
            InputError: something is wrong with the volume or the request.
        """
        from PartialSegSlicer.modelOptions import ModelOptions
        from PartialSegSlicer.scripting import allTasks, checkNodes, findWarningFor, namesOf
        from PartialSegSlicer.segmenter import Request

        checkNodes(volumeNode, segmentationNode, roiNode)
        model, tasks, structures = ModelOptions(**options).forWorker(), namesOf(tasks), namesOf(structures)
        if tasks is None:
            tasks = allTasks(model)
        imageIsSent = volumeNode is not None and self.segmenter.keepsFeatures(volumeNode, model)
        self.segmenter.start(
            Request(
                volumeNode=volumeNode,
                tasks=tasks,
                model=model,
                segmentationNode=segmentationNode,
                structures=structures,
                roiNode=roiNode,
                onFinished=onFinished,
                onFailed=onFailed,
                onProgress=onProgress,
                onWarning=onWarning,
            )
        )
        warning = findWarningFor(volumeNode, model, segmentationNode, tasks, structures, roiNode, imageIsSent)
        if warning is not None:
            onWarning(warning)

    def segmentFiles(
        self,
        paths: str | Path | Iterable[str | Path],
        outputFolder: str | Path,
        tasks: str | Iterable[str] | None = None,
        *,
        structures: Iterable[str] | None = None,
        outputFormat: str = ".seg.nrrd",
        anyModality: bool = False,
        overwrite: bool = False,
        onCase: Callable[..., object] = _printCase,
        **options: Any,
    ) -> Any:
        """Segment image files, one segmentation file each, and wait for it; the scene is not touched.

        Slicer stays usable meanwhile. A batch that was stopped goes on where it stopped when called again.

        Args:
            paths: image files, folders of image files, and folders with DICOM series at any depth.
            outputFolder: gets the segmentations, and summary.csv with volumes in ml and errors.
            tasks: names of tasks of the model; None for all.
            structures: ids of the wanted structures; None for all.
            outputFormat: .seg.nrrd, .nii.gz, .dcm (a DICOM segmentation, for folders with DICOM images), or
                folder (one mask for each structure).
            anyModality: accept images that do not look like CT in HU.
            overwrite: begin anew whatever the folder holds.
            onCase: called after each case with the case, its outcome, and how many of how many are done.
            options: as of `segmentAsync`: model, device and so on.

        Returns:
            The `PartialSegLib.batch.running.Batch`: cases, done, failed, summary.

        Raises:
            InputError: an input, a name or the output folder cannot be used.
            WorkerError: the run ended early, for want of a device or of disk space.
        """
        from PartialSegSlicer.batchRun import makeBatch, runBatch
        from PartialSegSlicer.modelOptions import ModelOptions

        model = ModelOptions(**options).forWorker()
        batch = makeBatch(paths, outputFolder, tasks, structures, model, outputFormat, overwrite, anyModality)
        runBatch(batch, model, onCase, anyModality)
        return batch

    def cleanup(self) -> None:
        """End the worker; the next segmentation starts a new one. It ends with the logic, too."""
        self.segmenter.stop()


class PartialSegTest(ScriptedLoadableModuleTest):
    """Self test, run by Reload and Test in Slicer: a coarse phantom, panel, bundled model and worker.

    Where PyTorch is not installed, as on the computers that build extensions, nothing is segmented.
    """

    def setUp(self) -> None:
        """Start in a scene with nothing but a phantom, which another process has made."""
        if why := _whyTooOld():
            self.skipTest(why)
        from PartialSegSlicer.sampleData import addPhantom

        slicer.mrmlScene.Clear()
        self.delayDisplay("Making a phantom")
        self.volumeNode = addPhantom(seed=2, spacing=[8.0, 4.0, 4.0], shape=[48, 96, 104])
        self.logic = PartialSegLogic()

    def tearDown(self) -> None:
        """End the worker."""
        self.logic.cleanup()

    def runTest(self) -> None:
        """Run the tests, with one phantom and one worker."""
        self.setUp()
        try:
            self.test_SampleDataOffersThePhantom()
            self.test_PanelSaysWhatIsMissing()
            if _hasTorch():
                self.test_CancelLeavesTheSceneAsItWas()
                self.test_PhantomIsSegmented()
            else:
                self.test_MissingSoftwareIsFound()
        finally:
            self.tearDown()
        self.delayDisplay("Test passed" if _hasTorch() else "Test passed, without PyTorch")

    def test_SampleDataOffersThePhantom(self) -> None:
        """The phantom is in Sample Data, once."""
        import SampleData

        from PartialSegSlicer import sampleData

        self.delayDisplay("Looking for the phantom in Sample Data")
        registerSampleData()
        sources = SampleData.SampleDataLogic.sampleDataSourcesByCategory(sampleData.CATEGORY)
        assert [source.sampleName for source in sources] == [sampleData.NAME]

    def test_PanelSaysWhatIsMissing(self) -> None:
        """The panel asks for a volume, then for a task; its settings are in the scene."""
        from PartialSegSlicer.checks import findProblem
        from PartialSegSlicer.widgets.panel import Panel

        self.delayDisplay("Setting up the panel")
        window = slicer.util.loadUI(str(Path(__file__).parent / "Resources" / "UI" / "PartialSeg.ui"))
        window.setMRMLScene(slicer.mrmlScene)
        ui = slicer.util.childWidgetVariables(window)
        panel, parameters = Panel(ui, self.logic.segmenter), self.logic.getParameters()
        try:
            parameters.inputVolume, parameters.tasks = None, []
            panel.setParameters(parameters)
            assert not ui.applyButton.enabled
            assert ui.applyButton.toolTip == findProblem(None)
            parameters.inputVolume = self.volumeNode
            panel.update()
            assert findProblem(self.volumeNode) is None
            assert not ui.applyButton.enabled
            panel.taskTree.tickAll(True)
            panel.update()
            assert ui.applyButton.enabled
            assert "spleen" in self.logic.getParameters().tasks
        finally:
            panel.setParameters(None)
            panel.close()
            window.deleteLater()

    def test_MissingSoftwareIsFound(self) -> None:
        """A check in another process finds that PyTorch is not there, and says so."""
        if _hasTorch():
            self.skipTest("PyTorch is installed")
        from PartialSegSlicer.dependencies import DependencyCheck

        self.delayDisplay("Looking for PyTorch")
        check = DependencyCheck()
        while (report := check.poll()) is None:
            slicer.app.processEvents()
            time.sleep(0.05)
        assert "torch" in report.missing, report.sentence()
        assert report.canBeMended

    def test_CancelLeavesTheSceneAsItWas(self) -> None:
        """A cancelled run tells so and adds no node."""
        self._needTorch()
        self.delayDisplay("Cancelling a segmentation")
        before = _nodeIds()
        answers = self._answers(self.logic.segmenter.cancel, "liver")
        assert [getattr(answer, "kind", answer) for answer in answers] == ["Cancelled"]
        assert _nodeIds() == before

    def test_PhantomIsSegmented(self) -> None:
        """Liver and spleen of the phantom are found where they are, and the second task encodes nothing."""
        self._needTorch()
        self.delayDisplay("Segmenting liver and spleen")
        liver = self._segment("liver", None)
        node = liver.segmentationNode
        spleen = self._segment("spleen", node)
        assert liver.reply["patches_encoded"] > 0
        assert spleen.reply["patches_encoded"] == 0
        assert spleen.segmentationNode is node
        self._checkOrgan(node, "liver", "10200004", (800, 1700), side=1)
        self._checkOrgan(node, "spleen", "78961009", (40, 150), side=-1)

    def _needTorch(self) -> None:
        if not _hasTorch():
            self.skipTest("PyTorch is not installed; the module offers to install it")

    def _segment(self, task: str, segmentationNode: Any) -> Any:
        answers = self._answers(lambda: None, task, segmentationNode)
        assert len(answers) == 1, f"{task} was not segmented"
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def _answers(self, whenStarted: Callable[[], object], *request: Any) -> list[Any]:
        answers: list[Any] = []
        callbacks = {"onFinished": answers.append, "onFailed": answers.append}
        self.logic.segmentAsync(self.volumeNode, *request, **callbacks)
        whenStarted()
        self.logic.segmenter.wait()
        return answers

    def _checkOrgan(self, node: Any, name: str, code: str, ml: tuple[float, float], side: int) -> None:
        """Check an organ of the phantom.

        Args:
            node: the segmentation.
            name: of task and structure.
            code: of the structure in SNOMED CT.
            ml: least and greatest volume.
            side: 1 if it lies in the patient's right half, -1 for the left.
        """
        from PartialSegSlicer.scene.provenance import tagOf

        segmentId = f"PartialSeg_{name}_{name}"
        segment = node.GetSegmentation().GetSegment(segmentId)
        assert segment is not None, f"there is no {name}"
        assert code in tagOf(segment, segment.GetTerminologyEntryTagName())
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, self.volumeNode) > 0
        spacing = self.volumeNode.GetSpacing()
        volume = mask.sum() * spacing[0] * spacing[1] * spacing[2] / 1000
        assert ml[0] < volume < ml[1], f"{name}: {volume:.0f} ml"
        intensity = slicer.util.arrayFromVolume(self.volumeNode)[mask].mean()
        assert 50 < intensity < 250, f"{name}: {intensity:.0f} HU"
        ijkToRas = vtk.vtkMatrix4x4()
        self.volumeNode.GetIJKToRASMatrix(ijkToRas)
        center = ijkToRas.MultiplyPoint([*(axis.mean() for axis in mask.nonzero()[::-1]), 1])
        assert side * center[0] > 20, f"{name} lies on the wrong side"  # the phantom stands in the middle


def _hasTorch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _nodeIds() -> list[str]:
    scene = slicer.mrmlScene
    return [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]
