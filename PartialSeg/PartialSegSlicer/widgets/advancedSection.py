"""The section Advanced of the panel: where and how to compute, and what may be left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from ..dependencies import NOT_CHECKED, DependencyReport
from ..installedModels import Models
from ..parameters import Parameters
from .lookingChoices import LookingChoices
from .parameterBinding import ParameterBinding
from .softwareRow import SoftwareRow

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
OPENVINO_ENGINES = ("openvino", "openvino-int8")


class AdvancedSection:
    """Fills the lists of choices, greys out what cannot be chosen, and says what cannot be used.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        binding: keeps them and the settings the same.
        onChecked: called when it is known what works on this computer.
        log: called with lines to show.

    Attributes:
        software: says whether PyTorch works.
        looking: what may be left out.
    """

    def __init__(
        self,
        ui: Any,
        binding: ParameterBinding,
        onChecked: Callable[[], object],
        log: Callable[[str], object],
    ) -> None:
        self.ui = ui
        self.binding = binding
        self.software = SoftwareRow(ui, self._onChecked, log)
        self.looking = LookingChoices(ui, binding)
        self._tellChecked = onChecked
        self._engineToolTip = ui.engineComboBox.toolTip
        engines = {
            "auto": _("Automatic"),
            "torch": "PyTorch",
            "openvino": "OpenVINO",
            "openvino-int8": _("OpenVINO, rounded to 8 bits"),
        }
        binding.offer("engineComboBox", engines)
        precisions = {name: _("Automatic") if name == "auto" else name for name in PRECISIONS}
        binding.offer("precisionComboBox", precisions)
        self._offerWhatWorks(NOT_CHECKED)

    def show(self, parameters: Parameters, models: Models) -> None:
        """Offer what goes with the chosen model, and grey out what does not go with other settings."""
        self.looking.show(parameters, models)

    def problem(self, parameters: Parameters, models: Models) -> str | None:
        """Why the settings cannot be used, in a sentence; None if they can.

        Args:
            parameters: with a model that is installed.
            models: those that are.
        """
        report = self.software.report
        if report.canBeMended:
            return _("{finding} The button is in Advanced, Software.").format(finding=report.sentence())
        if report.lacks(parameters.device):
            sentence = _("The device {device} is not on this computer; choose another one in Advanced.")
            return sentence.format(device=parameters.device)
        if parameters.engine in OPENVINO_ENGINES and report.lacksOpenVino:
            return _("OpenVINO is not installed; choose another engine in Advanced.")
        return self.looking.problem(parameters, models)

    def expectedDevice(self, device: str) -> str:
        """The kind of device that a run on a chosen device will most likely use: cpu, cuda or mps."""
        if device == "auto":
            device = self.software.report.automatic or "cpu"
        return device.split(":")[0]

    def _onChecked(self, report: DependencyReport) -> None:
        self._offerWhatWorks(report)
        if report.canBeMended:
            self.ui.advancedCollapsibleButton.collapsed = False
        self._tellChecked()

    def _offerWhatWorks(self, report: DependencyReport) -> None:
        """Offer the devices and engines that a check has found to work."""

        def foreignTitle(device: str) -> str:
            title = _("{device} (not on this computer)") if report.lacks(device) else "{device}"
            return title.format(device=device)

        self.binding.offer("deviceComboBox", _deviceTitles(report), foreignTitle)
        why = "" if report.hasOpenVino else _whyNoOpenVino(report)
        for engine in OPENVINO_ENGINES:
            self.binding.forbid("engineComboBox", engine, why)
        self.ui.engineComboBox.toolTip = f"{self._engineToolTip} {why}".strip()


def _whyNoOpenVino(report: DependencyReport) -> str:
    if not report.lacksOpenVino:
        return _("Whether OpenVINO is installed has not been checked yet; click Check below.")
    return _(
        "OpenVINO is not installed; to install it, enter slicer.util.pip_install('openvino') in the Python "
        "console and click Check below."
    )


def _deviceTitles(report: DependencyReport) -> dict[str, str]:
    """What the list of devices says, by device."""
    titles = {"auto": _("Automatic"), "cpu": _("Processor (CPU)")}
    titles.update({device: f"{title} ({device})" for device, title in report.cards.items()})
    if report.automatic is not None:
        device = "cuda:0" if report.automatic == "cuda" else report.automatic
        titles["auto"] = _("Automatic: {device}").format(device=titles.get(device, device))
    return titles
