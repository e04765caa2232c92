"""Child processes that import PartialSegLib: how they are started, how they ended, and how they are ended.

PythonSlicer is a launcher (CTK's), which sets an environment and starts python-real. Where Slicer's own
environment is the launcher's already, python-real is started itself: the launcher may keep standard input for
itself on Windows, takes arguments of the system's code page only, and makes every crash exit code 1. Where it
is needed, the process that computes is its child and outlives it when only the launcher is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIBRARY_ROOT = Path(__file__).resolve().parents[2]
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
_KILLED = (-9, 137)  # exit codes of a process that was killed from outside, on Linux for want of memory
_CRASHED = re.compile(r"error: \[.*\] exit abnormally - Report the problem\.")  # the launcher's last words
_WHERE_CRASHED = re.compile(
    r"(Current thread|Thread) 0x.*|File \".*\", line (\d+|\?\?\?) in .*|<no Python frame>|Garbage-collecting"
    r"|Current thread's C stack trace.*|Binary file .*|<truncated rest of calls>|\.\.\.|Extension modules: .*"
)  # what Python's faulthandler writes after the line that names the crash


def libraryFolder() -> Path:
    """The folder that holds PartialSegLib: beside the installed module, or the top of a source checkout."""
    for folder in (_LIBRARY_ROOT, _LIBRARY_ROOT.parent):
        if (folder / "PartialSegLib" / "__init__.py").exists():
            return folder
    raise FileNotFoundError(
        f"PartialSegLib lies neither in {_LIBRARY_ROOT} nor beside it; install the extension again."
    )


def pythonProgram() -> str:
    """Slicer's Python, or else this one; without the launcher where its environment is set already."""
    launcher = shutil.which("PythonSlicer")
    if launcher is None:
        return sys.executable
    real = Path(launcher).with_stem("python-real")
    return str(real) if real.is_file() and "PYTHONHOME" in os.environ else launcher


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


def lastWords(lines: list[str]) -> str:
    """The last line that a child that has ended wrote itself; "" if it wrote none.

    Of a crash the line that names it, not those that tell developers where it was.
    """
    texts = filter(None, map(str.strip, lines))
    own = [text for text in texts if not (_CRASHED.fullmatch(text) or _WHERE_CRASHED.fullmatch(text))]
    return own[-1] if own else ""


def wasKilled(exitCode: int | None, lines: list[str]) -> bool:
    """Whether a child was killed from outside; through the launcher a crash looks the same.

    Args:
        exitCode: what it ended with.
        lines: what it, and the launcher, wrote to standard error.
    """
    return exitCode in _KILLED or (exitCode == 1 and any(_CRASHED.fullmatch(line.strip()) for line in lines))


def killTree(process: subprocess.Popen[bytes]) -> None:
    """Kill a child started with `childOptions` and everything it has started; waits for Windows at most."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        with contextlib.suppress(OSError):
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                creationflags=_NO_WINDOW,
                check=False,
            )
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
