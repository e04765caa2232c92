"""Exit codes of the training commands: a user's mistake is one sentence on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ...errors import DeviceError, InputError
from .stop_signals import Terminated


def exit_code_of(command: Callable[[], object], when_interrupted: str = "") -> int:
    """Run a command and return its exit code.

    0 when done, 2 after a user's mistake, 3 without the device, 130 and 143 after SIGINT and SIGTERM.

    Args:
        command: what to run.
        when_interrupted: sentence for a user who interrupts it; none if empty.
    """
    try:
        command()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except KeyboardInterrupt as error:
        sentence = str(error) or when_interrupted
        sys.stderr.write(f"{sentence}\n" if sentence else "")
        return 143 if isinstance(error, Terminated) else 130
    return 0
