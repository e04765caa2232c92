"""The settings of the panel, kept in the scene: they are saved with it and come back with it.

A plain class over vtkMRMLScriptedModuleNode instead of parameterNodeWrapper: it runs the same in Slicer and
against the bare MRML library, and the file in the scene stays readable text.
"""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

import slicer

from .modelOptions import BUNDLED_MODEL, ModelOptions

T = TypeVar("T")


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
        device, engine, precision, mirror, selection, skipAir: as of `ModelOptions`.
        overlap: of patches in percent; -1 takes the model's.
        regionFrom: name of an installed package that looks first; "" for none.
        effort: of what looks first, in percent: 0 is fast, 100 thorough.
        cacheMegabytes: budget for features; -1 is automatic.
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
    engine = _Value("auto")
    precision = _Value("auto")
    overlap = _Value(-1)
    mirror = _Value(False)
    selection = _Value("auto")
    skipAir = _Value(False)
    regionFrom = _Value("")
    effort = _Value(100)
    cacheMegabytes = _Value(-1)
    keepWorker = _Value(True)
    show3D = _Value(True)
    volumesTable = _Value(False)

    def __init__(self, node: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.node = node

    @property
    def canSkipAir(self) -> bool:
        """Whether leaving out air goes with the selection of slices."""
        return self.selection in ("auto", "fast")

    @property
    def looksFirst(self) -> bool:
        """Whether a coarse model looks first."""
        return self.selection != "off" and self.regionFrom != ""

    def modelOptions(self) -> ModelOptions:
        """How the model runs; what a setting switches off has its default, so that it changes nothing."""
        return ModelOptions(
            model=self.model,
            device=self.device,
            engine=self.engine,
            precision=self.precision,
            overlap=None if self.overlap < 0 else self.overlap / 100,
            mirror=self.mirror,
            selection=self.selection,
            skipAir=self.skipAir and self.canSkipAir,
            regionFrom=self.regionFrom if self.looksFirst else None,
            effort=self.effort / 100 if self.looksFirst else 1.0,
            cacheBytes=None if self.cacheMegabytes < 0 else self.cacheMegabytes << 20,
        )
