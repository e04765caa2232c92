"""The module `qt`: what PythonQt has in it, no more."""

from types import ModuleType

from PySide6 import QtCore, QtGui, QtWidgets

from .dialogs import QDialogButtonBox, QFileDialog, QMessageBox, refuse_to_wait
from .loader import QUiLoader

_WOULD_WAIT_FOR_EVER = {"QColorDialog", "QErrorMessage", "QFontDialog", "QInputDialog"}


def make_module() -> ModuleType:
    """Classes of Qt by their names; those whose dialogs would wait for an answer are left out or replaced."""
    module = ModuleType("qt", __doc__)
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q") and name not in _WOULD_WAIT_FOR_EVER:
                setattr(module, name, getattr(source, name))
    for replaced in (QDialogButtonBox, QFileDialog, QMessageBox, QUiLoader):
        setattr(module, replaced.__name__, replaced)
    refuse_to_wait()
    return module
