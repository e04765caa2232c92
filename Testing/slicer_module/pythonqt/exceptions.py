"""Exceptions that Qt and VTK swallow: in slots, in observers, in destructors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from PySide6.QtCore import QtMsgType, qInstallMessageHandler

_HARMLESS = ("This plugin does not support",)
"""What the offscreen platform says of windows."""

_recording: list[list[str]] = []


@contextmanager
def exceptions_in_slots() -> Iterator[list[str]]:
    """Record exceptions that never reach their caller, and Qt's warnings; raise at the end if there were any.

    Yields:
        The texts so far. A test that expects some removes them from the list.

    Raises:
        AssertionError: something was recorded.
    """
    errors: list[str] = []

    def record(kind: Any, error: Any, trace: Any) -> None:
        errors.append("".join(traceback.format_exception(kind, error, trace, limit=-20)))

    def record_unraisable(event: Any) -> None:
        record(event.exc_type, event.exc_value, event.exc_traceback)

    _recording.append(errors)
    try:
        with (
            patch.object(sys, "excepthook", record),
            patch.object(sys, "unraisablehook", record_unraisable),
            _qt_warnings(errors),
        ):
            yield errors
    except BaseException as error:
        if errors:
            error.add_note("Before, in slots or observers:\n" + "\n".join(errors))
        raise
    finally:
        _recording.remove(errors)
    assert_none(errors)


def assert_none(errors: list[str] | None = None) -> None:
    """Raise AssertionError if there were exceptions, by default those of the contexts that are open."""
    found = [text for texts in _recording for text in texts] if errors is None else errors
    if found:
        raise AssertionError("Exceptions in slots or observers:\n" + "\n".join(found))


@contextmanager
def _qt_warnings(errors: list[str]) -> Iterator[None]:
    def record(kind: QtMsgType, context: Any, text: str) -> None:
        if kind not in (QtMsgType.QtDebugMsg, QtMsgType.QtInfoMsg) and not text.startswith(_HARMLESS):
            errors.append(f"Qt: {text}")

    previous = qInstallMessageHandler(record)
    try:
        yield
    finally:
        qInstallMessageHandler(previous)
