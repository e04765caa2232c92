"""Message boxes and file dialogs that never open: they are recorded, and answered as the test says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PySide6 import QtWidgets

from .members import stand_in

_Plain = QtWidgets.QMessageBox
_KINDS = {
    _Plain.Information: "information",
    _Plain.Warning: "warning",
    _Plain.Critical: "error",
    _Plain.Question: "question",
    _Plain.NoIcon: "message",
}
_ACCEPTING = (_Plain.Ok, _Plain.Yes, _Plain.Retry)
_REJECTING = (_Plain.Cancel, _Plain.No, _Plain.Close)
_current: list[Dialogs] = []


@dataclass(frozen=True)
class Shown:
    """A dialog that would have opened.

    Attributes:
        kind: "information", "warning", "error", "question", "message" or "file".
        title: of its window.
        text: of the message; of a file dialog, where it would have opened.
        answer: the button, or the path.
    """

    kind: str
    title: str
    text: str
    answer: Any


class Dialogs:
    """The dialogs of a test.

    Attributes:
        shown: what would have opened, in order.
    """

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._answers: list[bool] = []
        self._paths: list[str] = []

    def answer(self, *accept: bool) -> None:
        """Say how the next questions are answered; without this they are accepted (OK or Yes).

        That is what slicer.util documents for its testing mode. (In 5.12 its functions really return False
        there, since they compare True with the number of a button.)
        """
        self._answers += accept

    def choose_path(self, *paths: str | Path) -> None:
        """Say what the next file dialogs return; "" is Cancel. A file dialog that nobody answers raises."""
        self._paths += [str(path) for path in paths]

    def texts(self, kind: str) -> list[str]:
        """The texts of the dialogs of a kind."""
        return [one.text for one in self.shown if one.kind == kind]

    def show_message(self, icon: Any, title: str, text: str, buttons: Any) -> Any:
        """Record a message box and return its answer: a button, None if there is nothing to choose."""
        accepting = [button for button in _ACCEPTING if int(buttons) & button]
        rejecting = [button for button in _REJECTING if int(buttons) & button]
        answer = accepting[0] if accepting else None
        if rejecting and self._answers and not self._answers.pop(0):
            answer = rejecting[0]
        self.shown.append(Shown(_KINDS[icon], title, text, answer))
        return answer

    def show_files(self, title: str, folder: str) -> str:
        """Record a file dialog and return its path."""
        if not self._paths:
            raise RuntimeError(f"Nobody answers the file dialog {title!r}; call choose_path before it opens.")
        self.shown.append(Shown("file", title, folder, self._paths.pop(0)))
        return self.shown[-1].answer

    def check_all_used(self) -> None:
        """Raise AssertionError if an answer was never asked for."""
        assert not self._answers, f"questions that were never asked: {self._answers}"
        assert not self._paths, f"paths that were never asked for: {self._paths}"


@contextmanager
def answered_dialogs() -> Iterator[Dialogs]:
    """Record and answer the dialogs of `qt` and of the real slicer.util."""
    import slicer.util

    dialogs = Dialogs()
    _current.append(dialogs)
    try:
        with (
            patch.object(slicer.util, "_messageDisplay", _message_display),
            patch.object(slicer.util, "messageBox", _message_box),
            patch.object(slicer.util, "delayDisplay", _delay_display),
        ):
            yield dialogs
    finally:
        _current.remove(dialogs)
    dialogs.check_all_used()


def _dialogs(what: str) -> Dialogs:
    if not _current:
        raise RuntimeError(f"Nobody answers the dialog {what!r}; open it inside answered_dialogs().")
    return _current[-1]


def _message_display(level: int, text: str, testing: object, *positional: object, **options: Any) -> Any:
    """Stand-in for the function that all message functions of slicer.util end in."""
    logging.getLogger().log(level, text)
    return _message_box(text, **options)


def _message_box(text: str, parent: object = None, **options: Any) -> Any:
    icon = options.get("icon", _Plain.NoIcon)
    buttons = options.get("standardButtons", _Plain.Ok)
    return _dialogs(text).show_message(icon, options.get("windowTitle") or "", text, buttons)


def _delay_display(message: str, *positional: object, **options: object) -> None:
    _dialogs(message).show_message(_Plain.NoIcon, "", message, _Plain.NoButton)
    QtWidgets.QApplication.processEvents()


class QDialogButtonBox(QtWidgets.QDialogButtonBox):
    """Qt's box of buttons, made as PythonQt can make it.

    To PythonQt, enums are numbers, and of the constructors that take one number the first that it tries is
    that for an orientation: `QDialogButtonBox(Ok | Cancel)` would be a box without buttons.
    """

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)


@stand_in
class QMessageBox(QtWidgets.QMessageBox):
    """A message box that is answered by the current `Dialogs`."""

    def exec(self) -> Any:
        shown = _dialogs(self.text)
        return shown.show_message(self.icon(), self.windowTitle, self.text, self.standardButtons)

    exec_ = exec

    @staticmethod
    def question(
        parent: Any, title: str, text: str, buttons: Any = _Plain.Yes | _Plain.No, *default: Any
    ) -> Any:
        return _dialogs(text).show_message(_Plain.Question, title, text, buttons)

    @staticmethod
    def information(parent: Any, title: str, text: str, buttons: Any = _Plain.Ok, *default: Any) -> Any:
        return _dialogs(text).show_message(_Plain.Information, title, text, buttons)

    @staticmethod
    def warning(parent: Any, title: str, text: str, buttons: Any = _Plain.Ok, *default: Any) -> Any:
        return _dialogs(text).show_message(_Plain.Warning, title, text, buttons)

    @staticmethod
    def critical(parent: Any, title: str, text: str, buttons: Any = _Plain.Ok, *default: Any) -> Any:
        return _dialogs(text).show_message(_Plain.Critical, title, text, buttons)


@stand_in
class QFileDialog(QtWidgets.QFileDialog):
    """File dialogs that are answered by the current `Dialogs`; they return paths alone, as in PythonQt."""

    @staticmethod
    def getOpenFileName(parent: Any = None, caption: str = "", folder: str = "", *filters: Any) -> str:
        return _dialogs(caption).show_files(caption, folder)

    @staticmethod
    def getOpenFileNames(*arguments: Any) -> tuple[str, ...]:
        return tuple(path for path in (QFileDialog.getOpenFileName(*arguments),) if path)

    getSaveFileName = getOpenFileName
    getExistingDirectory = getOpenFileName


def _refuse(dialog: QtWidgets.QWidget, *arguments: Any) -> None:
    raise RuntimeError(f"{type(dialog).__name__}.exec would wait for ever: nobody is there to close it.")


def refuse_to_wait() -> None:
    """Let every other modal dialog and menu raise instead of waiting."""
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu):
        cls.exec = cls.exec_ = _refuse
