"""From a volume in the scene to segments in it, by way of the worker; the scene changes at the very end.

`poll` carries everything on in small pieces: one reply of the worker, or one segment, in each call. The user
may delete nodes or change voxels while the worker computes; then nothing is added.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import slicer
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.failures import describe_failure, is_fault_of_ours
from PartialSegLib.protocol import Predict
from PartialSegLib.segmentation_files.seg_nrrd import TASK_TAG

from . import checks
from .scene import mrml
from .scene.provenance import labelmapOf, tagOf, voxelCount
from .scene.table import volumesTableSteps
from .worker.temporaryFolder import temporaryFolder
from .worker.workerClient import WorkerClient
from .worker.workerJobs import Job, ReceivedSegment, WorkerError

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What a finished run left in the scene.

    Attributes:
        segmentationNode: where the segments are.
        segmentIds: of the segments that were added or replaced.
        notFound: (task, structure) of which nothing was found.
        reply: provenance, timings and patches_encoded of the worker.
        note: what people should know of it; mostly empty.
    """

    segmentationNode: slicer.vtkMRMLSegmentationNode
    segmentIds: list[str] = field(default_factory=list)
    notFound: list[tuple[str, str]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Request:
    """What to segment, and whom to tell.

    Attributes:
        volumeNode: a scalar volume with a CT.
        tasks: names of tasks of the model.
        model: parameters of the worker's `load_model`.
        segmentationNode: where the segments go; None makes a new node when there is a result.
        structures: ids of the wanted structures; None for all.
        excluded: "task/structure" that are not wanted although their task and structure are.
        roiNode: Markups ROI; None for the whole volume.
        makeTable: write the volumes of all segments of the node to a table.
        onFinished, onFailed: called from `poll`; they may start another request.
        onProgress, onWarning: called from `poll`.
    """

    volumeNode: slicer.vtkMRMLScalarVolumeNode
    tasks: tuple[str, ...]
    model: dict[str, Any]
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None
    structures: tuple[str, ...] | None = None
    excluded: frozenset[str] = frozenset()
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None
    makeTable: bool = False
    onFinished: Callable[[Result], object] = lambda result: None
    onFailed: Callable[[WorkerError], object] = lambda error: None
    onProgress: Callable[[int, int], object] = lambda done, total: None
    onWarning: Callable[[str], object] = lambda sentence: None


@dataclass(frozen=True)
class _Before:
    """What the nodes of a request were when it began.

    Attributes:
        voxels: of the volume, see `voxelsKey`.
        voxelCounts: of the segments that may be replaced, by their IDs.
    """

    voxels: object
    voxelCounts: dict[str, int]


class Segmenter:
    """Runs one request at a time.

    Args:
        client: of the worker.
    """

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self._adding: Iterator[Callable[[], object] | None] | None = None

    @property
    def isBusy(self) -> bool:
        """Whether a request is being worked on."""
        return self.client.isBusy or self.isAdding

    @property
    def isAdding(self) -> bool:
        """Whether segments are being added to the scene, which no cancel stops."""
        return self._adding is not None

    def keepsFeatures(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, model: dict[str, Any]) -> bool:
        """Whether the next request on this volume with this model finds features computed before."""
        try:
            key = imageKey(volumeNode)
        except InputError:  # a transform that is not linear; such a volume is never sent
            return False
        return self.client.keepsFeatures(_withoutEffort(model), key)

    def start(self, request: Request) -> None:
        """Begin a request; `poll` carries it on.

        Raises:
            InputError: something is wrong with the volume, the region or the request; nothing was begun.
            RuntimeError: another request is running.
        """
        if self.isBusy:
            raise RuntimeError(_("A segmentation is running; cancel it or wait for it."))
        if not request.tasks:
            raise InputError(_("No task is chosen; tick at least one."))
        problem = checks.findProblem(
            request.volumeNode,
            request.roiNode,
            temporaryFolder(),
            request.segmentationNode,
            self._imageIsSent(request),
        )
        if problem is not None:
            raise InputError(problem)
        roi = None if request.roiNode is None else mrml.roiLimits(request.roiNode)
        before = _Before(voxelsKey(request.volumeNode), _voxelCounts(request))

        def finished(segments: list[ReceivedSegment], reply: dict[str, Any]) -> None:
            self._adding = self._addSegments(request, before, segments, reply)

        self.client.start(
            Job(
                model=_withoutEffort(request.model),
                volume=mrml.volumeFromNode(request.volumeNode),
                imageKey=imageKey(request.volumeNode),
                request=Predict(request.tasks, request.structures, roi, request.model.get("effort")),
                onFinished=finished,
                onFailed=request.onFailed,
                onProgress=request.onProgress,
                onWarning=request.onWarning,
            )
        )

    def poll(self, timeoutSeconds: float = 0.0) -> None:
        """Handle what the worker has sent, or add one segment to the scene."""
        if self._adding is None:
            self.client.poll(timeoutSeconds)
        elif (tell := next(self._adding)) is not None:
            self._adding = None
            tell()

    def wait(self) -> None:
        """Poll until the request has ended; for scripts, never for the panel."""
        while self.isBusy:
            self.poll(0.02)

    def cancel(self) -> None:
        """Ask the worker to stop; `onFailed` with kind Cancelled follows within one patch.

        Segments that are being added (`isAdding`) are added to the end.
        """
        self.client.cancel()

    def stop(self) -> None:
        """End the worker and forget the request, without callbacks."""
        self._adding = None
        self.client.stop()

    def _imageIsSent(self, request: Request) -> bool:
        return request.volumeNode is not None and self.keepsFeatures(request.volumeNode, request.model)

    def _addSegments(
        self,
        request: Request,
        before: _Before,
        segments: Iterable[ReceivedSegment],
        reply: dict[str, Any],
    ) -> Iterator[Callable[[], object] | None]:
        """Add one segment in each step; the last one gives the callback that is to be made."""
        try:
            result = yield from self._resultSteps(request, before, segments, reply)
            tell = partial(request.onFinished, result)
        except Exception as error:
            if is_fault_of_ours(error):
                logger.exception("Segments could not be added.")
            tell = partial(request.onFailed, WorkerError(*describe_failure(error)))
        yield tell

    def _resultSteps(
        self,
        request: Request,
        before: _Before,
        segments: Iterable[ReceivedSegment],
        reply: dict[str, Any],
    ) -> Generator[None, None, Result]:
        """Add one segment in each step and return the result.

        Raises:
            InputError: the nodes are not what they were when the request began.
        """
        volumeNode, node, note = request.volumeNode, request.segmentationNode, ""
        wanted = [found for found in segments if f"{found.task}/{found.structure}" not in request.excluded]
        _checkUnchanged(request, before.voxels)
        for segment in wanted:
            mrml.checkSegment(volumeNode, segment)
        if node is not None and _voxelCounts(request) != before.voxelCounts:
            sentence = _(
                "Segments of {segmentation} were edited while new ones were computed; these are in a "
                "segmentation of their own."
            )
            note = sentence.format(segmentation=node.GetName())
            request.onWarning(note)
            node = None
        if node is not None:
            mrml.checkSegmentation(node, volumeNode)
        else:
            name = _("{volume} segmentation").format(volume=volumeNode.GetName())
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        mrml.prepareSegmentation(node, volumeNode)
        result = Result(node, reply=reply, note=note)
        for step in _addingSteps(result, volumeNode, wanted, request.makeTable):
            yield step
            if volumeNode.GetScene() is None or node.GetScene() is None:
                raise InputError(_("The volume or the segmentation was deleted while segments were added."))
        return result


def _checkUnchanged(request: Request, voxels: object) -> None:
    """Check that the nodes of a request are still there, and the voxels those that were segmented.

    Raises:
        InputError: they are not.
    """
    for node, name in ((request.volumeNode, _("volume")), (request.segmentationNode, _("segmentation"))):
        if node is not None and node.GetScene() is None:
            sentence = _("The {node} was deleted while its segments were computed; nothing was added.")
            raise InputError(sentence.format(node=name))
    if voxelsKey(request.volumeNode) != voxels:
        sentence = _(
            "{volume} got other voxels or another geometry while it was segmented; nothing was added. "
            "Run again."
        )
        raise InputError(sentence.format(volume=request.volumeNode.GetName()))


def _voxelCounts(request: Request) -> dict[str, int]:
    """Voxels of the segments that a request may replace, by their IDs; those of the tasks asked for."""
    if request.segmentationNode is None:
        return {}
    segmentation = request.segmentationNode.GetSegmentation()
    segments = {id: segmentation.GetSegment(id) for id in segmentation.GetSegmentIDs()}
    return {
        id: voxelCount(segment)
        for id, segment in segments.items()
        if tagOf(segment, TASK_TAG) in request.tasks and labelmapOf(segment) is not None
    }


def _withoutEffort(model: dict[str, Any]) -> dict[str, Any]:
    """What stays the same when only the effort changes: that goes with each prediction, and features stay."""
    return {name: value for name, value in model.items() if name != "effort"}


def _addingSteps(
    result: Result,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segments: Iterable[ReceivedSegment],
    makeTable: bool,
) -> Iterator[None]:
    """Add one segment to the node in each step, then make the table."""
    node = result.segmentationNode
    for segment in segments:
        segmentId = mrml.addSegment(node, volumeNode, segment, result.reply["provenance"])
        if segmentId is None:
            result.notFound.append((segment.task, segment.structure))
        else:
            result.segmentIds.append(segmentId)
        yield
    if makeTable:
        yield from volumesTableSteps(node)


def imageKey(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Changes whenever voxels, geometry or transform of a volume change."""
    return (volumeNode.GetID(), voxelsKey(volumeNode), mrml.affineOfNode(volumeNode).tobytes())


def voxelsKey(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Changes whenever voxels of a volume change, or lie elsewhere below its parent transforms."""
    imageData = volumeNode.GetImageData()
    voxels = imageData.GetPointData().GetScalars() if imageData is not None else None
    if voxels is None:
        return ()
    return imageData.GetMTime(), voxels.GetMTime(), mrml.ownGeometry(volumeNode).tobytes()
