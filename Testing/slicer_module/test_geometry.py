"""Where voxels and boxes lie: volumes out of the scene, segments into it, by physical points."""

from itertools import permutations, product

import numpy as np
import pytest
import slicer
from scene_nodes import (
    PROVENANCE,
    SHAPE,
    ctArray,
    ctNode,
    expectedPoints,
    found,
    nonLinearTransformNode,
    obliqueAffine,
    rigid,
    segmentationNode,
    segmentIds,
    segmentPoints,
    transformNode,
)

from PartialSegLib.errors import InputError
from PartialSegLib.images.affine import AXIS_LETTERS
from PartialSegLib.volume import Volume, read_volume, reorient, write_volume

from PartialSegSlicer.scene import mrml
from PartialSegSlicer.scene.geometry import hasSameGrid

LIVER = found("liver", "liver", slice(2, 5), slice(3, 9), slice(1, 12))
LIVER_ID = "PartialSeg_liver_liver"
ORIENTATIONS = ["".join(letters) for pairs in permutations(AXIS_LETTERS) for letters in product(*pairs)]


def addLiver(volumeNode, node=None):
    node = node or segmentationNode()
    assert mrml.addSegments(node, volumeNode, [LIVER], PROVENANCE) == []
    return node


@pytest.mark.parametrize("handedness", [1, -1])
def test_a_nifti_that_slicer_loads_gives_segments_where_its_voxels_are(scene, tmp_path, handedness):
    affine = obliqueAffine()
    affine[:3, 2] *= handedness
    write_volume(tmp_path / "ct.nii.gz", Volume(ctArray(), affine))
    volumeNode = slicer.util.loadVolume(str(tmp_path / "ct.nii.gz"))
    volume = mrml.volumeFromNode(volumeNode)
    ours = read_volume(tmp_path / "ct.nii.gz")
    same = reorient(volume, ours.orientation)  # Slicer's reader turns left-handed images
    assert same.same_geometry(ours)
    np.testing.assert_array_equal(same.array, ours.array)
    node = addLiver(volumeNode)
    np.testing.assert_allclose(segmentPoints(node, LIVER_ID), expectedPoints(volume.affine, LIVER), atol=1e-4)
    inside = volume.array[LIVER.box][LIVER.mask]
    exported = slicer.util.arrayFromSegmentBinaryLabelmap(node, LIVER_ID, volumeNode)
    np.testing.assert_array_equal(np.sort(volume.array[exported > 0]), np.sort(inside))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_segments_lie_right_in_every_orientation(scene, orientation):
    volume = reorient(Volume(np.zeros(SHAPE, np.int16), obliqueAffine()), orientation)
    volumeNode = ctNode(volume.affine, np.ascontiguousarray(volume.array))
    assert mrml.volumeFromNode(volumeNode).orientation == orientation
    liver = found("liver", "liver", slice(1, 4), slice(2, 7), slice(3, 9))
    node = segmentationNode()
    mrml.addSegments(node, volumeNode, [liver], PROVENANCE)
    np.testing.assert_allclose(segmentPoints(node, LIVER_ID), expectedPoints(volume.affine, liver), atol=1e-6)


def test_a_volume_out_of_the_scene_is_a_view_of_its_node(scene):
    volumeNode = ctNode()
    volume = mrml.volumeFromNode(volumeNode)
    assert np.shares_memory(volume.array, slicer.util.arrayFromVolume(volumeNode))
    np.testing.assert_allclose(volume.affine, obliqueAffine(), atol=1e-12)
    assert mrml.volumeInMl(volumeNode) == pytest.approx(np.prod(SHAPE) * 2.5 * 0.9 * 0.8 / 1000)


def test_a_chain_of_linear_transforms_moves_the_volume_and_its_segments(scene):
    outer, inner = rigid(20), rigid(-50, (1, 2, 3))
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(transformNode(inner, transformNode(outer)).GetID())
    affine = outer @ inner @ obliqueAffine()
    np.testing.assert_allclose(mrml.volumeFromNode(volumeNode).affine, affine, atol=1e-9)
    node = addLiver(volumeNode)
    assert node.GetParentTransformNode() is volumeNode.GetParentTransformNode()
    np.testing.assert_allclose(segmentPoints(node, LIVER_ID), expectedPoints(affine, LIVER), atol=1e-6)
    exported = slicer.util.arrayFromSegmentBinaryLabelmap(node, LIVER_ID, volumeNode)
    np.testing.assert_array_equal(exported[LIVER.box] > 0, LIVER.mask)
    assert exported.sum() == LIVER.mask.sum()


def test_a_segmentation_with_segments_keeps_its_own_transform(scene):
    node = addLiver(ctNode())
    before = segmentPoints(node, LIVER_ID)
    node.GetSegmentation().GetSegment(LIVER_ID).RemoveTag("PartialSeg.Structure")  # now somebody else's
    volumeNode = ctNode(name="moved")
    volumeNode.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    spleen = found("spleen", "spleen", slice(0, 3), slice(0, 4), slice(0, 5))
    mrml.addSegments(node, volumeNode, [spleen], PROVENANCE)
    assert node.GetParentTransformNode() is None
    np.testing.assert_array_equal(segmentPoints(node, LIVER_ID), before)
    np.testing.assert_allclose(
        segmentPoints(node, "PartialSeg_spleen_spleen"),
        expectedPoints(rigid() @ obliqueAffine(), spleen),
        atol=1e-6,
    )


def test_a_transform_that_is_not_linear_is_refused(scene):
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    with pytest.raises(InputError, match="not linear; harden it"):
        mrml.volumeFromNode(volumeNode)


def test_a_segmentation_that_is_warped_takes_no_segments(scene):
    node = addLiver(ctNode())
    node.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    before = node.GetSegmentation().GetSegment(LIVER_ID).GetMTime()
    with pytest.raises(InputError, match="not linear; harden it"):
        addLiver(ctNode(), node)
    assert node.GetSegmentation().GetSegment(LIVER_ID).GetMTime() == before


def test_a_grid_that_a_transform_would_shear_is_refused(scene):
    node = addLiver(ctNode())
    node.SetAndObserveTransformNodeID(transformNode(np.diag([1, 3, 1, 1.0])).GetID())
    with pytest.raises(InputError, match="sheared"):
        mrml.addSegments(node, ctNode(), [LIVER], PROVENANCE)
    assert segmentIds(node) == [LIVER_ID]


def roiNode(center=(10, 20, 30), size=(20, 40, 60)):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    node.SetCenter(center)
    node.SetSize(size)
    return node


def corners(matrix) -> np.ndarray:
    return (np.array([(x, y, z, 1) for x in (0, 20) for y in (0, 40) for z in (0, 60)]) @ matrix.T)[:, :3]


def test_a_region_of_interest_gives_its_limits_in_the_patient(scene):
    assert mrml.roiLimits(roiNode()) == pytest.approx((0, 20, 0, 40, 0, 60))
    assert not mrml.isRotated(roiNode())


def test_a_region_under_a_transform_is_moved_with_it(scene):
    node = roiNode()
    shift = np.eye(4)
    shift[:3, 3] = (1, 2, 3)
    node.SetAndObserveTransformNodeID(transformNode(shift).GetID())
    assert mrml.roiLimits(node) == pytest.approx((1, 21, 2, 42, 3, 63))
    assert not mrml.isRotated(node)


def test_a_rotated_region_gives_the_box_around_it(scene):
    turned, node = roiNode(), roiNode()
    node.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    expected = corners(rigid())
    limits = np.column_stack([expected.min(0), expected.max(0)]).ravel()
    assert mrml.roiLimits(node) == pytest.approx(limits)
    assert mrml.isRotated(node)
    center = np.eye(4)
    center[:3, 3] = (10, 20, 30)
    turned.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(rigid() @ center))
    assert mrml.roiLimits(turned) == pytest.approx(limits)


def test_without_a_reference_any_grid_is_that_of_a_segmentation(scene):
    assert hasSameGrid(segmentationNode(), ctNode())


@pytest.mark.parametrize(
    ("shift", "shape", "isSame"),
    [(1e-5, SHAPE, True), (0.1, SHAPE, False), (0, (SHAPE[0] - 1, *SHAPE[1:]), False)],
)
def test_a_grid_is_the_same_but_for_rounding(scene, shift, shape, isSame):
    node, affine = segmentationNode(), obliqueAffine()
    node.SetReferenceImageGeometryParameterFromVolumeNode(ctNode(affine))
    affine[0, 3] += shift
    assert hasSameGrid(node, ctNode(affine, ctArray(shape))) is isSame


def test_a_new_region_lies_around_a_volume_that_a_transform_moves(scene):
    volumeNode = ctNode()
    volumeNode.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())
    node = roiNode()
    mrml.layRoiAround(node, volumeNode)
    corners = [(*corner, 1) for corner in product(*((0, size - 1) for size in SHAPE))]
    points = (np.array(corners) @ mrml.affineOfNode(volumeNode).T)[:, :3]
    limits = np.reshape(mrml.roiLimits(node), (3, 2))
    assert (limits[:, 0] <= points.min(axis=0)).all()
    assert (points.max(axis=0) <= limits[:, 1]).all()


@pytest.mark.parametrize(
    ("matrix", "isRotated"), [(np.diag([-1, -1, 1, 1]), False), (rigid(degrees=3), True)]
)
def test_a_region_is_rotated_if_it_is_not_along_the_axes(scene, matrix, isRotated):
    node = roiNode()
    node.SetAndObserveTransformNodeID(transformNode(matrix).GetID())
    assert mrml.isRotated(node) == isRotated


def test_a_segmentation_below_a_transform_that_is_warped_takes_no_segments(scene):
    node = addLiver(ctNode())
    node.SetAndObserveTransformNodeID(transformNode(rigid(), nonLinearTransformNode()).GetID())
    with pytest.raises(InputError, match="not linear"):
        addLiver(ctNode(), node)
