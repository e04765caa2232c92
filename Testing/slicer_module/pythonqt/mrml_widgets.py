"""Stand-ins for Slicer's widgets, on the real MRML scene, and adding them to the module `slicer`."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QWidget

from .ctk_widgets import ctkMenuButton
from .members import stand_in
from .node_combo_box import qMRMLNodeComboBox
from .scene_observer import SceneObserver
from .stored import stored

_SURFACE = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()


@stand_in
class qMRMLWidget(QWidget):
    """Stand-in: a widget that hands its scene on."""

    mrmlSceneChanged = Signal(object)
    SIGNALS: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged(PyObject)"}
    SLOTS = ("setMRMLScene(vtkMRMLScene*)",)
    _scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@stand_in
class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """Stand-in: the parent that Slicer gives a module's widget class."""

    _entered = True
    isEntered = Property(bool, lambda self: self._entered)


@stand_in
class qMRMLSegmentationShow3DButton(ctkMenuButton):
    """Stand-in: makes and shows, or removes, the closed surfaces of a segmentation."""

    SLOTS = ("setLocked(bool)", "setSegmentationNode(vtkMRMLSegmentationNode*)")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._observer = SceneObserver(self, "_update")
        self.setCheckable(True)
        self.setText("Show 3D")
        self.clicked.connect(self._onClicked)
        self._update()

    def segmentationNode(self) -> Any:
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        self._node = node
        segments = [] if node is None else [node.GetSegmentation()]
        self._observer.observe(
            *((one, event) for one in segments for event in (one.RepresentationModified, one.SegmentAdded))
        )
        self._update()

    def setLocked(self, locked: bool) -> None:
        self.locked = locked

    def _update(self) -> None:
        if self._node is None:
            self.setEnabled(False)
            self.setChecked(False)
        else:
            segmentation = self._node.GetSegmentation()
            self.setEnabled(segmentation.GetNumberOfSegments() > 0 and not self.locked)
            self.setChecked(segmentation.ContainsRepresentation(_SURFACE))

    def _onClicked(self, checked: bool) -> None:
        if checked:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.RemoveClosedSurfaceRepresentation()

    locked = stored(bool, "locked", False, "_update")


def add_to_slicer() -> None:
    """Add the widgets to the module `slicer`, where the application has them."""
    for cls in (
        qMRMLNodeComboBox,
        qMRMLSegmentationShow3DButton,
        qMRMLWidget,
        qSlicerScriptedLoadableModuleWidget,
    ):
        setattr(slicer, cls.__name__, cls)
