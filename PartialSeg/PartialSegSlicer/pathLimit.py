"""How long paths may be, which decides what can be installed."""

from __future__ import annotations

import contextlib
import math

try:
    import winreg
except ImportError:  # not on Windows
    winreg = None

WINDOWS_LIMIT = 259
_FILE_SYSTEM = r"SYSTEM\CurrentControlSet\Control\FileSystem"


def pathLimit() -> float:
    """The most characters of a path; infinity where none is too long, as on Windows if so switched."""
    if winreg is None:
        return math.inf
    with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _FILE_SYSTEM) as key:
        if winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1:
            return math.inf
    return WINDOWS_LIMIT
