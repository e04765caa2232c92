"""Between MRML nodes and the library: a volume out of the scene, segments into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from PartialSegLib.errors import InputError
from PartialSegLib.masks.boxes import widened
from PartialSegLib.masks.region import Region
from PartialSegLib.segmentation import Key
from PartialSegLib.structures import structure_or_tissue
from PartialSegLib.volume import Volume

from .geometry import (
    affineOfLabelmap,
    affineOfNode,
    arrayShape,
    hasSameGrid,
    ijkBelow,
    isRotated,
    ownGeometry,
    roiLimits,
    volumeInMl,
)
from .provenance import (
    earlierSegmentId,
    isMadeByPartialSeg,
    labelmapOf,
    segmentId,
    segmentTags,
    updateNames,
    voxelCount,
)
from .subjectHierarchy import placeBeside
from .table import volumesTable

if TYPE_CHECKING:
    from ..worker.workerJobs import ReceivedSegment

__all__ = [
    "addSegment",
    "addSegments",
    "affineOfNode",
    "checkSegment",
    "checkSegmentation",
    "isRotated",
    "layRoiAround",
    "ownGeometry",
    "prepareSegmentation",
    "reachesOutside",
    "roiLimits",
    "volumeFromNode",
    "volumeInMl",
    "volumesTable",
]

LABELMAP = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()


def volumeFromNode(volumeNode) -> Volume:
    """Return the voxels of a scalar volume node (a view, no copy) and where they are.

    Args:
        volumeNode: a vtkMRMLScalarVolumeNode with image data; linear parent transforms are applied.

    Returns:
        Array (z, y, x), and the affine from array index order (k, j, i, 1) to world RAS mm.

    Raises:
        InputError: a parent transform is not linear, or the axes of the volume are not at right angles.
    """
    return Volume(slicer.util.arrayFromVolume(volumeNode), affineOfNode(volumeNode))


def layRoiAround(roiNode, volumeNode) -> None:
    """Make a Markups ROI the box around a volume, parent transforms applied, and visible."""
    limits = [0.0] * 6
    volumeNode.GetRASBounds(limits)
    lowest, highest = np.array(limits[::2]), np.array(limits[1::2])
    roiNode.SetXYZ(*(lowest + highest) / 2)
    roiNode.SetSize(*highest - lowest)
    roiNode.CreateDefaultDisplayNodes()


def addSegments(
    segmentationNode, volumeNode, segments: Iterable[ReceivedSegment], provenance: Mapping[str, Any]
) -> list[Key]:
    """Put what was found into a segmentation node.

    What the same task found of the same structure in an earlier run is replaced and keeps its place, colour
    and visibility; no other segment is touched. Masks may overlap.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
        volumeNode: the volume that was segmented.
        segments: what was found, empty masks included.
        provenance: what made the segments, as plain JSON; the time is added.

    Returns:
        (task, structure) of the empty masks: what was looked for and not found. It has no segment.

    Raises:
        InputError: see `prepareSegmentation` and `checkSegment`; the scene is then unchanged.
    """
    segments = list(segments)
    for found in segments:
        checkSegment(volumeNode, found)
    prepareSegmentation(segmentationNode, volumeNode)
    return [
        (found.task, found.structure)
        for found in segments
        if addSegment(segmentationNode, volumeNode, found, provenance) is None
    ]


def reachesOutside(segmentationNode, id: str, roiNode) -> bool:
    """Say whether a segment has voxels more than one voxel outside a region of interest.

    Raises:
        InputError: a parent transform of the segmentation is not linear.
    """
    segment = segmentationNode.GetSegmentation().GetSegment(id)
    labelmap = labelmapOf(segment)
    if labelmap is None or not (count := voxelCount(segment)):
        return False
    shape = labelmap.GetDimensions()[::-1]
    affine = affineOfLabelmap(labelmap, segmentationNode.GetParentTransformNode())
    try:
        box = Region.from_limits(roiLimits(roiNode)).voxel_box(affine, shape)
    except InputError:  # it lies beside the segment
        return True
    labels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(shape)
    return np.count_nonzero(labels[widened(box, (1, 1, 1), shape)] == segment.GetLabelValue()) < count


def checkSegment(volumeNode, found: ReceivedSegment) -> None:
    """Check that a mask fits its box, and the box the volume.

    Raises:
        InputError: they do not.
    """
    sizes = tuple(part.stop - part.start for part in found.box)
    inside = all(
        0 <= part.start <= part.stop <= size
        for part, size in zip(found.box, arrayShape(volumeNode), strict=True)
    )
    if not inside or found.mask.shape != sizes:
        sentence = _("The {structure} found does not fit {volume}, which was changed meanwhile; run again.")
        name = structure_or_tissue(found.structure).name
        raise InputError(sentence.format(structure=name, volume=volumeNode.GetName()))


def checkSegmentation(segmentationNode, volumeNode) -> None:
    """Check that a segmentation node can take segments of a volume.

    Raises:
        InputError: it is made of surfaces, or cannot hold the volume's grid because of a transform.
    """
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        ijkBelow(volumeNode.GetParentTransformNode(), volumeNode)
        return
    if segmentation.GetSourceRepresentationName() != LABELMAP:
        sentence = _("The segmentation {name} is made of surfaces, not voxels; choose another or a new one.")
        raise InputError(sentence.format(name=segmentationNode.GetName()))
    ijkBelow(segmentationNode.GetParentTransformNode(), volumeNode)


def prepareSegmentation(segmentationNode, volumeNode) -> None:
    """Make a segmentation node ready for segments of a volume.

    Sets the volume as its reference and puts it beside the volume in the subject hierarchy, unless it lies in
    a folder already. An empty one comes under the volume's parent transform. One with segments of others on
    another grid keeps that grid as its reference geometry.

    Raises:
        InputError: see `checkSegmentation`; nothing was changed.
    """
    checkSegmentation(segmentationNode, volumeNode)
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        segmentationNode.SetSourceRepresentationToBinaryLabelmap()
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    if segmentationNode.GetDisplayNode() is None:
        segmentationNode.CreateDefaultDisplayNodes()
    isOurs = all(isMadeByPartialSeg(segmentation, id) for id in segmentation.GetSegmentIDs())
    if isOurs or hasSameGrid(segmentationNode, volumeNode):
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    placeBeside(segmentationNode, volumeNode)


def addSegment(
    segmentationNode, volumeNode, found: ReceivedSegment, provenance: Mapping[str, Any]
) -> str | None:
    """Put one mask into a segmentation node that `prepareSegmentation` has made ready.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
        volumeNode: the volume that was segmented.
        found: what was found; the memory of its mask becomes that of the segment.
        provenance: what made the segment, as plain JSON; the time is added.

    Returns:
        The ID of the segment; None for an empty mask, which takes an earlier segment away.
    """
    segmentation = segmentationNode.GetSegmentation()
    id = earlierSegmentId(segmentation, found.task, found.structure)
    if voxels := np.count_nonzero(found.mask):
        labelmap = _labelmap(found, ijkBelow(segmentationNode.GetParentTransformNode(), volumeNode))
        tags = segmentTags(found.task, found.structure, voxels, provenance)
        if id is None:
            id = _append(segmentation, found, labelmap, tags)
        else:
            _replace(segmentation, id, labelmap, tags)
    elif id is not None:
        segmentation.RemoveSegment(id)
        id = None
    updateNames(segmentation, found.structure)
    return id


def _append(segmentation, found: ReceivedSegment, labelmap, tags: Mapping[str, str]) -> str:
    structure = structure_or_tissue(found.structure)
    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor([channel / 255 for channel in structure.color])
    segment.SetColorAutoGenerated(False)
    _setTags(segment, tags)
    segment.AddRepresentation(LABELMAP, labelmap)
    id = segmentation.GenerateUniqueSegmentID(segmentId(found.task, found.structure))
    segmentation.AddSegment(segment, id)  # also makes its surface if the other segments have one
    return id


def _replace(segmentation, id: str, labelmap, tags: Mapping[str, str]) -> None:
    """Give a segment another labelmap; Slicer alone would drop the surfaces of all the others, too."""
    segmentation.SeparateSegmentLabelmap(id)  # out of the layer that it may share with others
    segment = segmentation.GetSegment(id)
    hadSurface = segment.RemoveRepresentation(SURFACE)
    segment.SetLabelValue(1)
    segment.AddRepresentation(LABELMAP, labelmap)
    _setTags(segment, tags)
    if hadSurface:
        segmentation.CreateRepresentation(SURFACE)  # makes what is missing, no more
    segmentation.InvokeEvent(segmentation.SourceRepresentationModified, id)
    segmentation.InvokeEvent(segmentation.RepresentationModified, id)


def _setTags(segment, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        segment.SetTag(name, value)


def _labelmap(found: ReceivedSegment, ijkToNode: np.ndarray):
    """The box alone as an image on the volume's grid; the mask is not copied, which would block for long."""
    mask = found.mask if found.mask.dtype == bool else found.mask != 0
    if isinstance(mask, np.memmap) or not mask.flags.writeable:
        mask = mask.copy()
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetExtent([bound for part in found.box[::-1] for bound in (part.start, part.stop - 1)])
    labelmap.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToNode))
    voxels = numpy_to_vtk(mask.view(np.uint8).ravel(), deep=False, array_type=vtk.VTK_UNSIGNED_CHAR)
    labelmap.GetPointData().SetScalars(voxels)
    return labelmap
