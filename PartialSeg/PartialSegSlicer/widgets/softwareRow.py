"""The row of the panel that says whether PyTorch works, and installs or repairs it when asked to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..dependencies import (
    NOT_CHECKED,
    DependencyCheck,
    DependencyError,
    DependencyReport,
    installDependencies,
)
from .messages import confirm, showError


class SoftwareRow:
    """A label and a button.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        onChecked: called with the report of every check.
        log: called with lines to show.

    Attributes:
        onBeforeInstall: called before anything is installed; set by whoever runs workers, to end them:
            Windows replaces no files that a process has loaded, and what is left of a failed import stays.
    """

    def __init__(
        self, ui: Any, onChecked: Callable[[DependencyReport], object], log: Callable[[str], object]
    ) -> None:
        self.report = NOT_CHECKED
        self.onBeforeInstall: Callable[[], object] = lambda: None
        self._label, self._button = ui.softwareLabel, ui.installButton
        self._onChecked = onChecked
        self._log = log
        self._check: DependencyCheck | None = None
        self._isInstalling = False
        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self._poll)
        self._button.connect("clicked(bool)", lambda checked=False: self.onButton())

    def checkUnlessReady(self) -> None:
        """Look, unless a check has found already that all is well."""
        if not self.report.isComplete:
            self.check()

    def check(self) -> None:
        """Look, in a child process, what is installed, whether it works, and on which devices."""
        if self._check is not None or self._isInstalling:
            return
        self._label.text = _("Checking…")
        self._button.enabled = False
        try:
            self._check = DependencyCheck()
        except OSError as error:
            self._show(DependencyReport({}, str(error)))
        else:
            self._timer.start()

    def onButton(self) -> None:
        """Check, or install what a check has found to be missing."""
        if self._isInstalling:
            return
        if not self.report.canBeMended:
            self.check()
            return
        if not confirm(self.report.question()):
            return
        self.onBeforeInstall()
        self._label.text = _("Installing…")
        self._button.enabled = False
        self._isInstalling = True  # events are handled while pip works: the module may be left and entered
        try:
            installDependencies(self.report, self._log)
        except DependencyError as error:
            self._log(str(error))
            showError(str(error))
        finally:
            self._isInstalling = False
        self.check()

    def stop(self) -> None:
        """Give up a check."""
        self._timer.stop()
        if self._check is not None:
            self._check.stop()
            self._check = None
            self._label.text = NOT_CHECKED.error
            self._button.enabled = True

    def _poll(self) -> None:
        report = self._check.poll() if self._check is not None else None
        if report is not None:
            self._timer.stop()
            self._check = None
            self._show(report)

    def _show(self, report: DependencyReport) -> None:
        self.report = report
        self._label.text = report.sentence()
        self._button.enabled = True
        if report.canBeMended:
            self._button.text = _("Install") if report.missing else _("Repair")
        else:
            self._button.text = _("Check")
        self._onChecked(report)
