"""Stand-in for Slicer's selector of nodes, on the real MRML scene."""

from __future__ import annotations

from typing import Any, ClassVar

import vtk
from PySide6.QtCore import Property, QSignalBlocker, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from .members import stand_in
from .scene_observer import SceneObserver
from .stored import stored

_NONE, _CREATE, _DELETE = "", "create ", "delete"
"""What items hold that are no nodes; those of nodes hold their ID."""


@stand_in
class qMRMLNodeComboBox(QWidget):
    """Stand-in: lists the nodes of the scene that fit, "None", "Create new" and "Delete current".

    As in the original, a list that was empty selects its first node if there is no "None", and the neighbour
    of a removed node becomes the current one. Of a scene being closed or imported only the end is seen.
    """

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    _validNodeChanged = Signal(bool)
    SIGNALS: ClassVar = {
        "currentNodeChanged(bool)": "_validNodeChanged(bool)",
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged(PyObject)",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated(PyObject)",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded(PyObject)",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser(PyObject)",
        "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction(PyObject)",
    }
    SLOTS = (
        "addNode()",
        "removeCurrentNode()",
        "setCurrentNode(vtkMRMLNode*)",
        "setCurrentNodeID(QString)",
        "setCurrentNodeIndex(int)",
        "setMRMLScene(vtkMRMLScene*)",
    )

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._listed: list[str] = []
        self._current = self._requested = _NONE
        self._attributes: list[tuple[str, str, str | None]] = []
        self._sceneObserver = SceneObserver(self, "_refresh")
        self._nodeObserver = SceneObserver(self, "_onNodeModified")
        self._box = QComboBox(self)
        self._box.currentIndexChanged.connect(self._onIndex)
        self._box.activated.connect(self._onActivated)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self.setEnabled(False)

    nodeTypes = stored("QStringList", "nodeTypes", [], "_refresh")
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], "_refresh")
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, "_refresh")
    showHidden = stored(bool, "showHidden", False, "_refresh")
    noneEnabled = stored(bool, "noneEnabled", False, "_refresh")
    noneDisplay = stored(str, "noneDisplay", "None", "_refresh")
    addEnabled = stored(bool, "addEnabled", True, "_refresh")
    removeEnabled = stored(bool, "removeEnabled", True, "_refresh")
    renameEnabled = stored(bool, "renameEnabled", False)
    editEnabled = stored(bool, "editEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    baseName = stored(str, "baseName", "")

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._scene, self._listed = scene, []
        events = ("NodeAddedEvent", "NodeRemovedEvent", "EndBatchProcessEvent")
        self._sceneObserver.observe(*((scene, getattr(scene, event)) for event in events if scene))
        self._refresh()
        if self._requested:
            self.setCurrentNodeID(self._requested)
        self._requested = _NONE
        self.setEnabled(scene is not None)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(_NONE if node is None else node.GetID())

    def setCurrentNodeID(self, nodeID: str) -> None:
        if self._scene is None:
            self._requested = nodeID
        self._select(nodeID if nodeID in self._listed else _NONE)

    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self.nodeFromIndex(index))

    def nodeCount(self) -> int:
        return len(self._listed)

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID(self._listed[index]) if 0 <= index < len(self._listed) else None

    def addAttribute(self, nodeType: str, name: str, value: object = None) -> None:
        """List nodes of a type only if they have the attribute, with this value unless it is None."""
        self._attributes.append((nodeType, name, None if value is None else str(value)))
        self._refresh()

    def addNode(self, nodeType: str = "") -> Any:
        if not self.nodeTypes or (nodeType and nodeType not in self.nodeTypes):
            return None
        node = self._scene.CreateNodeByClass(nodeType or self.nodeTypes[0])
        node.UnRegister(None)
        if self.baseName:
            node.SetName(self._scene.GenerateUniqueName(self.baseName))
        for _nodeType, name, value in self._attributes:
            node.SetAttribute(name, value or "")
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    def _nodes(self) -> list[Any]:
        """The nodes of the scene that are to be listed."""
        count = self._scene.GetNumberOfNodes() if self._scene else 0
        nodes = [self._scene.GetNthNode(number) for number in range(count)]
        return [node for node in nodes if self._fits(node)]

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if node.GetClassName() not in self.nodeTypes:
            isChild = self.showChildNodeTypes and any(map(node.IsA, self.nodeTypes))
            if not isChild or any(map(node.IsA, self.hideChildNodeTypes)):
                return False
        return all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
            for nodeType, name, value in self._attributes
            if node.IsA(nodeType)
        )

    def _refresh(self) -> None:
        """List the nodes anew, after a change in the scene or of a property."""
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        nodes = self._nodes()
        new = [node for node in nodes if node.GetID() not in self._listed]
        current = self._nextCurrent([node.GetID() for node in nodes])
        self._listed = [node.GetID() for node in nodes]
        self._nodeObserver.observe(*((node, vtk.vtkCommand.ModifiedEvent) for node in nodes))
        self._fill(nodes)
        for node in new:
            self.nodeAdded.emit(node)
        self._select(current)

    def _nextCurrent(self, ids: list[str]) -> str:
        """Which node is to be the current one when others are listed than before."""
        if self._current in ids:
            return self._current
        rows = [_NONE, *ids] if self.noneEnabled else ids
        if self._current in self._listed and rows:
            return rows[min(self._listed.index(self._current) + self.noneEnabled, len(rows) - 1)]
        return rows[0] if rows and not self._listed else _NONE

    def _fill(self, nodes: list[Any]) -> None:
        with QSignalBlocker(self._box):
            self._box.clear()
            if self.noneEnabled:
                self._box.addItem(self.noneDisplay, _NONE)
            for node in nodes:
                self._box.addItem(node.GetName(), node.GetID())
            for kind in self.nodeTypes if self.addEnabled and self._scene else ():
                label = self._scene.GetTypeDisplayNameByClassName(kind)
                self._box.addItem(f"Create new {label}", _CREATE + kind)
            if self.removeEnabled and nodes:
                self._box.addItem("Delete current", _DELETE)

    def _select(self, nodeID: str) -> None:
        """Show the node, or none, as the current one, and tell if it was another one."""
        with QSignalBlocker(self._box):
            self._box.setCurrentIndex(self._box.findData(nodeID))
        if nodeID != self._current:
            self._current = nodeID
            self.currentNodeChanged.emit(self.currentNode())
            self._validNodeChanged.emit(bool(nodeID))
            self.currentNodeIDChanged.emit(nodeID)

    def _onNodeModified(self) -> None:
        nodes = self._nodes()
        if [node.GetID() for node in nodes] != self._listed:
            self._refresh()
        for node in nodes:
            self._box.setItemText(self._box.findData(node.GetID()), node.GetName())

    def _onIndex(self, row: int) -> None:
        data = self._box.itemData(row)
        if data == _NONE or data in self._listed:
            self._select(data)

    def _onActivated(self, row: int) -> None:
        data = self._box.itemData(row)
        self._select(self._current)
        if data.startswith(_CREATE):
            node = self.addNode(data.removeprefix(_CREATE))
            self.setCurrentNode(node)
            self.nodeAddedByUserAction.emit(node)
        elif data == _DELETE:
            self.removeCurrentNode()
        else:
            self.nodeActivated.emit(self.currentNode())
