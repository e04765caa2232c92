"""Keeps the widgets of the panel and the settings in the scene the same, in both directions."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .parameters import Parameters

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

NODES = {"inputSelector": "inputVolume", "outputSelector": "segmentation", "roiSelector": "regionOfInterest"}
CHOICES = {"modelComboBox": "model", "deviceComboBox": "device", "precisionComboBox": "precision"}
NUMBERS = {"overlapSpinBox": "overlap", "cacheSpinBox": "cacheMegabytes"}
SWITCHES = {
    "mirrorCheckBox": "mirror",
    "keepWorkerCheckBox": "keepWorker",
    "show3DCheckBox": "show3D",
    "tableCheckBox": "volumesTable",
}


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
        self._fillChoices()
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
        self._showing = True
        for widget, name in NODES.items():
            getattr(self.ui, widget).setCurrentNode(getattr(parameters, name))
        for widget, name in CHOICES.items():
            box = getattr(self.ui, widget)
            box.setCurrentIndex(box.findData(getattr(parameters, name)))
        for widget, name in NUMBERS.items():
            getattr(self.ui, widget).value = getattr(parameters, name)
        for widget, name in SWITCHES.items():
            getattr(self.ui, widget).checked = getattr(parameters, name)
        self._showing = False

    def fillModels(self, titles: dict[str, str]) -> None:
        """Offer models: title by name."""
        self._showing = True
        self.ui.modelComboBox.clear()
        for name, title in titles.items():
            self.ui.modelComboBox.addItem(title, name)
        self._showing = False
        self.show()

    def _fillChoices(self) -> None:
        self.ui.deviceComboBox.addItem(_("Automatic"), "auto")
        self.ui.deviceComboBox.addItem(_("Processor (CPU)"), "cpu")
        for precision in PRECISIONS:
            self.ui.precisionComboBox.addItem(_("Automatic") if precision == "auto" else precision, precision)

    def _connect(self, names: dict[str, str], signal: str) -> None:
        for widget, name in names.items():
            getattr(self.ui, widget).connect(signal, lambda value, name=name: self._store(name, value))

    def _store(self, name: str, value: Any) -> None:
        if self.parameters is None or self._showing or (value is None and name in CHOICES.values()):
            return
        if value != getattr(self.parameters, name):
            setattr(self.parameters, name, value)
