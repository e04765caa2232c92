"""Work in threads beside Slicer's event loop, which keeps the GIL while no Python code runs.

So threads advance only while Python code on the main thread waits: whoever needs one waits for it a little.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

HAND_OVER_SECONDS = 0.03  # how long the main thread waits for another one, which lets go of the GIL
_HAND_OVER_MILLISECONDS = 100  # and how often

Answer = TypeVar("Answer")


class BackgroundWork(Generic[Answer]):
    """A function in a thread of its own; files only, no Qt and no scene.

    What it logs is told by `isDone`: Slicer's log is a model of Qt, which only the main thread may change.

    Args:
        function: does the work.
        name: of the thread.

    Attributes:
        answer: what the function has returned; None as long as it has not.
        error: what it has raised; None if all went well.
    """

    def __init__(self, function: Callable[[], Answer], name: str) -> None:
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._function = function
        self._logged: deque[logging.LogRecord] = deque()
        self._thread = threading.Thread(target=self._run, name=f"PartialSeg {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def isDone(self, waitSeconds: float = HAND_OVER_SECONDS) -> bool:
        """Whether the function has ended; the thread advances meanwhile, and there is no longer wait."""
        self._thread.join(waitSeconds)
        isDone = not self._thread.is_alive()
        while self._logged:
            record = self._logged.popleft()
            logging.getLogger(record.name).handle(record)
        return isDone

    def _run(self) -> None:
        try:
            with _heldBack(self._logged):
                self.answer = self._function()
        except Exception as error:  # told by whoever waits
            self.error = error


class _HoldBack(logging.Filter):
    """Keeps what the thread that makes it logs, and lets nothing of it through.

    Args:
        logged: gets the records.
    """

    def __init__(self, logged: deque[logging.LogRecord]) -> None:
        super().__init__()
        self._logged = logged
        self._thread = threading.get_ident()
        self._last: logging.LogRecord | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a handler gets a record; asked by one handler after the other."""
        if threading.get_ident() != self._thread:
            return True
        if record is not self._last:
            self._last = record
            self._logged.append(record)
        return False


@contextmanager
def _heldBack(logged: deque[logging.LogRecord]) -> Iterator[None]:
    """Keep what this thread logs meanwhile from the application's handlers."""
    handlers, holdBack = list(logging.getLogger().handlers), _HoldBack(logged)
    for handler in handlers:
        handler.addFilter(holdBack)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(holdBack)


def helpAlong(thread: threading.Thread) -> None:
    """Let a thread come to its end, under Slicer's event loop too: wait for it a little, often."""
    thread.join(HAND_OVER_SECONDS)
    qt = _qtOfMainThread()
    if thread.is_alive() and qt is not None:
        qt.QTimer.singleShot(_HAND_OVER_MILLISECONDS, partial(helpAlong, thread))


def _qtOfMainThread() -> Any:
    """Slicer's Qt; None in a script without it, and on threads that have no event loop."""
    if threading.current_thread() is not threading.main_thread():
        return None
    try:
        import qt
    except ImportError:
        return None
    return qt
