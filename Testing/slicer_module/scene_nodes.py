"""Nodes for tests of the MRML side, and where their voxels lie."""

import numpy as np
import slicer
import slicer_scene
import vtk
from scipy.spatial.transform import Rotation
from vtk.util.numpy_support import vtk_to_numpy

slicer_scene.boot()

from PartialSegSlicer.worker.workerJobs import ReceivedSegment  # noqa: E402

SHAPE = (10, 12, 14)
PROVENANCE = {
    "model": "tiny",
    "model_version": "1.0.0",
    "weights_sha256": "ab12",
    "software": "PartialSeg 0.1.0",
    "device": "cpu",
    "skipped_slices": [[0, 3]],
    "note": 'a | b: "c" \\ é\n',
}


def obliqueAffine(spacing=(2.5, 0.9, 0.8)) -> np.ndarray:
    """(k, j, i, 1) to RAS mm, no axis along one of the patient's, right-handed."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 37), degrees=True).as_matrix()[:, ::-1] * spacing
    affine[:3, 3] = (-123.25, 87.5, -1012.75)
    return affine


def ctArray(shape=SHAPE) -> np.ndarray:
    """Air above, soft tissue below, no two voxels of a plane equal."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) % 300
    array[: shape[0] // 2] -= 1000
    return array


def ctNode(affine=None, array=None, name="CT"):
    """A scalar volume node of the scene; the affine takes (k, j, i, 1)."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, ctArray() if array is None else array)
    ijkToRas = (obliqueAffine() if affine is None else affine)[:, [2, 1, 0, 3]]
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    return node


def segmentationNode(name="Segmentation"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    return node


def transformNode(matrix, parent=None):
    """A linear transform node of the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def nonLinearTransformNode():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    points = vtk.vtkPoints()
    for point in ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (20, 20, 20)):
        points.InsertNextPoint(point)
    targets = vtk.vtkPoints()
    targets.DeepCopy(points)
    targets.SetPoint(4, (25, 20, 20))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(targets)
    spline.SetBasisToR()
    node.SetAndObserveTransformToParent(spline)
    return node


def rigid(degrees=30.0, shift=(5.0, -7.0, 11.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zx", (degrees, 2 * degrees), degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def found(task, structure, *box, mask=None) -> ReceivedSegment:
    """What a task found: the whole box, but for its first voxel, so that axes cannot be mistaken."""
    if mask is None:
        mask = np.ones([part.stop - part.start for part in box], bool)
        mask.flat[:1] = False
    return ReceivedSegment(task, structure, tuple(box), mask)


def nothing(task, structure) -> ReceivedSegment:
    return ReceivedSegment(task, structure, (slice(0, 0),) * 3, np.zeros((0, 0, 0), bool))


def expectedPoints(affine, segment: ReceivedSegment) -> np.ndarray:
    """World RAS mm of a mask's voxels, sorted."""
    first = [part.start for part in segment.box]
    return _sorted(np.argwhere(segment.mask) + first, affine)


def labelmapOf(node, id):
    """A segment's mask (z, y, x) and its affine to world RAS mm, from the segmentation node alone."""
    segment = node.GetSegmentation().GetSegment(id)
    labelmap = segment.GetRepresentation("Binary labelmap")
    x0, x1, y0, y1, z0, z1 = labelmap.GetExtent()
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars())
    mask = voxels.reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1) == segment.GetLabelValue()
    image, world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(image)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, world)
    affine = slicer.util.arrayFromVTKMatrix(world) @ slicer.util.arrayFromVTKMatrix(image)
    affine = affine[:, [2, 1, 0, 3]]
    affine[:, 3] = affine @ (z0, y0, x0, 1)
    return mask, affine


def segmentPoints(node, id) -> np.ndarray:
    """World RAS mm of a segment's voxels, sorted, from the segmentation node alone."""
    mask, affine = labelmapOf(node, id)
    return _sorted(np.argwhere(mask), affine)


def segmentIds(node) -> list[str]:
    return list(node.GetSegmentation().GetSegmentIDs())


def _sorted(indices, affine) -> np.ndarray:
    points = (np.column_stack([indices, np.ones(len(indices))]) @ affine.T)[:, :3]
    return points[np.lexsort(np.round(points, 3).T)]
