"""What may be wrong before a run, each in one sentence; no check takes longer than a blink.

A problem forbids the run, a warning is to be confirmed. NaN voxels need a look at every voxel: the worker
finds them. Only segments of an earlier run are looked at in full, a few hundredths of a second each.
"""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.images.affine import SHEAR_TOLERANCE, check_affine
from PartialSegLib.images.image_header import listed
from PartialSegLib.manifest import Manifest
from PartialSegLib.masks.region import Region
from PartialSegLib.system_memory import available_memory, gigabytes
from PartialSegLib.volume import Volume, check_hounsfield

from .memory import imageBytes, neededMemory
from .scene.geometry import affineOfNode, arrayShape, hasSameGrid, isRotated, roiLimits
from .scene.mrml import checkSegmentation, reachesOutside
from .scene.provenance import earlierSegmentId, isEdited
from .scene.subjectHierarchy import modalityOf

SPACING_BOUNDS = (0.1, 20.0)
"""Distances of voxels in mm within which a CT of a person lies."""
_LOOKED_AT = 64  # voxels along each axis, of which the values are judged


def findProblem(
    volumeNode,
    roiNode=None,
    scratchFolder: str | Path | None = None,
    segmentationNode=None,
    imageIsSent: bool = False,
) -> str | None:
    """Say why a volume cannot be segmented.

    Args:
        volumeNode: a volume node, or None.
        roiNode: a Markups ROI node, or None for the whole volume.
        scratchFolder: where the worker's files will lie; None leaves out the disk.
        segmentationNode: where segments will go; None for a new one.
        imageIsSent: whether the worker has the image already.

    Returns:
        The first problem, a sentence for people; None if there is none.
    """
    problems = _problems(volumeNode, roiNode, scratchFolder, segmentationNode, imageIsSent)
    return next((problem for problem in problems if problem is not None), None)


def findWarning(
    volumeNode,
    model: Manifest | None = None,
    segmentationNode=None,
    tasks: Collection[str] | None = None,
    roiNode=None,
    excluded: Collection[str] = (),
    imageIsSent: bool = False,
) -> str | None:
    """Say what speaks against segmenting a volume that has no problem.

    Args:
        volumeNode: a volume node without a problem.
        model: the manifest of the model; None leaves out what depends on it.
        segmentationNode: where segments will go; None for a new one.
        tasks: of the model, whose earlier segments will be replaced; None for all.
        roiNode: a Markups ROI node, or None for the whole volume.
        excluded: "task/structure" that are not looked for, so that their earlier segments stay.
        imageIsSent: whether the worker has the model and the image already.

    Returns:
        All warnings, a sentence in each line, to be confirmed before a run; None if there are none.
    """
    warnings = (
        _modalityWarning(volumeNode),
        _intensityWarning(volumeNode),
        _mirrorWarning(volumeNode),
        _rotationWarning(roiNode),
        _memoryWarning(volumeNode, model, tasks, imageIsSent),
        _otherVolumeWarning(volumeNode, segmentationNode),
        _editedWarning(model, segmentationNode, tasks, excluded),
        _regionWarning(model, segmentationNode, tasks, excluded, roiNode),
    )
    return "\n".join(warning for warning in warnings if warning is not None) or None


def _problems(volumeNode, roiNode, scratchFolder, segmentationNode, imageIsSent) -> Iterator[str | None]:
    """In an order in which each check may rely on those before it."""
    yield _kindProblem(volumeNode)
    yield _transformProblem(volumeNode)
    yield _geometryProblem(volumeNode)
    yield _spacingProblem(volumeNode)
    if roiNode is not None:
        yield _roiProblem(volumeNode, roiNode)
    if segmentationNode is not None:
        yield _segmentationProblem(volumeNode, segmentationNode)
    if scratchFolder is not None:
        yield _diskProblem(volumeNode, Path(scratchFolder), imageIsSent)


def _kindProblem(volumeNode) -> str | None:
    if volumeNode is None:
        return _("No volume is chosen; choose a CT.")
    name = volumeNode.GetName()
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        return _("The volume {name} has no voxels; load it again.").format(name=name)
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("{name} is a label map, not an image; choose the CT itself.").format(name=name)
    count = image.GetNumberOfScalarComponents()
    if volumeNode.IsA("vtkMRMLMultiVolumeNode") or volumeNode.IsA("vtkMRMLDiffusionWeightedVolumeNode"):
        return _("{name} is 4-D with {count} volumes, one is needed; extract one of them.").format(
            name=name, count=count
        )
    if count != 1:
        return _(
            "{name} has {count} values per voxel (colour, vectors or 4-D), a CT has one; choose a CT."
        ).format(name=name, count=count)
    return None


def _transformProblem(volumeNode) -> str | None:
    transformNode = volumeNode.GetParentTransformNode()
    if transformNode is None or transformNode.IsTransformToWorldLinear():
        return None
    return _(
        "{name} is under the transform {transform}, which is not linear: harden it (module "
        "Data, right-click on the volume's transform), or take the volume out of it."
    ).format(name=volumeNode.GetName(), transform=transformNode.GetName())


def _geometryProblem(volumeNode) -> str | None:
    affine = affineOfNode(volumeNode)
    try:
        check_affine(affine)
    except InputError as error:
        if not _isSheared(affine):
            return f"{volumeNode.GetName()}: {error}"
        return _(
            "The axes of {name} are not at right angles (gantry tilt, or a transform with shear): resample "
            "it to a rectangular grid, for example with the module Crop Volume and interpolation."
        ).format(name=volumeNode.GetName())
    return None


def _isSheared(affine: np.ndarray) -> bool:
    """Whether axes of some length meet at other angles than 0 and 90 degrees."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or lengths.min() == 0:
        return False
    cosines = affine[:3, :3] / lengths
    return np.linalg.matrix_rank(cosines, tol=SHEAR_TOLERANCE) == 3


def _spacingProblem(volumeNode) -> str | None:
    spacing = np.linalg.norm(affineOfNode(volumeNode)[:3, :3], axis=0)[::-1]
    lowest, highest = SPACING_BOUNDS
    if lowest <= spacing.min() and spacing.max() <= highest:
        return None
    return _(
        "The voxels of {name} are {spacing} mm apart, {lowest:g} to {highest:g} mm are expected; correct the "
        "spacing in the module Volumes, or load the original images."
    ).format(name=volumeNode.GetName(), spacing=listed(spacing), lowest=lowest, highest=highest)


def _roiProblem(volumeNode, roiNode) -> str | None:
    name = roiNode.GetName()
    if min(roiNode.GetSize()) <= 0:
        return _("The region of interest {name} is empty; draw it in a view, or choose none.").format(
            name=name
        )
    transformNode = roiNode.GetParentTransformNode()
    if transformNode is not None and not transformNode.IsTransformToWorldLinear():
        return _("{name} is under a transform that is not linear; take it out of {transform}.").format(
            name=name, transform=transformNode.GetName()
        )
    try:
        Region.from_limits(roiLimits(roiNode)).voxel_box(affineOfNode(volumeNode), arrayShape(volumeNode))
    except InputError as error:
        return f"{name}: {error}"
    return None


def _segmentationProblem(volumeNode, segmentationNode) -> str | None:
    try:
        checkSegmentation(segmentationNode, volumeNode)
    except InputError as error:
        return str(error)
    return None


def _diskProblem(volumeNode, folder: Path, imageIsSent: bool) -> str | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    needed = volumeNode.GetImageData().GetNumberOfPoints()
    if not imageIsSent:
        needed += imageBytes(volumeNode)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free >= needed:
        return None
    return _(
        "The folder for temporary files, {folder}, has {free} left, {needed} are needed: free some "
        "space, or choose another temporary folder in the application settings."
    ).format(folder=folder, free=gigabytes(free), needed=gigabytes(needed))


def _modalityWarning(volumeNode) -> str | None:
    modality = modalityOf(volumeNode)
    if modality in ("", "CT"):
        return None
    return _("{name} comes from a {modality} series; the models know CT only.").format(
        name=volumeNode.GetName(), modality=modality
    )


def _intensityWarning(volumeNode) -> str | None:
    array = slicer.util.arrayFromVolume(volumeNode)
    steps = (slice(None, None, max(1, size // _LOOKED_AT)) for size in array.shape)
    reason = check_hounsfield(Volume(array[tuple(steps)], np.eye(4)))
    if reason is None:
        return None
    return _("{name} does not look like a CT in HU. {reason}.").format(
        name=volumeNode.GetName(), reason=reason
    )


def _mirrorWarning(volumeNode) -> str | None:
    transformNode = volumeNode.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if transformNode is None or not transformNode.GetMatrixTransformToWorld(matrix):
        return None
    if matrix.Determinant() > 0:
        return None
    return _("The transform {transform} mirrors {name}: left and right of the patient are exchanged.").format(
        transform=transformNode.GetName(), name=volumeNode.GetName()
    )


def _rotationWarning(roiNode) -> str | None:
    if roiNode is None or not isRotated(roiNode):
        return None
    return _(
        "The region of interest {name} is rotated: a larger one is segmented, the box around it along the "
        "patient's axes. Turn it back to keep to it."
    ).format(name=roiNode.GetName())


def _memoryWarning(
    volumeNode, model: Manifest | None, tasks: Collection[str] | None, imageIsSent: bool
) -> str | None:
    needed, available = neededMemory(volumeNode, model, tasks, imageIsSent), available_memory()
    if available is None or needed <= available:
        return None
    return _(
        "{name} needs about {needed} of memory, {available} are free: close other programs, tick fewer "
        "tasks, or crop the volume with the module Crop Volume."
    ).format(name=volumeNode.GetName(), needed=gigabytes(needed), available=gigabytes(available))


def _otherVolumeWarning(volumeNode, segmentationNode) -> str | None:
    if segmentationNode is None or segmentationNode.GetSegmentation().GetNumberOfSegments() == 0:
        return None
    role = segmentationNode.GetReferenceImageGeometryReferenceRole()
    referenceNode = segmentationNode.GetNodeReference(role)
    if referenceNode in (None, volumeNode) and hasSameGrid(segmentationNode, volumeNode):
        return None
    if referenceNode is volumeNode:
        return _(
            "{name} was moved, or its grid changed, after {segmentation} was made, whose segments do not "
            "follow: put both under the same transform, or choose a new segmentation."
        ).format(segmentation=segmentationNode.GetName(), name=volumeNode.GetName())
    return _(
        "{segmentation} was made for another volume than {name}, and its segments of the same tasks are "
        "replaced; choose a new one to keep the two apart."
    ).format(segmentation=segmentationNode.GetName(), name=volumeNode.GetName())


def _editedWarning(
    model: Manifest | None, segmentationNode, tasks: Collection[str] | None, excluded: Collection[str]
) -> str | None:
    if model is None or segmentationNode is None:
        return None
    segmentation = segmentationNode.GetSegmentation()
    ids = _replacedIds(model, segmentation, tasks, excluded)
    names = [segmentation.GetSegment(id).GetName() for id in ids if isEdited(segmentation, id)]
    if not names:
        return None
    return _(
        "Edited by hand and replaced by this run: {names}. Choose a new segmentation to keep them."
    ).format(names=", ".join(names))


def _regionWarning(
    model: Manifest | None,
    segmentationNode,
    tasks: Collection[str] | None,
    excluded: Collection[str],
    roiNode,
) -> str | None:
    """Say which segments would lose what lies outside the region of interest."""
    if model is None or segmentationNode is None or roiNode is None:
        return None
    segmentation = segmentationNode.GetSegmentation()
    ids = _replacedIds(model, segmentation, tasks, excluded)
    names = [
        segmentation.GetSegment(id).GetName() for id in ids if reachesOutside(segmentationNode, id, roiNode)
    ]
    if not names:
        return None
    return _(
        "Only what lies inside {roi} will be left of: {names}. Choose a new segmentation to keep them."
    ).format(roi=roiNode.GetName(), names=", ".join(names))


def _replacedIds(
    model: Manifest, segmentation, tasks: Collection[str] | None, excluded: Collection[str]
) -> list[str]:
    """Return the IDs of the segments that a run would replace."""
    ids = (
        earlierSegmentId(segmentation, task.name, structure)
        for task in model.tasks
        for structure in task.structures
        if (tasks is None or task.name in tasks) and f"{task.name}/{structure}" not in excluded
    )
    return [id for id in ids if id]
