"""Exit codes of the training commands: a user's mistake is one sentence on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import DeviceError, InputError


def exit_code_of(command: Callable[[], object], when_interrupted: str = "") -> int:
    """Run a command; 0 when done, 2 after a user's mistake, 3 without the device, 130 when interrupted.

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
    except KeyboardInterrupt:
        sys.stderr.write(f"{when_interrupted}\n" if when_interrupted else "")
        return 130
    return 0
