"""What is said before a run: every problem and every warning with its sentence."""

import dataclasses
import re
import time
from collections import namedtuple

import numpy as np
import pytest
import slicer
import vtk
from scene_nodes import (
    PROVENANCE,
    ctArray,
    ctNode,
    found,
    nonLinearTransformNode,
    obliqueAffine,
    rigid,
    segmentationNode,
    transformNode,
)

from PartialSegLib.manifest import WEIGHTS_FILE, FileEntry, Inference, Manifest, NetworkSpec, Preprocessing
from PartialSegLib.task import Task

from PartialSegSlicer import checks, memory
from PartialSegSlicer.scene import mrml
from PartialSegSlicer.scene.provenance import isEdited

MODEL = Manifest(
    name="fine",
    version="1",
    title="Fine",
    license="none",
    network=NetworkSpec("DoDNet"),
    preprocessing=Preprocessing(orientation="SAR", spacing=(0.5, 0.5, 0.5), clip=(-300.0, 300.0)),
    inference=Inference(patch_size=(32, 32, 32)),
    tasks=(Task("liver", {"liver": 0, "liver_tumor": 1}), Task("spleen", {"spleen": 0})),
)


def roiNode(center, size=(4, 4, 4)):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    node.SetCenter(center)
    node.SetSize(size)
    return node


def centerOf(volumeNode):
    z, y, x = (size / 2 for size in mrml.volumeFromNode(volumeNode).shape)
    return (mrml.affineOfNode(volumeNode) @ (z, y, x, 1))[:3]


def nodeOfClass(name, components=1, kind=vtk.VTK_SHORT):
    node = slicer.mrmlScene.AddNewNodeByClass(name, "CT")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(kind, components)
    node.SetAndObserveImageData(image)
    return node


def test_a_ct_has_no_problem_and_no_warning(scene, tmp_path):
    volumeNode = ctNode()
    roi = roiNode(centerOf(volumeNode))
    assert checks.findProblem(volumeNode, roi, tmp_path, segmentationNode()) is None
    assert checks.findWarning(volumeNode, MODEL, segmentationNode(), roiNode=roi) is None


def test_one_frame_of_a_sequence_is_a_volume_like_any_other(scene):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4-D")
    for index in range(2):
        sequence.SetDataNodeAtValue(ctNode(), str(index))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "B")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    frame = browser.GetProxyNode(sequence)
    assert frame.IsA("vtkMRMLScalarVolumeNode")
    assert checks.findProblem(frame) is None


def test_without_a_volume_one_is_asked_for(scene):
    assert checks.findProblem(None) == "No volume is chosen; choose a CT."


def test_a_node_without_voxels_is_refused(scene):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert checks.findProblem(node) == "The volume CT has no voxels; load it again."
    node.SetAndObserveImageData(vtk.vtkImageData())
    assert checks.findProblem(node) == "The volume CT has no voxels; load it again."


def test_label_maps_are_refused(scene):
    node = nodeOfClass("vtkMRMLLabelMapVolumeNode")
    assert checks.findProblem(node) == "CT is a label map, not an image; choose the CT itself."


def test_colour_is_refused(scene):
    node = nodeOfClass("vtkMRMLVectorVolumeNode", 3, vtk.VTK_UNSIGNED_CHAR)
    assert checks.findProblem(node) == (
        "CT has 3 values per voxel (colour, vectors or 4-D), a CT has one; choose a CT."
    )


class MultiVolumeNode(slicer.vtkMRMLScalarVolumeNode):
    """Stand-in for vtkMRMLMultiVolumeNode, which an extension of Slicer brings."""

    def IsA(self, name):
        return name == "vtkMRMLMultiVolumeNode" or super().IsA(name)


@pytest.mark.parametrize("kind", ["diffusion", "multi-volume"])
def test_series_of_volumes_are_refused(scene, kind):
    if kind == "diffusion":
        node = nodeOfClass("vtkMRMLDiffusionWeightedVolumeNode", 7)
    else:
        node = MultiVolumeNode()
        node.SetName("CT")
        node.SetAndObserveImageData(nodeOfClass("vtkMRMLVectorVolumeNode", 7).GetImageData())
    assert checks.findProblem(node) == "CT is 4-D with 7 volumes, one is needed; extract one of them."


def test_a_transform_that_is_not_linear_is_refused_with_the_way_out(scene):
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    problem = checks.findProblem(volumeNode)
    assert problem == (
        "CT is under the transform Warp, which is not linear: harden it (module Data, right-click on the "
        "volume's transform), or take the volume out of it."
    )
    volumeNode.HardenTransform()
    assert checks.findProblem(volumeNode) is None


def test_a_linear_transform_above_one_that_is_not_is_refused_too(scene):
    volumeNode, linear = ctNode(), transformNode(rigid())
    linear.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    volumeNode.SetAndObserveTransformNodeID(linear.GetID())
    assert "which is not linear" in checks.findProblem(volumeNode)


@pytest.mark.parametrize("where", ["volume", "transform"])
def test_sheared_axes_are_refused_with_the_way_out(scene, where):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    volumeNode = ctNode(shear @ obliqueAffine() if where == "volume" else None)
    if where == "transform":
        volumeNode.SetAndObserveTransformNodeID(transformNode(shear).GetID())
    assert checks.findProblem(volumeNode) == (
        "The axes of CT are not at right angles (gantry tilt, or a transform with shear): resample it to a "
        "rectangular grid, for example with the module Crop Volume and interpolation."
    )


def test_a_transform_that_flattens_the_volume_is_refused(scene):
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(transformNode(np.diag([1, 1, 0, 1.0])).GetID())
    assert checks.findProblem(volumeNode).startswith("CT: The affine is singular")


@pytest.mark.parametrize("spacing", [(2.5, 0.09, 0.8), (20.5, 0.8, 0.8)])
def test_spacing_that_no_ct_has_is_refused(scene, spacing):
    z, y, x = (f"{value:g}" for value in spacing)
    assert checks.findProblem(ctNode(obliqueAffine(spacing))) == (
        f"The voxels of CT are {x} x {y} x {z} mm apart, 0.1 to 20 mm are expected; correct the spacing in "
        "the module Volumes, or load the original images."
    )


def test_left_handed_axes_are_fine(scene):
    volumeNode = ctNode(obliqueAffine((2.5, 0.9, -0.8)))
    assert checks.findProblem(volumeNode) is None
    assert checks.findWarning(volumeNode) is None


def test_a_transform_that_mirrors_the_patient_is_told(scene):
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(transformNode(np.diag([-1, 1, 1, 1.0])).GetID())
    assert checks.findProblem(volumeNode) is None
    assert checks.findWarning(volumeNode) == (
        "The transform Linear mirrors CT: left and right of the patient are exchanged."
    )


def test_a_region_outside_the_volume_is_refused(scene):
    volumeNode = ctNode()
    roi = roiNode(centerOf(volumeNode) + 100)
    problem = checks.findProblem(volumeNode, roiNode=roi)
    assert re.fullmatch(
        r"R: The region of interest lies outside the image \(.* mm .*\); move it, .*\.", problem
    )


def test_a_region_thinner_than_a_voxel_is_not_said_to_lie_outside(scene):
    volumeNode = ctNode()
    roi = roiNode(centerOf(volumeNode) + 0.3, size=(0.01, 0.01, 0.01))
    assert "lies between the centres of the voxels" in checks.findProblem(volumeNode, roiNode=roi)


def test_a_region_that_was_not_drawn_is_refused(scene):
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    assert checks.findProblem(ctNode(), roiNode=roi) == (
        "The region of interest R is empty; draw it in a view, or choose none."
    )


def test_a_warped_region_is_refused(scene):
    volumeNode = ctNode()
    roi = roiNode(centerOf(volumeNode))
    roi.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    assert checks.findProblem(volumeNode, roiNode=roi) == (
        "R is under a transform that is not linear; take it out of Warp."
    )


def test_a_rotated_region_is_told_to_be_enlarged(scene):
    volumeNode = ctNode()
    roi = roiNode(centerOf(volumeNode))
    roi.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    assert checks.findWarning(volumeNode, roiNode=roi) == (
        "The region of interest R is rotated: a larger one is segmented, the box around it along the "
        "patient's axes. Turn it back to keep to it."
    )


def segmented(volumeNode):
    node = segmentationNode()
    mrml.addSegments(node, volumeNode, [found("liver", "liver", *np.s_[0:4, 0:4, 0:4])], PROVENANCE)
    return node


def test_a_segmentation_made_of_surfaces_is_refused(scene):
    node = segmented(ctNode())
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    assert checks.findProblem(ctNode(), segmentationNode=node) == (
        "The segmentation Segmentation is made of surfaces, not voxels; choose another or a new one."
    )


def test_a_segmentation_of_another_volume_is_told(scene):
    volumeNode = ctNode()
    node = segmented(volumeNode)
    assert checks.findWarning(volumeNode, segmentationNode=node) is None
    for other in (ctNode(obliqueAffine((2, 2, 2)), name="other"), ctNode(name="other")):
        assert checks.findProblem(other, segmentationNode=node) is None
        assert checks.findWarning(other, segmentationNode=node) == (
            "Segmentation was made for another volume than other, and its segments of the same tasks are "
            "replaced; choose a new one to keep the two apart."
        )


def test_what_was_edited_by_hand_is_not_replaced_unasked(scene):
    volumeNode = ctNode()
    node = segmented(volumeNode)
    (id,) = node.GetSegmentation().GetSegmentIDs()
    assert checks.findWarning(volumeNode, MODEL, node, ["liver"]) is None
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, id, volumeNode)
    mask[1, 1, 1] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id, volumeNode)
    assert checks.findWarning(volumeNode, MODEL, node, ["spleen"]) is None
    assert checks.findWarning(volumeNode, MODEL, node, ["liver"], excluded=["liver/liver"]) is None
    assert checks.findWarning(volumeNode, MODEL, node, ["spleen", "liver"]) == (
        "Edited by hand and replaced by this run: liver. Choose a new segmentation to keep them."
    )


def test_a_moved_volume_is_told_apart_from_another_one(scene):
    volumeNode = ctNode()
    node = segmented(volumeNode)
    volumeNode.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    assert checks.findWarning(volumeNode, segmentationNode=node) == (
        "CT was moved, or its grid changed, after Segmentation was made, whose segments do not follow: put "
        "both under the same transform, or choose a new segmentation."
    )
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    assert checks.findWarning(volumeNode, segmentationNode=node) is None


@pytest.mark.parametrize("isMoved", [False, True])
def test_what_reaches_out_of_the_region_of_interest_is_not_cut_unasked(scene, isMoved):
    volumeNode, node = ctNode(obliqueAffine((2, 2, 2))), segmentationNode()
    if isMoved:
        volumeNode.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    mrml.addSegments(node, volumeNode, [found("liver", "liver", *np.s_[2:6, 2:6, 2:6])], PROVENANCE)
    center = (mrml.affineOfNode(volumeNode) @ (3.5, 3.5, 3.5, 1))[:3]
    around, within, beside = roiNode(center, (30, 30, 30)), roiNode(center, (1, 1, 1)), roiNode(center + 500)
    (id,) = node.GetSegmentation().GetSegmentIDs()
    reaching = [mrml.reachesOutside(node, id, roi) for roi in (around, within, beside)]
    assert reaching == [False, True, True]
    assert "will be left of" not in (checks.findWarning(volumeNode, MODEL, node, ["liver"], around) or "")
    told = "Only what lies inside R will be left of: liver. Choose a new segmentation to keep them."
    assert told in checks.findWarning(volumeNode, MODEL, node, ["liver"], within)
    assert checks.findWarning(volumeNode, MODEL, node, ["spleen"], within) is None
    assert checks.findWarning(volumeNode, MODEL, node, ["liver"], within, ["liver/liver"]) is None


@pytest.mark.parametrize(("size", "isOutside"), [(12, False), (9, False), (4, True)])
def test_a_segment_may_reach_out_of_the_region_by_one_voxel(scene, size, isOutside):
    volumeNode, node = ctNode(np.diag([2.0, 2, 2, 1])), segmentationNode()
    mrml.addSegments(node, volumeNode, [found("liver", "liver", *np.s_[2:8, 2:8, 2:8])], PROVENANCE)
    (id,) = node.GetSegmentation().GetSegmentIDs()
    assert mrml.reachesOutside(node, id, roiNode((9, 9, 9), (size, size, size))) == isOutside


def test_what_others_in_the_layer_have_in_the_region_does_not_count(scene):
    volumeNode, node = ctNode(np.diag([2.0, 2, 2, 1])), segmentationNode()
    boxes = {"liver": np.s_[0:2, 0:2, 0:2], "spleen": np.s_[5:9, 5:9, 5:9]}
    segments = [found(name, name, *box) for name, box in boxes.items()]
    mrml.addSegments(node, volumeNode, segments, PROVENANCE)
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    ids = node.GetSegmentation().GetSegmentIDs()
    assert [mrml.reachesOutside(node, id, roiNode((13, 13, 13), (12, 12, 12))) for id in ids] == [True, False]


def test_an_erased_segment_reaches_nowhere(scene):
    volumeNode, node = ctNode(), segmentationNode()
    mrml.addSegments(node, volumeNode, [found("liver", "liver", *np.s_[2:6, 2:6, 2:6])], PROVENANCE)
    (id,) = node.GetSegmentation().GetSegmentIDs()
    mask = np.zeros_like(slicer.util.arrayFromVolume(volumeNode), np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id, volumeNode)
    assert not mrml.reachesOutside(node, id, roiNode((5000, 0, 0)))


def test_an_edit_in_the_last_voxel_of_a_large_label_map_is_seen(scene):
    volumeNode, node = ctNode(array=ctArray((70, 64, 64))), segmentationNode()
    mrml.addSegments(node, volumeNode, [found("liver", "liver", *np.s_[0:70, 0:64, 0:64])], PROVENANCE)
    (id,) = node.GetSegmentation().GetSegmentIDs()
    assert not isEdited(node.GetSegmentation(), id)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, id, volumeNode)
    mask[-1, -1, -1] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id, volumeNode)
    assert isEdited(node.GetSegmentation(), id)


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_before_the_run(scene, tmp_path, monkeypatch):
    volumeNode = ctNode(array=np.full((100, 100, 100), -1000, np.int16))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: Usage(0, 0, 2_999_999))
    folder = tmp_path / "not" / "made yet"
    assert checks.findProblem(volumeNode, scratchFolder=folder) == (
        f"The folder for temporary files, {tmp_path}, has 3 MB left, 3 MB are needed: free some space, "
        "or choose another temporary folder in the application settings."
    )
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: Usage(0, 0, 1_000_000))
    assert checks.findProblem(volumeNode, scratchFolder=folder, imageIsSent=True) is None
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: Usage(0, 0, 3_000_000))
    assert checks.findProblem(volumeNode, scratchFolder=folder) is None


def test_too_little_memory_is_told(scene, monkeypatch):
    volumeNode = ctNode()
    monkeypatch.setattr(checks, "available_memory", lambda: 100 << 20)
    assert checks.findWarning(volumeNode, MODEL) == (
        "CT needs about 0.6 GB of memory, 0.1 GB are free: close other programs, tick fewer tasks, or crop "
        "the volume with the module Crop Volume."
    )
    monkeypatch.setattr(
        checks, "available_memory", lambda: memory.neededMemory(volumeNode, MODEL, ["spleen"])
    )
    assert checks.findWarning(volumeNode, MODEL, tasks=["spleen"]) is None
    assert "tick fewer tasks" in checks.findWarning(volumeNode, MODEL)
    monkeypatch.setattr(checks, "available_memory", lambda: None)
    assert checks.findWarning(volumeNode, MODEL) is None


def test_the_memory_needed_grows_with_image_grid_and_scores_of_the_ticked_tasks(scene):
    volumeNode = ctNode(np.eye(4), np.zeros((20, 20, 20), np.int16))
    coarse = memory.neededMemory(volumeNode, None)
    assert coarse == (600 << 20) + 8000 * (2 + 2)
    network = 3 * 1_000_000 + 600 * 32**3
    model = dataclasses.replace(MODEL, files={WEIGHTS_FILE: FileEntry("0" * 64, 1_000_000)})
    for tasks, channels in ((None, 3), (["spleen", "liver"], 3), (["liver"], 2), (["spleen"], 1)):
        needed = memory.neededMemory(volumeNode, model, tasks)
        assert needed == coarse + network + 8 * 8000 * (8 + 3 * channels)
        further = memory.neededMemory(volumeNode, model, tasks, imageIsSent=True)
        assert further == 8000 * 2 + 8 * 8000 * 3 * channels


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((8, 8, 8), 7, np.int16), "The image is constant"),
        (np.arange(512, dtype=np.uint8).reshape(8, 8, 8), "like those of an 8-bit picture, not in HU"),
        (ctArray() + 1100, "without any air"),
        (np.where(ctArray() < 0, -1000, 3000).astype(np.int16), "Less than 1 % of the voxels"),
    ],
)
def test_values_that_are_not_in_hounsfield_units_are_told(scene, array, reason):
    volumeNode = ctNode(array=array)
    assert checks.findProblem(volumeNode) is None
    warning = checks.findWarning(volumeNode)
    assert warning.startswith("CT does not look like a CT in HU. ")
    assert reason in warning


@pytest.mark.parametrize("modality", ["MR", "CT", None])
def test_another_modality_is_told(scene, modality):
    volumeNode = ctNode()
    if modality is not None:
        item = scene.subjectHierarchyItem(volumeNode)
        slicer.mrmlScene.GetSubjectHierarchyNode().SetItemAttribute(item, "DICOM.Modality", modality)
    expected = "CT comes from a MR series; the models know CT only." if modality == "MR" else None
    assert checks.findWarning(volumeNode) == expected


def test_warnings_come_together(scene):
    volumeNode = ctNode(array=np.full((8, 8, 8), 7, np.int16))
    item = scene.subjectHierarchyItem(volumeNode)
    slicer.mrmlScene.GetSubjectHierarchyNode().SetItemAttribute(item, "DICOM.Modality", "MR")
    assert len(checks.findWarning(volumeNode).splitlines()) == 2


def test_no_check_looks_at_every_voxel_of_a_large_ct(scene, tmp_path):
    shape = (600, 512, 512)
    volumeNode = ctNode(np.diag([1.0, 0.7, 0.7, 1]), np.zeros(shape, np.int16))  # zeros take no time to make
    seconds = []
    for _ in range(3):
        begun = time.thread_time()
        assert checks.findProblem(volumeNode, None, tmp_path, segmentationNode()) is None
        assert "constant" in checks.findWarning(volumeNode, MODEL)
        seconds.append(time.thread_time() - begun)
    begun = time.thread_time()
    assert not slicer.util.arrayFromVolume(volumeNode).any()
    assert min(seconds) < time.thread_time() - begun
