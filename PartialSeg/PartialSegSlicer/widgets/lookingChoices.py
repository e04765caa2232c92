"""What a run may leave out: slices without anything, air, and what a coarse model finds nothing in."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ..installedModels import Models, titlesOf
from ..parameters import Parameters
from .messages import plain
from .parameterBinding import ParameterBinding

_WIDGETS = ("skipAirCheckBox", "coarseComboBox", "effortWidget")


class LookingChoices:
    """Fills the lists, and greys out what does not go with the chosen model or with the other settings.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        binding: keeps them and the settings the same.
    """

    def __init__(self, ui: Any, binding: ParameterBinding) -> None:
        self.binding = binding
        self._widgets = {name: getattr(ui, name) for name in _WIDGETS}
        self._toolTips = {name: widget.toolTip for name, widget in self._widgets.items()}
        selections = {
            "auto": _("Automatic"),
            "off": _("All: look at everything"),
            "exact": _("Exact"),
            "fast": _("Fast"),
        }
        binding.offer("selectionComboBox", selections)

    def show(self, parameters: Parameters, models: Models) -> None:
        """Offer the models that can look first, and grey out what has no effect."""
        self._offerModels(parameters.model, models)
        for selection in ("exact", "fast"):
            self.binding.forbid("selectionComboBox", selection, _whyNot(selection, parameters, models))
        for name, why in _reasonsToGreyOut(parameters).items():
            self._widgets[name].enabled = not why
            self._widgets[name].toolTip = plain(why) or self._toolTips[name]

    def problem(self, parameters: Parameters, models: Models) -> str | None:
        """Why the settings cannot be used, in a sentence; None if they can.

        Args:
            parameters: with a model that is installed.
            models: those that are.
        """
        if _whyNot(parameters.selection, parameters, models):
            return _("The model has no decision network; choose Automatic or All in Advanced, Slices.")
        if parameters.looksFirst and parameters.regionFrom not in models:
            sentence = _("The model {name} is not installed; choose another one to look first, or none.")
            return sentence.format(name=parameters.regionFrom)
        if parameters.looksFirst and parameters.regionFrom == parameters.model:
            return _("A model cannot look first for itself; choose another one to look first, or none.")
        return None

    def _offerModels(self, model: str, models: Models) -> None:
        def foreignTitle(name: str) -> str:
            title = _("{name} (the model itself)") if name == model else _("{name} (not installed)")
            return title.format(name=name)

        titles = {"": _("None: look everywhere"), **titlesOf(models)}
        titles.pop(model, None)
        self.binding.offer("coarseComboBox", titles, foreignTitle)


def _whyNot(selection: str, parameters: Parameters, models: Models) -> str:
    """Why a selection of slices cannot be used; "" if it can."""
    if selection not in ("exact", "fast"):
        return ""
    if parameters.model in models and models[parameters.model][1].decision is not None:
        return ""
    if selection == "exact":
        return _("The model has no decision network, which would tell the slices that a task needs.")
    if parameters.regionFrom:
        return ""
    return _("The model has no decision network, and no model looks first.")


def _reasonsToGreyOut(parameters: Parameters) -> dict[str, str]:
    """Why widgets have no effect, by name; "" for those that have one."""
    if parameters.selection == "off":
        why = _("Everything is looked at; choose something else than All in Slices.")
        return dict.fromkeys(_WIDGETS, why)
    exact = _("Exact leaves the scores of air as they are; choose Automatic or Fast in Slices.")
    first = _("Choose a model to look first with.")
    return {
        "skipAirCheckBox": "" if parameters.canSkipAir else exact,
        "coarseComboBox": "",
        "effortWidget": "" if parameters.looksFirst else first,
    }
