"""The one QApplication of the process: Fusion style, a font that exists, settings of its own."""

from __future__ import annotations

import atexit
import locale
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QSettings, QStandardPaths, Signal
from PySide6.QtGui import QFont, QFontDatabase, QRawFont
from PySide6.QtWidgets import QApplication

from .members import stand_in

_FONTS = ("DejaVu Sans", "Noto Sans", "Liberation Sans", "Open Sans", "Arial", "Helvetica", "Segoe UI")


@stand_in
class qSlicerApplication(QApplication):
    """Stand-in for Slicer's application: a QApplication that also answers what the scene's stand-in knows."""

    startupCompleted = Signal()
    _scene_application: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._scene_application is None:
            raise AttributeError(f"qSlicerApplication has no attribute named '{name}'")
        return getattr(self._scene_application, name)


def _start() -> qSlicerApplication:
    settings = tempfile.mkdtemp(prefix="partialseg-settings-")
    atexit.register(shutil.rmtree, settings, ignore_errors=True)
    started = qSlicerApplication(["Slicer"])
    locale.setlocale(locale.LC_NUMERIC, "C")  # Qt has taken the user's; VTK reads numbers with a point
    started.setApplicationName("Slicer")
    started.setOrganizationName("PartialSeg tests")
    QSettings.setDefaultFormat(QSettings.IniFormat)
    QSettings.setPath(QSettings.IniFormat, QSettings.UserScope, settings)
    QSettings.setPath(QSettings.IniFormat, QSettings.SystemScope, settings)
    QStandardPaths.setTestModeEnabled(True)
    started.setStyle("Fusion")
    started.setFont(_font())
    return started


def _font() -> QFont:
    """A font of this machine, or else that of matplotlib."""
    families = QFontDatabase.families()
    for family in (*(name for name in _FONTS if name in families), *families):
        if QRawFont.fromFont(QFont(family, 9)).familyName():  # a font file, not Qt's boxes
            return QFont(family, 9)
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return QFont(QFontDatabase.applicationFontFamilies(QFontDatabase.addApplicationFont(str(file))), 9)


application = _start()


def process_events(milliseconds: int = 0) -> None:
    """Let happen what is waiting to happen, deletions too; for at most so long if events keep coming."""
    application.processEvents(QEventLoop.AllEvents, milliseconds)
    QCoreApplication.sendPostedEvents(None, QEvent.DeferredDelete)
