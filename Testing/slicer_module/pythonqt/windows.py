"""What a test of the panel needs around it, for as long as the test lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import slicer
from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QVBoxLayout

from .application import application, process_events
from .dialogs import Dialogs, answered_dialogs
from .exceptions import exceptions_in_slots
from .mrml_widgets import qSlicerScriptedLoadableModuleWidget


@contextmanager
def panel_windows() -> Iterator[Dialogs]:
    """Let `slicer.app` be the QApplication, record dialogs and exceptions, start with empty settings.

    The scene must be there before (`slicer_scene.boot`). Windows that are left at the end are deleted.

    Yields:
        The dialogs that would have opened, with the answers the test chooses.

    Raises:
        AssertionError: there were exceptions in slots or observers, or answers nobody asked for.
    """
    QSettings().clear()
    if slicer.app is not application:
        application._scene_application = slicer.app
    with ExitStack() as stack:
        stack.enter_context(patch.object(slicer, "app", application))
        stack.enter_context(exceptions_in_slots())
        dialogs = stack.enter_context(answered_dialogs())
        stack.callback(_delete_windows)
        yield dialogs


def module_parent(entered: bool = True) -> qSlicerScriptedLoadableModuleWidget:
    """The widget that Slicer gives a module's widget class as parent.

    Args:
        entered: whether the module is the one shown.
    """
    parent = qSlicerScriptedLoadableModuleWidget()
    parent.setLayout(QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    parent._entered = entered
    return parent


def _delete_windows() -> None:
    for window in application.topLevelWidgets():
        window.close()
        window.deleteLater()
    process_events()
