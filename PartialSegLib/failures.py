"""What is told when a request fails, to the worker's client or in a batch: type, what happened, advice."""

from __future__ import annotations

import sys

from .errors import Cancelled, DeviceError, InputError, OutOfMemoryError
from .protocol import ProtocolError

_EXPECTED = (Cancelled, DeviceError, InputError, MemoryError, ProtocolError)


def describe_failure(error: Exception) -> tuple[str, str, str]:
    """Type, message and advice of an error message; the advice is empty where the message holds it."""
    match error:
        case Cancelled():
            return "Cancelled", "The request was cancelled.", ""
        case OutOfMemoryError() | MemoryError():
            advice = "Close other programs, or limit the work to a region of interest."
            return "OutOfMemoryError", str(error) or "Out of memory.", advice
        case DeviceError():
            return "DeviceError", str(error), ""
        case InputError():
            return "InputError", str(error), ""
        case ProtocolError():
            return "ProtocolError", str(error), ""
        case _ if has_lost_device(error):
            message = f"The graphics card has stopped working: {_first_line(error)}"
            return "InternalError", message, "Try again; if it happens once more, choose the device cpu."
        case ImportError():
            message = f"A library cannot be loaded: {_first_line(error)}"
            return "InternalError", message, "Install PyTorch and safetensors again."
    message = f"Something unexpected happened: {type(error).__name__}: {_first_line(error)}"
    return "InternalError", message, "Try again; if it happens once more, report it with the log."


def sentence(error: Exception) -> str:
    """What is told of a failure in one line: message and advice."""
    _, message, advice = describe_failure(error)
    return f"{message} {advice}".strip()


def is_fault_of_ours(error: Exception) -> bool:
    """Whether a traceback belongs into the log."""
    return not isinstance(error, _EXPECTED)


def lacks_library(error: Exception) -> bool:
    """Whether a library could not be loaded; a broken torch fails with whatever its remains lead to."""
    return isinstance(error, ImportError) or (is_fault_of_ours(error) and "torch" not in sys.modules)


def has_lost_device(error: Exception) -> bool:
    """Whether a graphics card failed in a way that no process recovers from; a new process may.

    So it is after a reset of the driver, and often after sleep. `torch.AcceleratorError` (since PyTorch 2.8)
    was a RuntimeError before.
    """
    return type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
