"""PartialSeg, a module of 3D Slicer: organs and tumours in CT, one click for each task."""

from __future__ import annotations

import importlib.util
import logging
import sys
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


def _findLibrary() -> None:
    """Let a source checkout find PartialSegLib; an installed module has it beside itself."""
    root = Path(__file__).resolve().parent.parent
    if (root / "PartialSegLib" / "__init__.py").exists() and str(root) not in sys.path:
        sys.path.append(str(root))


_findLibrary()


class PartialSeg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("PartialSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["The PartialSeg team"]
        parent.helpText = _(
            "Segments organs and tumours in CT with models trained on partially labelled data. "
            "Choose a volume, tick tasks, click Apply; a further task on the volume reuses what is computed. "
            "Research use only, not a medical device."
        )
        parent.acknowledgementText = _(
            "Re-implements DoDNet, TransDoDNet, MultiTalent, STU-Net and Med-DANet."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the phantom CT in Sample Data; it is computed, not downloaded."""
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
        """Load the .ui and connect it."""
        from PartialSegSlicer.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
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
        slicer.app.connect("aboutToQuit()", self.logic.cleanup)
        self._useParameterNode()

    def enter(self) -> None:
        """The module is shown."""
        self._useParameterNode()
        self.panel.advanced.software.checkUnlessReady()

    def cleanup(self) -> None:
        """The module is closed or reloaded."""
        if self.panel is not None:
            self.panel.close()
            self.panel.setParameters(None)
        if self.logic is not None:
            self.logic.cleanup()
        self.removeObservers()

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
            self._useParameterNode()

    def onNodeRemoved(self, caller: Any, event: Any) -> None:
        """Begin with new settings if somebody has deleted the old ones."""
        parameters = self.panel.parameters
        if parameters is not None and parameters.node.GetScene() is None:
            self._useParameterNode()

    def _useParameterNode(self) -> None:
        assert self.logic is not None
        self._observe(self.logic.getParameters())

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


def _changesOf(node: Any) -> tuple[int, ...]:
    """The events after which a volume or a region of interest may be segmented, or no longer."""
    if node is None:
        return ()
    moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
    if node.IsA("vtkMRMLVolumeNode"):
        return slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, moved
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
        from PartialSegSlicer.installedModels import useStoredFolder
        from PartialSegSlicer.segmenter import Segmenter
        from PartialSegSlicer.temporaryFolder import startWorker
        from PartialSegSlicer.workerClient import WorkerClient

        ScriptedLoadableModuleLogic.__init__(self)
        useStoredFolder()
        self.segmenter = Segmenter(WorkerClient(startWorker))

    def getParameters(self) -> Any:
        """The settings in the scene; made when there are none."""
        from PartialSegSlicer.parameters import Parameters

        return Parameters(self.getParameterNode())

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
            onFailed: called with a `PartialSegSlicer.workerClient.WorkerError`.
            onProgress: called with the patches done and in total.
            onWarning: called with a sentence, also with what the panel would ask about; none stops the run.
            options: model, device and whatever else `PartialSegSlicer.modelOptions.ModelOptions` has.

        Raises:
            InputError: something is wrong with the volume or the request.
        """
        from PartialSegSlicer.checks import findWarning
        from PartialSegSlicer.modelOptions import ModelOptions
        from PartialSegSlicer.segmenter import Request

        self.segmenter.start(
            Request(
                volumeNode=volumeNode,
                tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks),
                model=ModelOptions(**options).forWorker(),
                segmentationNode=segmentationNode,
                structures=None if structures is None else tuple(structures),
                roiNode=roiNode,
                onFinished=onFinished,
                onFailed=onFailed,
                onProgress=onProgress,
                onWarning=onWarning,
            )
        )
        warning = findWarning(volumeNode)
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
            outputFormat: .seg.nrrd, .nii.gz, or folder (one mask for each structure).
            anyModality: accept images that do not look like CT in HU.
            overwrite: begin anew whatever the folder holds.
            onCase: called after each case with the case, its outcome, and how many of how many are done.
            options: as of `segmentAsync`: model, device and so on.

        Returns:
            The `PartialSegLib.batch.Batch`: cases, done, failed, summary.

        Raises:
            InputError: an input, a name or the output folder cannot be used.
            WorkerError: the run ended early, for want of a device or of disk space.
        """
        from PartialSegSlicer.batchRun import makeBatch, runBatch
        from PartialSegSlicer.modelOptions import ModelOptions

        model = ModelOptions(**options).forWorker()
        batch = makeBatch(paths, outputFolder, tasks, structures, model, outputFormat, overwrite)
        runBatch(batch, model, onCase, anyModality)
        return batch

    def cleanup(self) -> None:
        """End the worker; the next segmentation starts a new one. It ends with the logic, too."""
        self.segmenter.stop()


class PartialSegTest(ScriptedLoadableModuleTest):
    """Self test, run by Reload and Test in Slicer: a coarse phantom, the bundled model, the real worker."""

    def setUp(self) -> None:
        """Start in a scene with nothing but a phantom."""
        from PartialSegSlicer.sampleData import addPhantom

        if importlib.util.find_spec("torch") is None:
            self.skipTest("PyTorch is not installed; the module offers to install it")
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
            self.test_CancelLeavesTheSceneAsItWas()
            self.test_PhantomIsSegmented()
        finally:
            self.tearDown()
        self.delayDisplay("Test passed")

    def test_CancelLeavesTheSceneAsItWas(self) -> None:
        """A cancelled run tells so and adds no node."""
        self.delayDisplay("Cancelling a segmentation")
        before = _nodeIds()
        answers = self._answers(self.logic.segmenter.cancel, "liver")
        assert [getattr(answer, "kind", answer) for answer in answers] == ["Cancelled"]
        assert _nodeIds() == before

    def test_PhantomIsSegmented(self) -> None:
        """Liver and spleen of the phantom are found where they are, and the second task encodes nothing."""
        self.delayDisplay("Segmenting liver and spleen")
        liver = self._segment("liver", None)
        node = liver.segmentationNode
        spleen = self._segment("spleen", node)
        assert liver.reply["patches_encoded"] > 0
        assert spleen.reply["patches_encoded"] == 0
        assert spleen.segmentationNode is node
        self._checkOrgan(node, "liver", "10200004", (800, 1700), side=1)
        self._checkOrgan(node, "spleen", "78961009", (40, 150), side=-1)

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
        from PartialSegSlicer.provenance import tagOf

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


def _nodeIds() -> list[str]:
    scene = slicer.mrmlScene
    return [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]
