"""Child processes that import PartialSegLib: how they are started, and ended with all they started.

Slicer's Python is a launcher: the process that computes is a child of the one that is started, and outlives
it when only the launcher is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIBRARY_ROOT = Path(__file__).resolve().parents[1]
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)


def libraryFolder() -> Path:
    """The folder that holds PartialSegLib: beside the installed module, or the top of a source checkout."""
    for folder in (_LIBRARY_ROOT, _LIBRARY_ROOT.parent):
        if (folder / "PartialSegLib" / "__init__.py").exists():
            return folder
    raise FileNotFoundError(
        f"PartialSegLib lies neither in {_LIBRARY_ROOT} nor beside it; install the extension again."
    )


def pythonProgram() -> str:
    """Slicer's Python, or else this one."""
    return shutil.which("PythonSlicer") or sys.executable


def childOptions() -> dict[str, Any]:
    """Options of `subprocess` for every child that imports PartialSegLib: folder, environment, no window.

    Each leads a process group of its own, which `killTree` ends.
    """
    return {
        "cwd": libraryFolder(),
        "env": {**os.environ, "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1"},
        "creationflags": _NO_WINDOW,
        "start_new_session": os.name != "nt",
    }


def killTree(process: subprocess.Popen[bytes]) -> None:
    """Kill a child started with `childOptions` and everything it has started; waits for Windows at most."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        with contextlib.suppress(OSError):
            subprocess.run(command, capture_output=True, creationflags=_NO_WINDOW, check=False)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
