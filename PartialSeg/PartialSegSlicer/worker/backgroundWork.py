"""Work in threads beside Slicer's event loop, which keeps the GIL while no Python code runs.

So threads advance only while Python code on the main thread waits: whoever needs one waits for it a little.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

HAND_OVER_SECONDS = 0.03  # how long the main thread waits for another one, which lets go of the GIL
_HAND_OVER_MILLISECONDS = 100  # and how often

Answer = TypeVar("Answer")


class BackgroundWork(Generic[Answer]):
    """A function in a thread of its own; files only, no Qt and no scene.

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
        self._thread = threading.Thread(target=self._run, name=f"PartialSeg {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def isDone(self, waitSeconds: float = HAND_OVER_SECONDS) -> bool:
        """Whether the function has ended; the thread advances meanwhile, and there is no longer wait."""
        self._thread.join(waitSeconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.answer = self._function()
        except Exception as error:  # told by whoever waits
            self.error = error


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
