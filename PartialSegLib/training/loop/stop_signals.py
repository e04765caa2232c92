"""Signals that ask a run to stop: Ctrl+C, Windows' Ctrl+Break, SIGTERM as of SLURM, Docker and torchrun."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = "Interrupted; start the same command again to go on from the last checkpoint."
_FROM_KEYBOARD = [getattr(signal, name) for name in ("SIGINT", "SIGBREAK") if hasattr(signal, name)]


class Terminated(KeyboardInterrupt):
    """SIGTERM has stopped a run."""


@contextmanager
def noted_signals(alone: bool = True) -> Iterator[list[int]]:
    """Note Ctrl+C, Ctrl+Break and SIGTERM instead of ending, so that a step can be finished.

    Nothing is noted of signals that are ignored already, as in a background job of a shell, and outside the
    main thread, where Python allows no handlers.

    Args:
        alone: whether a second Ctrl+C ends at once; `torchrun` sends it to each process by itself.

    Yields:
        The numbers of the signals that have come.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if alone and number in _FROM_KEYBOARD and number in noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    numbers = (*_FROM_KEYBOARD, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: of a program that embeds Python


def stop(noted: Sequence[int]) -> None:
    """End as the signals ask, with a sentence for the user.

    Args:
        noted: by this process; none if only others of the run have been asked.

    Raises:
        KeyboardInterrupt: after Ctrl+C or Ctrl+Break.
        Terminated: else.
    """
    raise (Terminated if set(noted).isdisjoint(_FROM_KEYBOARD) else KeyboardInterrupt)(INTERRUPTED)


def heed_parent_only() -> None:
    """Let a process that prepares data live until the run needs it no longer.

    Ctrl+C in a terminal, SLURM and systemd signal all processes, but the run still has to finish its step.
    """
    for number in _FROM_KEYBOARD:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not say who sends a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
