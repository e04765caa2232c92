"""A window that says how far something of more than two seconds is, and ends it when asked to."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from .messages import plain

SHOWN_AFTER_MILLISECONDS = 2000


class ProgressDialog:
    """Appears when the work takes long; Slicer stays usable meanwhile.

    Args:
        title: of the window.
        text: what is being done.
        onCancelled: called when the user has had enough.
    """

    def __init__(self, title: str, text: str, onCancelled: Callable[[], object]) -> None:
        self.dialog = qt.QProgressDialog(slicer.util.mainWindow())
        self.dialog.windowTitle = title
        self.dialog.labelText = plain(text)
        self.dialog.autoClose = False
        self.dialog.autoReset = False
        self.dialog.setRange(0, 0)
        self.dialog.connect("canceled()", onCancelled)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self.dialog.show)
        self._timer.start(SHOWN_AFTER_MILLISECONDS)

    def setProgress(self, done: int, total: int) -> None:
        """Show a share; before the first one the bar only says that something is going on."""
        if total > 0:
            self.dialog.setRange(0, 1000)
            self.dialog.setValue(1000 * done // total)

    def close(self) -> None:
        """Remove the window, whether it has been shown or not."""
        self._timer.stop()
        self.dialog.reset()
        self.dialog.hide()
        self.dialog.deleteLater()
