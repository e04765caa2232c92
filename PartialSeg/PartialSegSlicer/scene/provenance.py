"""How PartialSeg's segments are told from all others: their IDs, and tags that say what made them.

The tags are those that `PartialSegLib.write_segmentation` writes, so that files of the command line and
segments of the module are the same thing.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from PartialSegLib.segmentation import one_word
from PartialSegLib.segmentation_files.seg_nrrd import (
    PROVENANCE_TAG,
    STRUCTURE_TAG,
    TASK_TAG,
    VOXELS_TAG,
    segment_tags,
)
from PartialSegLib.structures import structure_or_tissue

_PIECE = 1 << 18  # voxels that fit into a processor's cache


def segmentId(task: str, structure: str) -> str:
    """Return the ID that what a task finds of a structure has in every segmentation node."""
    return f"PartialSeg_{one_word(task)}_{one_word(structure)}"


def segmentTags(task: str, structure: str, voxels: int, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a segment by name, as `PartialSegLib.segmentation_files.seg_nrrd.segment_tags` does.

    The local time with its offset from UTC is added to the provenance if it states none.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return segment_tags(task, structure, voxels, {"time": now, **provenance})


def tagOf(segment, name: str) -> str:
    """Return a tag of a vtkSegment, "" if it has none of that name."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def provenanceOf(segment) -> dict[str, Any]:
    """Return what made a vtkSegment, {} if it is none of ours."""
    return json.loads(tagOf(segment, PROVENANCE_TAG) or "{}")


def isMadeByPartialSeg(segmentation, id: str) -> bool:
    """Say whether a segment of a vtkSegmentation was made here or by the command line.

    A copy that somebody made of such a segment has its tags, but another ID: it is not one.
    """
    segment = segmentation.GetSegment(id)
    task, structure = (tagOf(segment, name) for name in (TASK_TAG, STRUCTURE_TAG))
    return bool(structure) and id in _possibleIds(task, structure)


def earlierSegmentId(segmentation, task: str, structure: str) -> str | None:
    """Return the ID of what an earlier run of a task found of a structure in a vtkSegmentation, or None."""
    for id in _possibleIds(task, structure):
        segment = segmentation.GetSegment(id)
        if segment and (tagOf(segment, TASK_TAG), tagOf(segment, STRUCTURE_TAG)) == (task, structure):
            return id
    return None


def isEdited(segmentation, id: str) -> bool:
    """Say whether a segment of a vtkSegmentation, made here or by the command line, has other voxels now."""
    segment = segmentation.GetSegment(id)
    computed = tagOf(segment, VOXELS_TAG)
    if not computed or labelmapOf(segment) is None:
        return False
    return voxelCount(segment) != int(computed)


def labelmapOf(segment):
    """Return the vtkOrientedImageData of a vtkSegment, which others may share; None if it has none."""
    return segment.GetRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName())


def voxelCount(segment) -> int:
    """Return the number of voxels of a vtkSegment that has a labelmap.

    They are counted piece by piece, which takes a twentieth of the time of all at once.
    """
    scalars, value = labelmapOf(segment).GetPointData().GetScalars(), segment.GetLabelValue()
    labels = vtk_to_numpy(scalars) if scalars is not None else np.zeros(0)
    pieces = (labels[start : start + _PIECE] for start in range(0, labels.size, _PIECE))
    return sum(np.count_nonzero(piece == value) for piece in pieces)


def updateNames(segmentation, structure: str) -> None:
    """Name our segments of a structure, with the task where several tasks found it.

    Segments that somebody renamed keep their names.
    """
    ids = [id for id in segmentation.GetSegmentIDs() if isMadeByPartialSeg(segmentation, id)]
    segments = [segmentation.GetSegment(id) for id in ids]
    segments = [segment for segment in segments if tagOf(segment, STRUCTURE_TAG) == structure]
    name = structure_or_tissue(structure).name
    for segment in segments:
        longName = f"{name} ({tagOf(segment, TASK_TAG)})"
        if segment.GetName() in (name, longName):
            segment.SetName(name if len(segments) == 1 else longName)


def _possibleIds(task: str, structure: str) -> tuple[str, ...]:
    """The ID that the module gives, and those that the command line writes into files."""
    return segmentId(task, structure), structure, f"{one_word(task)}-{structure}"
