"""Where voxels and boxes of MRML nodes lie.

IJK, Slicer's order of voxel indices, stays in this file: arrays and affines of the library are (z, y, x).
"""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.images.affine import check_affine

_ARRAY_ORDER = [2, 1, 0, 3]
_SAME_GRID_TOLERANCE = 1e-3  # mm at the far corner of the volume


def affineOfNode(volumeNode) -> np.ndarray:
    """Return (4, 4) from array index order (k, j, i, 1) to world RAS mm, linear parent transforms applied.

    Raises:
        InputError: a parent transform of the volume is not linear.
    """
    toWorld = _matrixBetween(volumeNode.GetParentTransformNode(), None)
    return (toWorld @ _ijkToNode(volumeNode))[:, _ARRAY_ORDER]


def arrayShape(volumeNode) -> tuple[int, int, int]:
    """Return the number of voxels along (z, y, x)."""
    x, y, z = volumeNode.GetImageData().GetDimensions()
    return z, y, x


def ownGeometry(volumeNode) -> np.ndarray:
    """Return (4, 4) from IJK to the coordinates of the volume itself, mm, before its parent transforms."""
    return _ijkToNode(volumeNode)


def affineOfLabelmap(labelmap, transformNode) -> np.ndarray:
    """Return (4, 4) from the array indices (k, j, i, 1) of a vtkOrientedImageData to world RAS mm.

    Args:
        labelmap: of a segment; its array begins where its extent does.
        transformNode: the parent transform of the segmentation node, or None.

    Raises:
        InputError: the transform is not linear.
    """
    matrix, first = vtk.vtkMatrix4x4(), np.eye(4)
    labelmap.GetImageToWorldMatrix(matrix)
    first[:3, 3] = labelmap.GetExtent()[::2]
    toNode = slicer.util.arrayFromVTKMatrix(matrix) @ first
    return (_matrixBetween(transformNode, None) @ toNode)[:, _ARRAY_ORDER]


def volumeInMl(volumeNode) -> float:
    """Return what a volume's voxels fill together, in ml.

    Raises:
        InputError: a parent transform of the volume is not linear.
    """
    voxel = abs(np.linalg.det(affineOfNode(volumeNode)[:3, :3]))
    return float(voxel * np.prod(arrayShape(volumeNode)) / 1000)


def ijkBelow(transformNode, volumeNode) -> np.ndarray:
    """Return (4, 4) from a volume's IJK to the coordinates below a transform node (None: world RAS), mm.

    Raises:
        InputError: a transform is not linear, or voxels are no right-angled grid in these coordinates.
    """
    geometry = _matrixBetween(volumeNode.GetParentTransformNode(), transformNode) @ _ijkToNode(volumeNode)
    check_affine(geometry)
    return geometry


def hasSameGrid(segmentationNode, volumeNode) -> bool:
    """Say whether a segmentation node's reference geometry is the grid of a volume, or none is set."""
    converter = slicer.vtkSegmentationConverter
    name = converter.GetReferenceImageGeometryParameterName()
    text = segmentationNode.GetSegmentation().GetConversionParameter(name)
    if not text:
        return True
    reference = slicer.vtkOrientedImageData()
    converter.DeserializeImageGeometry(text, reference, False)
    matrix = vtk.vtkMatrix4x4()
    reference.GetImageToWorldMatrix(matrix)
    x, y, z = volumeNode.GetImageData().GetDimensions()
    difference = slicer.util.arrayFromVTKMatrix(matrix) - ijkBelow(
        segmentationNode.GetParentTransformNode(), volumeNode
    )
    return bool(
        reference.GetExtent() == (0, x - 1, 0, y - 1, 0, z - 1)
        and (np.abs(difference) @ (x, y, z, 1)).max() < _SAME_GRID_TOLERANCE
    )


def roiLimits(roiNode) -> tuple[float, float, float, float, float, float]:
    """Return x0, x1, y0, y1, z0, z1 of a Markups ROI in world RAS mm, parent transforms applied.

    A rotated ROI gives the smallest box along the patient's axes that holds it; see `isRotated`.
    """
    limits = [0.0] * 6
    roiNode.GetRASBounds(limits)
    x0, x1, y0, y1, z0, z1 = limits
    return x0, x1, y0, y1, z0, z1


def isRotated(roiNode) -> bool:
    """Say whether a Markups ROI is not along the patient's axes, so that `roiLimits` hold more than it."""
    axes = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())[:3, :3]
    cosines = np.abs(axes / np.linalg.norm(axes, axis=0))
    return bool((cosines.max(axis=0) < 1 - 1e-6).any())


def _ijkToNode(volumeNode) -> np.ndarray:
    """IJK to the coordinates of the volume itself, before its parent transforms, (4, 4)."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _matrixBetween(source, target) -> np.ndarray:
    """From below one transform node to below another (None: world), (4, 4)."""
    if source is target:
        return np.eye(4)
    if not all(node is None or node.IsTransformToWorldLinear() for node in (source, target)):
        raise InputError(
            _("A parent transform is not linear; harden it, or take the node out of it, and run again.")
        )
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(source, target, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
