"""Volumes of segments in a table node."""

import numpy as np
import pytest
import slicer
import vtk
from scene_nodes import PROVENANCE, ctNode, found, nothing, rigid, segmentationNode, segmentIds, transformNode
from vtk.util.numpy_support import vtk_to_numpy

from PartialSegLib.errors import InputError

from PartialSegSlicer.scene import mrml, table

VOXEL_ML = 2.5 * 0.9 * 0.8 / 1000


def segmented():
    node, volumeNode = segmentationNode("Result"), ctNode()
    segments = [
        found("liver", "liver", *np.s_[2:5, 3:9, 1:12]),
        found("liver", "liver_tumor", *np.s_[3:6, 4:6, 5:14]),
        found("hepatic vessel", "liver_tumor", *np.s_[0:2, 0:3, 0:4]),
        nothing("spleen", "spleen"),
    ]
    mrml.addSegments(node, volumeNode, segments, PROVENANCE)
    return node


def rows(tableNode):
    contents = tableNode.GetTable()
    return [
        tuple(contents.GetValue(row, column).ToString() for column in range(contents.GetNumberOfColumns()))
        for row in range(contents.GetNumberOfRows())
    ]


def numbers(tableNode, name):
    return vtk_to_numpy(tableNode.GetTable().GetColumnByName(name))


def test_the_table_names_each_structure_with_its_task_and_volume(scene):
    tableNode = mrml.volumesTable(segmented())
    assert tableNode.GetName() == "Result volumes"
    assert [row[:2] for row in rows(tableNode)] == [
        ("liver", "liver"),
        ("liver tumor (liver)", "liver"),
        ("liver tumor (hepatic vessel)", "hepatic vessel"),
    ]
    voxels = [3 * 6 * 11 - 1, 3 * 2 * 9 - 1, 2 * 3 * 4 - 1]
    assert numbers(tableNode, "Voxels").tolist() == voxels
    assert numbers(tableNode, "Volume [ml]") == pytest.approx(np.array(voxels) * VOXEL_ML)


def test_the_table_counts_segments_that_share_a_layer(scene):
    node = segmented()
    expected = numbers(mrml.volumesTable(node), "Voxels").tolist()
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    assert numbers(mrml.volumesTable(node), "Voxels").tolist() == expected


def test_the_table_counts_what_was_edited(scene):
    node = segmented()
    ids = segmentIds(node)
    volumeNode = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, ids[0], volumeNode)
    mask[:, :, :3] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, ids[0], volumeNode)
    counts = numbers(mrml.volumesTable(node), "Voxels").tolist()
    assert counts == [int(np.count_nonzero(mask)), 3 * 2 * 9 - 1, 2 * 3 * 4 - 1]


def test_volumes_are_those_in_the_patient_when_a_transform_scales(scene):
    node = segmented()
    node.SetAndObserveTransformNodeID(transformNode(rigid() @ np.diag([1, 2, 3, 1.0])).GetID())
    assert numbers(mrml.volumesTable(node), "Volume [ml]")[0] == pytest.approx(197 * VOXEL_ML * 6)


def test_segments_of_others_are_not_in_the_table(scene):
    node = segmented()
    node.GetSegmentation().AddEmptySegment("", "mine")
    assert len(rows(mrml.volumesTable(node))) == 3


def test_a_segmentation_without_our_segments_gives_an_empty_table(scene):
    assert rows(mrml.volumesTable(segmentationNode())) == []


def test_a_second_run_fills_the_same_table(scene):
    node = segmented()
    first = mrml.volumesTable(node)
    assert mrml.volumesTable(node) is first
    assert len(rows(first)) == 3
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "own")
    assert mrml.volumesTable(node, own) is own
    assert rows(own) == rows(first)


def test_the_table_can_be_made_one_segment_at_a_time(scene):
    node = segmented()
    steps = table.volumesTableSteps(node)
    for expected in range(3):
        next(steps)
        assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode") is None, expected
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert len(rows(stop.value.value)) == 3


def test_the_table_lies_beside_its_segmentation(scene):
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    node = segmented()
    scene.subjectHierarchyItem(node, patient)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def giveItem(caller, event, added):
        scene.subjectHierarchyItem(added)

    tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, giveItem)
    tableNode = mrml.volumesTable(node)
    slicer.mrmlScene.RemoveObserver(tag)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(tableNode)) == patient


def test_segments_without_voxels_are_refused(scene):
    node = segmented()
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    node.RemoveBinaryLabelmapRepresentation()
    with pytest.raises(InputError, match="Result is made of surfaces, not voxels"):
        mrml.volumesTable(node)
    assert node.GetNodeReference(table.TABLE_ROLE) is None
