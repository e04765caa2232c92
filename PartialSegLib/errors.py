"""The three ways a run ends early, each with its own exit code on the command line."""


class InputError(ValueError):
    """The user's input cannot be used.

    The message is one sentence: what was given, what was expected, what to do next. The command line prints
    it without a traceback and exits with code 2.
    """


class DeviceError(RuntimeError):
    """The requested device is missing or out of memory; the command line exits with code 3."""


class OutOfMemoryError(DeviceError):
    """The memory of the device does not suffice; less to keep, or another device, may help."""


class Cancelled(Exception):  # noqa: N818 - a decision of the user, not an error
    """The user stopped the run; the command line exits with code 130."""
