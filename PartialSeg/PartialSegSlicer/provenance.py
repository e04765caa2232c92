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

from PartialSegLib.structures import structure_or_tissue, terminology_entry

TASK_TAG = "PartialSeg.Task"
STRUCTURE_TAG = "PartialSeg.Structure"
PROVENANCE_TAG = "PartialSeg.Provenance"
VOXELS_TAG = "PartialSeg.Voxels"  # how many there were; another number means that somebody has edited
_ALGORITHM_NAME_LENGTH = 64
_PIECE = 1 << 18  # voxels that fit into a processor's cache


def segmentId(task: str, structure: str) -> str:
    """Return the ID that what a task finds of a structure has in every segmentation node."""
    return f"PartialSeg_{_word(task)}_{_word(structure)}"


def segmentTags(task: str, structure: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a segment by name.

    Args:
        task: name of the task.
        structure: id of the structure.
        provenance: what made the segment (model, model_version, weights_sha256, software, device, …), as
            plain JSON.

    Returns:
        Terminology, DICOM algorithm type and name, task and structure, and the provenance as one JSON text;
        the local time with its offset from UTC is added to it if it states none.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    record = json.dumps({"time": now, **provenance}, sort_keys=True)
    algorithm = f"PartialSeg {provenance.get('model', '')}".strip()
    return {
        "DICOM.SegmentAlgorithmName": algorithm[:_ALGORITHM_NAME_LENGTH],
        "DICOM.SegmentAlgorithmType": "AUTOMATIC",
        PROVENANCE_TAG: record.replace("|", r"\u007c"),  # Slicer separates the tags in files by "|"
        STRUCTURE_TAG: structure,
        TASK_TAG: task,
        slicer.vtkSegment.GetTerminologyEntryTagName(): terminology_entry(structure_or_tissue(structure)),
    }


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
    labelmap = segment.GetRepresentation(
        slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    )
    if not computed or labelmap is None:
        return False
    scalars = labelmap.GetPointData().GetScalars()
    labels = vtk_to_numpy(scalars) if scalars is not None else np.zeros(0)
    return _count(labels, segment.GetLabelValue()) != int(computed)


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
    return segmentId(task, structure), structure, f"{_word(task)}-{structure}"


def _count(labels: np.ndarray, value: int) -> int:
    """How many labels have a value; piece by piece, which takes a twentieth of the time of all at once."""
    pieces = (labels[start : start + _PIECE] for start in range(0, labels.size, _PIECE))
    return sum(np.count_nonzero(piece == value) for piece in pieces)


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in text)
