"""The settings of the panel, kept in the scene: they are saved with it and come back with it.

A plain class over vtkMRMLScriptedModuleNode instead of parameterNodeWrapper: it runs the same in Slicer and
against the bare MRML library, and the file in the scene stays readable text.
"""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

import slicer

T = TypeVar("T")

BUNDLED_MODEL = "trunk-7tasks"


class _Value(Generic[T]):
    """A setting stored as JSON text; what cannot be read counts as its default."""

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, parameters: Parameters | None, owner: type) -> T:
        text = parameters.node.GetParameter(self.name) if parameters is not None else ""
        if not text:
            return self.default
        try:
            value = json.loads(text)
        except ValueError:
            return self.default
        return value if isinstance(value, type(self.default)) else self.default

    def __set__(self, parameters: Parameters, value: T) -> None:
        parameters.node.SetParameter(self.name, json.dumps(value))


class _Node:
    """A reference to a node of the scene, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, parameters: Parameters | None, owner: type) -> Any:
        return parameters.node.GetNodeReference(self.name) if parameters is not None else None

    def __set__(self, parameters: Parameters, node: Any) -> None:
        parameters.node.SetNodeReferenceID(self.name, node.GetID() if node is not None else None)


class Parameters:
    """Typed access to a vtkMRMLScriptedModuleNode.

    Attributes:
        inputVolume: the CT.
        segmentation: where segments go; None makes a new node.
        regionOfInterest: Markups ROI; None for the whole volume.
        model: name of an installed package, or a folder.
        tasks: names of the ticked tasks.
        excludedStructures: "task/structure" of the structures that are not wanted.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        overlap: of patches in percent; -1 takes the model's.
        mirror: average over flips.
        cacheMegabytes: budget for features.
        keepWorker: whether the worker stays alive between runs.
        show3D: show surfaces when a run has finished.
        volumesTable: write volumes in ml to a table when a run has finished.
    """

    inputVolume = _Node()
    segmentation = _Node()
    regionOfInterest = _Node()
    model = _Value(BUNDLED_MODEL)
    tasks = _Value[list[str]]([])
    excludedStructures = _Value[list[str]]([])
    device = _Value("auto")
    precision = _Value("auto")
    overlap = _Value(-1)
    mirror = _Value(False)
    cacheMegabytes = _Value(2048)
    keepWorker = _Value(True)
    show3D = _Value(True)
    volumesTable = _Value(False)

    def __init__(self, node: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.node = node

    def modelOptions(self) -> dict[str, Any]:
        """Parameters of the worker's `load_model`."""
        return {
            "path": self.model,
            "device": self.device,
            "precision": self.precision,
            "overlap": None if self.overlap < 0 else self.overlap / 100,
            "mirror": self.mirror,
            "cache_bytes": self.cacheMegabytes << 20,
        }
