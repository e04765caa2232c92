"""What scripts may give in several ways, and what they are told where the panel would ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import read_manifest
from PartialSegLib.packages.installed import find_package
from PartialSegLib.task_request import request_tasks

from .checks import findWarning


def namesOf(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """One name, several or None (all) as a tuple or None."""
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def checkNodes(volumeNode: object, segmentationNode: object, roiNode: object) -> None:
    """Check that a script has given nodes of the right kinds; None is for others to judge.

    Raises:
        InputError: it has not.
    """
    kinds = (
        ("volumeNode", volumeNode, "vtkMRMLVolumeNode"),
        ("segmentationNode", segmentationNode, "vtkMRMLSegmentationNode"),
        ("roiNode", roiNode, "vtkMRMLMarkupsROINode"),
    )
    for name, node, kind in kinds:
        if node is not None and not (hasattr(node, "IsA") and node.IsA(kind)):
            given = repr(node) if isinstance(node, str) else type(node).__name__
            raise InputError(f"{name}: expected a {kind}, got {given}; find nodes with slicer.util.getNode.")


def allTasks(model: dict[str, Any]) -> tuple[str, ...]:
    """Names of the tasks of a model.

    Args:
        model: parameters of the worker's `load_model`.

    Raises:
        InputError: the model is not installed.
    """
    return tuple(task.name for task in read_manifest(find_package(model["path"])).tasks)


def findWarningFor(
    volumeNode,
    model: dict[str, Any],
    segmentationNode,
    tasks: Sequence[str],
    structures: Sequence[str] | None,
    roiNode,
    imageIsSent: bool = False,
) -> str | None:
    """What the panel would ask about before such a run, see `checks.findWarning`.

    Args:
        volumeNode: the volume of the run.
        model: parameters of the worker's `load_model`; what is wrong with it the worker says.
        segmentationNode: where segments will go; None for a new one.
        tasks: names, as the user wrote them.
        structures: the same; None for all.
        roiNode: a Markups ROI node; None for the whole volume.
        imageIsSent: whether the worker has the model and the image already.
    """
    try:
        manifest = read_manifest(find_package(model["path"]))
        requests = request_tasks(manifest, tuple(tasks), None if structures is None else tuple(structures))
    except InputError:
        return findWarning(volumeNode, roiNode=roiNode, imageIsSent=imageIsSent)
    names = [request.task.name for request in requests]
    wanted = {f"{one.task.name}/{structure}" for one in requests for structure in one.structures}
    every = {f"{one.task.name}/{structure}" for one in requests for structure in one.task.structures}
    return findWarning(volumeNode, manifest, segmentationNode, names, roiNode, every - wanted, imageIsSent)
