"""Keeps the widgets of the panel and the settings in the scene the same, in both directions."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .dependencies import NOT_CHECKED, DependencyReport
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
        self._report = NOT_CHECKED
        self._offered = 0
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
        self._offerForeignDevice(parameters.device)
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

    def fillDevices(self, report: DependencyReport) -> None:
        """Offer the devices that a check has found to work."""
        self._report = report
        self._showing = True
        self.ui.deviceComboBox.clear()
        for device, title in _deviceTitles(report).items():
            self.ui.deviceComboBox.addItem(title, device)
        self._offered = self.ui.deviceComboBox.count
        self._showing = False
        self.show()

    def _offerForeignDevice(self, device: str) -> None:
        """Show a device that a scene from another computer names, only while it is the chosen one."""
        box = self.ui.deviceComboBox
        if box.count > self._offered:
            box.removeItem(self._offered)
        if box.findData(device) < 0:
            title = _("{device} (not on this computer)") if self._report.lacks(device) else "{device}"
            box.addItem(title.format(device=device), device)

    def _fillChoices(self) -> None:
        self.fillDevices(self._report)
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


def _deviceTitles(report: DependencyReport) -> dict[str, str]:
    """What the list of devices says, by device."""
    titles = {"auto": _("Automatic"), "cpu": _("Processor (CPU)")}
    titles.update({device: f"{title} ({device})" for device, title in report.cards.items()})
    if report.automatic is not None:
        device = "cuda:0" if report.automatic == "cuda" else report.automatic
        titles["auto"] = _("Automatic: {device}").format(device=titles.get(device, device))
    return titles
