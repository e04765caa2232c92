"""Asks which network to import where nnU-Net has trained several; Slicer stays usable meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.packages.nnunet_files import ALL_CASES, FoundModel

USUAL: tuple[str, ...] = ()
"""The folds that nnU-Net takes itself."""


def hasToBeAsked(models: Sequence[FoundModel]) -> bool:
    """Return whether there are several models, or several folds of one."""
    return len(models) > 1 or any(len(model.folds) > 1 for model in models)


class NnunetChoice:
    """A dialog with a list of models and a list of their folds.

    Args:
        models: at least one.
        onChosen: called with the title of a model and its folds, when the user agrees.
    """

    def __init__(
        self, models: Sequence[FoundModel], onChosen: Callable[[str, tuple[str, ...]], object]
    ) -> None:
        self._models = models
        self._onChosen = onChosen
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.windowTitle = _("Import a model of nnU-Net")
        self.modelComboBox, self.foldsComboBox = qt.QComboBox(), qt.QComboBox()
        self.modelComboBox.toolTip = _("Configurations that nnU-Net trained, as it calls them.")
        self.foldsComboBox.toolTip = _("Each network that is taken costs its time again for every image.")
        self.buttons = qt.QDialogButtonBox()  # given buttons, PythonQt would take them for an orientation
        self.buttons.setStandardButtons(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel)
        form = qt.QFormLayout(self.dialog)
        form.addRow(_("Model:"), self.modelComboBox)
        form.addRow(_("Networks:"), self.foldsComboBox)
        form.addRow(self.buttons)
        for model in models:
            self.modelComboBox.addItem(model.title)
        self._showFolds()
        self.modelComboBox.connect("currentIndexChanged(int)", lambda index: self._showFolds())
        self.buttons.connect("accepted()", self.dialog.accept)
        self.buttons.connect("rejected()", self.dialog.reject)
        self.dialog.connect("accepted()", self._choose)

    def ask(self) -> None:
        """Open the dialog, without waiting for the answer."""
        self.dialog.open()

    def close(self) -> None:
        """Give up, and remove the dialog."""
        self.dialog.reject()
        self.dialog.deleteLater()

    @property
    def _model(self) -> FoundModel:
        return self._models[self.modelComboBox.currentIndex]

    def _showFolds(self) -> None:
        self._folds = _foldsToChoose(self._model)
        self.foldsComboBox.clear()
        for title in self._folds:
            self.foldsComboBox.addItem(title)

    def _choose(self) -> None:
        self._onChosen(self._model.title, self._folds[self.foldsComboBox.currentText])


def _foldsToChoose(model: FoundModel) -> dict[str, tuple[str, ...]]:
    """Return what can be taken of a model, by what to call it, the usual first."""
    choices = {}
    count = len(model.usual_folds)
    if count > 1:
        choices[_("All {count}, as nnU-Net does ({count} times as long)").format(count=count)] = USUAL
    for fold in model.folds:
        title = _("The one trained on all cases") if fold == ALL_CASES else _("Fold {fold}").format(fold=fold)
        choices[title] = (fold,)
    return choices
