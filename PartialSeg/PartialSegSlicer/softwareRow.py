"""The row of the panel that says whether PyTorch works, and installs or repairs it when asked to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .dependencies import DependencyCheck, DependencyError, DependencyReport, installDependencies


class SoftwareRow:
    """A label and a button.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        onChecked: called with the report of every check.
        log: called with lines to show.
    """

    def __init__(
        self, ui: Any, onChecked: Callable[[DependencyReport], object], log: Callable[[str], object]
    ) -> None:
        self.report: DependencyReport | None = None
        self._label, self._button = ui.softwareLabel, ui.installButton
        self._onChecked = onChecked
        self._log = log
        self._check: DependencyCheck | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self._poll)
        self._button.connect("clicked(bool)", lambda checked=False: self.onButton())

    def check(self) -> None:
        """Look, in a child process, what is installed and whether it works."""
        if self._check is None:
            self._check = DependencyCheck()
            self._label.text = _("Checking…")
            self._button.enabled = False
            self._timer.start()

    def onButton(self) -> None:
        """Check, or install what a check has found to be missing."""
        if self.report is None or self.report.isComplete:
            self.check()
            return
        question = _("{finding} Install it now? It takes some minutes and needs the internet.").format(
            finding=self.report.sentence()
        )
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        try:
            installDependencies(self.report, self._log)
        except (DependencyError, RuntimeError) as error:
            self._log(str(error))
            slicer.util.errorDisplay(str(error))
        self.check()

    def stop(self) -> None:
        """Give up a check."""
        self._timer.stop()
        self._check = None

    def _poll(self) -> None:
        report = self._check.poll() if self._check is not None else None
        if report is None:
            return
        self.stop()
        self.report = report
        self._label.text = report.sentence()
        self._button.enabled = True
        if report.isComplete:
            self._button.text = _("Check")
        else:
            self._button.text = _("Repair") if report.torchIsBroken else _("Install")
        self._onChecked(report)
