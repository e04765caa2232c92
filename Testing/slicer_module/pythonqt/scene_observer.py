"""Observations of VTK objects that end when the widget that made them does."""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
from PySide6.QtCore import QObject


class SceneObserver:
    """Calls a method of a widget when something happens to VTK objects.

    Args:
        widget: has the method.
        method: its name; called without arguments.
    """

    def __init__(self, widget: QObject, method: str) -> None:
        self._widget = weakref.ref(widget)
        self._method = method
        observed: list[tuple[Any, int]] = []
        self._observed = observed
        widget.destroyed.connect(lambda: _forget(observed))

    def observe(self, *objects_and_events: tuple[Any, int]) -> None:
        """Observe these, and no longer what was observed before."""
        _forget(self._observed)
        self._observed += [(one, one.AddObserver(event, self._call)) for one, event in objects_and_events]

    def _call(self, caller: Any, event: str) -> None:
        widget = self._widget()
        if widget is not None and shiboken6.isValid(widget):
            getattr(widget, self._method)()


def _forget(observed: list[tuple[Any, int]]) -> None:
    for one, tag in observed:
        one.RemoveObserver(tag)
    observed.clear()
