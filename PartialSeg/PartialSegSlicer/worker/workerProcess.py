"""The worker as a child process: lines in, lines out, and nothing of it can block or take down Slicer.

Reader threads fill a queue; whoever owns the process empties it with `receive`, on his own thread and without
waiting. The process ends when its standard input is closed, so it never outlives Slicer.

Under Slicer's event loop threads need help to advance (`backgroundWork`): nothing that has to happen is left
to one alone.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from .backgroundWork import HAND_OVER_SECONDS, helpAlong
from .childProcess import childOptions, killTree, pythonProgram

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt

    fcntl = None

_KEPT_LOG_LINES = 400  # a crash is told with up to 100 frames of each thread
_GRACE_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0  # what the process has started may keep its standard error open

SCRATCH_PREFIX = "PartialSeg-"
MARK = "PartialSeg-in-use"


def workerCommand() -> list[str]:
    """Program and arguments of the worker, without the scratch folder."""
    return [pythonProgram(), "-m", "PartialSegLib.worker"]


class WorkerProcess:
    """A running worker and its scratch folder.

    Args:
        command: program and arguments; `workerCommand()` when None.
        scratchParent: where the scratch folder is made; the system's temporary folder when None.

    Attributes:
        scratch: folder for array files; removed after the process has ended. A locked file in it says that
            Slicer lives, so that the next one can tell what a crash has left.
    """

    def __init__(self, command: list[str] | None = None, scratchParent: Path | str | None = None) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=scratchParent))
        self._mark = (self.scratch / MARK).open("wb")
        with contextlib.suppress(OSError):  # some network drives know no locks
            lock(self._mark)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._newLogLines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lastLogLines: collections.deque[str] = collections.deque(maxlen=_KEPT_LOG_LINES)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        try:
            self._process = subprocess.Popen(
                [*(command or workerCommand()), "--scratch", str(self.scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **childOptions(),
            )
        except OSError:
            self._removeScratch()
            raise
        self._logReader, self._writer, replyReader = (
            threading.Thread(target=target, name=f"PartialSeg {target.__name__}", daemon=True)
            for target in (self._readLog, self._writeRequests, self._readReplies)
        )
        for thread in (self._logReader, self._writer, replyReader):
            thread.start()

    @property
    def isRunning(self) -> bool:
        """Whether the process still lives."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id; of the launcher where Slicer's Python is started through one."""
        return self._process.pid

    @property
    def exitCode(self) -> int | None:
        """What the process ended with; None while it runs."""
        return self._process.poll()

    @property
    def lastLogLines(self) -> list[str]:
        """The last lines of its standard error, to show after a crash."""
        return list(self._lastLogLines)

    def send(self, line: str) -> None:
        """Send a line; a thread writes it, so a full pipe blocks nobody."""
        self._outgoing.put(line.encode() + b"\n")

    def receive(self, timeoutSeconds: float = 0.0) -> str | None:
        """The next line, or "" when there is none yet; None after the last one: the process has ended."""
        try:
            line = self._lines.get(timeout=timeoutSeconds) if timeoutSeconds > 0 else self._lines.get_nowait()
        except queue.Empty:
            return ""
        if line is None:
            self._lines.put(None)
        return line

    def newLogLines(self) -> list[str]:
        """Lines of its standard error since the last call."""
        lines = []
        while True:
            try:
                lines.append(self._newLogLines.get_nowait())
            except queue.Empty:
                return lines

    def stop(self) -> None:
        """End the process, without waiting for it; killed if it has not gone a few seconds later.

        When Slicer quits, and at the end of a script, Python waits for the thread that sees to this.
        """
        self._outgoing.put(None)
        with contextlib.suppress(RuntimeError):  # the garbage collector may call from the writer itself
            self._writer.join(HAND_OVER_SECONDS)  # it closes the pipe, which ends an obedient worker
        reaper = threading.Thread(target=self._reap, name="PartialSeg reap", daemon=False)
        reaper.start()
        helpAlong(reaper)

    def _reap(self) -> None:
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            killTree(self._process)
            self._process.wait()
        self._removeScratch()

    def _removeScratch(self) -> None:
        self._mark.close()
        removeScratch(self.scratch)

    def _readReplies(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line.decode("utf-8", "replace").rstrip("\r\n"))
        self._process.wait()
        self._logReader.join(_LAST_WORDS_SECONDS)
        self._lines.put(None)

    def _readLog(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip()
                self._lastLogLines.append(line)
                self._newLogLines.put(line)

    def _writeRequests(self) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stream:
                while (data := self._outgoing.get()) is not None:
                    stream.write(data)
                    stream.flush()
        except OSError:
            pass  # the process is gone; receive() tells


def removeScratch(folder: Path) -> None:
    """Remove a scratch folder; its mark stays while Windows holds on to an array, for another time."""
    for array in folder.glob("*.npy"):
        with contextlib.suppress(OSError):
            array.unlink()
    if not any(folder.glob("*.npy")):
        shutil.rmtree(folder, ignore_errors=True)


def lock(file: IO[bytes]) -> None:
    """Lock a file until it is closed or this process has ended.

    Raises:
        OSError: another process has locked it, or the drive knows no locks.
    """
    if fcntl is None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
