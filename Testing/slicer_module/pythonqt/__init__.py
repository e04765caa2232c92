"""PySide6 made to look like PythonQt: the panel's code and .ui run offscreen, unmodified.

Importing this package makes the modules `qt` and `ctk`, adds the qMRML widgets to `slicer`, and starts the
one QApplication of the process. Before PySide6 is loaded it sets QT_QPA_PLATFORM=offscreen (unless the
environment names another platform), and that enumerations are integers as in PythonQt. So import it before
whatever imports PySide6, qt or ctk. What reaches further (`slicer.app`, message boxes) lasts only as long as
`panel_windows()`.

Stricter than PythonQt, so that mistakes show:
  * a wrong signature in `connect` raises ValueError; the real `connect` only returns False;
  * a value that PythonQt would turn into another one (None for a switch) raises AttributeError;
  * an unknown class, property, signal or slot in a .ui file raises ValueError;
  * a dialog that nobody answers raises RuntimeError instead of waiting for ever.

Not like the application: Qt 6 instead of Qt 5; ctk and qMRML widgets are stand-ins that know the usual ones
of the properties, slots and invokable methods that PythonQt shows; `sizeHint` is a method;
`signal.connect(f)` passes what PySide6 passes; enumerations can be written with their scope too
(`qt.Qt.CheckState.Checked`), which PythonQt does not know.
"""

import ctypes
import os
import sys

if "PySide6.QtCore" in sys.modules and "qt" not in sys.modules:
    raise ImportError("PySide6 is loaded already; import pythonqt before it")
if sys.version_info < (3, 12):  # PySide6 6.12 releases None with each call that returns nothing, till it dies
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["PYSIDE6_OPTION_PYTHON_ENUM"] = "0x3"  # new enumerations, derived from int

from . import members, qt_module

members.install()
qt = sys.modules["qt"] = qt_module.make_module()

from . import ctk_widgets, mrml_widgets  # noqa: E402
from .application import application  # noqa: E402
from .dialogs import Dialogs, answered_dialogs  # noqa: E402
from .exceptions import exceptions_in_slots  # noqa: E402
from .person import choose, click, grab, press, tick, type_text, wait_until  # noqa: E402
from .windows import module_parent, panel_windows  # noqa: E402

ctk = sys.modules["ctk"] = ctk_widgets.make_module()
mrml_widgets.add_to_slicer()

__all__ = [
    "Dialogs",
    "answered_dialogs",
    "application",
    "choose",
    "click",
    "ctk",
    "exceptions_in_slots",
    "grab",
    "module_parent",
    "panel_windows",
    "press",
    "qt",
    "tick",
    "type_text",
    "wait_until",
]
