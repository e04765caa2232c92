"""Keeps the widgets of the panel and the settings in the scene the same, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import qt

from ..parameters import Parameters
from .messages import plain

NODES = {"inputSelector": "inputVolume", "outputSelector": "segmentation", "roiSelector": "regionOfInterest"}
CHOICES = {
    "modelComboBox": "model",
    "deviceComboBox": "device",
    "engineComboBox": "engine",
    "precisionComboBox": "precision",
    "selectionComboBox": "selection",
    "coarseComboBox": "regionFrom",
}
NUMBERS = {"overlapSpinBox": "overlap", "effortSlider": "effort", "cacheSpinBox": "cacheMegabytes"}
SWITCHES = {
    "mirrorCheckBox": "mirror",
    "skipAirCheckBox": "skipAir",
    "keepWorkerCheckBox": "keepWorker",
    "show3DCheckBox": "show3D",
    "tableCheckBox": "volumesTable",
}

Title = Callable[[str], str]


def _noTitle(value: str) -> str:
    return ""


class ParameterBinding:
    """Connects widgets, by name, with attributes of `Parameters`.

    Args:
        ui: the widgets of PartialSeg.ui by name.

    Attributes:
        parameters: the settings; None while there is no scene.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self.parameters: Parameters | None = None
        self._showing = False
        self._offered: dict[str, dict[str, str]] = {widget: {} for widget in CHOICES}
        self._foreignTitles: dict[str, Title] = dict.fromkeys(CHOICES, _noTitle)
        self._connect(NODES, "currentNodeChanged(vtkMRMLNode*)")
        self._connect(NUMBERS, "valueChanged(int)")
        self._connect(SWITCHES, "toggled(bool)")
        for widget, name in CHOICES.items():
            box = getattr(ui, widget)
            box.connect(
                "currentIndexChanged(int)",
                lambda index, box=box, name=name: self._store(name, box.itemData(index)),
            )

    def show(self) -> None:
        """Show the settings in the widgets."""
        parameters = self.parameters
        if parameters is None or self._showing:
            return
        with self._nothingStored():
            for widget, name in NODES.items():
                getattr(self.ui, widget).setCurrentNode(getattr(parameters, name))
            for widget in CHOICES:
                self._showChoice(widget)
            for widget, name in NUMBERS.items():
                getattr(self.ui, widget).value = getattr(parameters, name)
            for widget, name in SWITCHES.items():
                getattr(self.ui, widget).checked = getattr(parameters, name)

    def offer(self, widget: str, titles: dict[str, str], foreignTitle: Title = _noTitle) -> None:
        """Fill a list of choices.

        Args:
            widget: name of the combo box.
            titles: what to show, by value.
            foreignTitle: returns what to show of a value that is chosen but not among these, as in a scene
                of another computer; it is listed only while it is chosen. "" shows nothing.
        """
        self._foreignTitles[widget] = foreignTitle
        with self._nothingStored():
            if titles != self._offered[widget]:
                self._offered[widget] = titles
                box = getattr(self.ui, widget)
                box.clear()
                for value, title in titles.items():
                    box.addItem(title, value)
            self._showChoice(widget)

    def forbid(self, widget: str, value: str, why: str) -> None:
        """Grey out one of the choices of a list, with the reason as its tooltip; "" allows it again."""
        box = getattr(self.ui, widget)
        row = box.findData(value)
        box.model().item(row).setEnabled(not why)
        box.setItemData(row, plain(why), qt.Qt.ToolTipRole)

    @contextmanager
    def _nothingStored(self) -> Iterator[None]:
        """While widgets are changed here, what they tell is not stored as if a person had chosen it."""
        before, self._showing = self._showing, True
        try:
            yield
        finally:
            self._showing = before

    def _showChoice(self, widget: str) -> None:
        if self.parameters is None:
            return
        box, offered = getattr(self.ui, widget), self._offered[widget]
        value = getattr(self.parameters, CHOICES[widget])
        if box.count > len(offered):
            box.removeItem(len(offered))
        title = "" if value in offered else self._foreignTitles[widget](value)
        if title:
            box.addItem(title, value)
        box.setCurrentIndex(box.findData(value))

    def _connect(self, names: dict[str, str], signal: str) -> None:
        for widget, name in names.items():
            getattr(self.ui, widget).connect(signal, lambda value, name=name: self._store(name, value))

    def _store(self, name: str, value: Any) -> None:
        if self.parameters is None or self._showing or (value is None and name in CHOICES.values()):
            return
        if value != getattr(self.parameters, name):
            setattr(self.parameters, name, value)
