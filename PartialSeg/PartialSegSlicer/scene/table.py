"""Volumes of our segments in ml, in a table node."""

from collections.abc import Generator

import slicer
import vtk
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError

from .provenance import TASK_TAG, isMadeByPartialSeg, labelmapOf, tagOf, voxelCount
from .subjectHierarchy import placeBeside

TABLE_ROLE = "PartialSeg.Volumes"
"""The role in which a segmentation node refers to its table."""


def volumesTable(segmentationNode, tableNode=None):
    """Write the volumes of the segments that PartialSeg made into a table, as they are now.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
        tableNode: a vtkMRMLTableNode, whose contents are replaced; None takes the one of the last time, or
            adds one beside the segmentation.

    Returns:
        The table node: name, task, volume in ml, and number of voxels of each segment.
    """
    steps = volumesTableSteps(segmentationNode, tableNode)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def volumesTableSteps(segmentationNode, tableNode=None) -> Generator[None, None, object]:
    """Do what `volumesTable` does, one segment in each step; the scene changes in the last one."""
    segmentation = segmentationNode.GetSegmentation()
    rows = []
    for id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(id)
        if segment is not None and isMadeByPartialSeg(segmentation, id):
            if labelmapOf(segment) is None:
                sentence = _("The segmentation {name} is made of surfaces, not voxels, which a table counts.")
                raise InputError(sentence.format(name=segmentationNode.GetName()))
            voxels = voxelCount(segment)
            volume = voxels * voxelVolume(segmentationNode, segment) / 1000
            rows.append((segment.GetName(), tagOf(segment, TASK_TAG), volume, voxels))
            yield
    if tableNode is None:
        tableNode = segmentationNode.GetNodeReference(TABLE_ROLE) or _newTable(segmentationNode)
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    _write(tableNode, *columns)
    segmentationNode.SetNodeReferenceID(TABLE_ROLE, tableNode.GetID())
    return tableNode


def voxelVolume(segmentationNode, segment) -> float:
    """Return the volume of a segment's voxels in mm³; linear parent transforms apply, others are left out."""
    imageToNode, nodeToWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    labelmapOf(segment).GetImageToWorldMatrix(imageToNode)
    transformNode = segmentationNode.GetParentTransformNode()
    if transformNode is not None and transformNode.IsTransformToWorldLinear():
        transformNode.GetMatrixTransformToWorld(nodeToWorld)
    return abs(imageToNode.Determinant() * nodeToWorld.Determinant())


def _newTable(segmentationNode):
    name = _("{segmentation} volumes").format(segmentation=segmentationNode.GetName())
    tableNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    placeBeside(tableNode, segmentationNode)
    return tableNode


def _write(tableNode, names, tasks, volumes, voxels) -> None:
    wasModifying = tableNode.StartModify()
    tableNode.RemoveAllColumns()
    for title, array, values in (
        (_("Structure"), vtk.vtkStringArray(), names),
        (_("Task"), vtk.vtkStringArray(), tasks),
        (_("Volume [ml]"), vtk.vtkDoubleArray(), volumes),
        (_("Voxels"), vtk.vtkLongLongArray(), voxels),
    ):
        array.SetName(title)
        for value in values:
            array.InsertNextValue(value)
        tableNode.AddColumn(array)
    tableNode.EndModify(wasModifying)
