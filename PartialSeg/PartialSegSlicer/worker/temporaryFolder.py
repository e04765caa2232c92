"""Where a volume lies on its way to the worker: the temporary folder of Slicer's application settings."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import slicer

from .workerProcess import MARK, SCRATCH_PREFIX, WorkerProcess, lock, removeScratch


def temporaryFolder() -> str:
    """The folder of the application settings; the system's where it is not there."""
    folder = slicer.app.temporaryPath
    return folder if folder and Path(folder).is_dir() else tempfile.gettempdir()


def startWorker() -> WorkerProcess:
    """A worker that finds its arrays in this folder; what a crash of Slicer has left there is removed.

    Raises:
        OSError: it could not be started.
    """
    folder = temporaryFolder()
    removeLeftovers(Path(folder))
    return WorkerProcess(scratchParent=folder)


def removeLeftovers(parent: Path) -> None:
    """Remove the scratch folders of workers whose Slicer is gone: a patient's image may lie in them.

    On Windows no worker can remove an image that it has mapped. Folders without our mark, or whose mark is
    locked by a Slicer that runs, are left alone.
    """
    for mark in parent.glob(f"{SCRATCH_PREFIX}*/{MARK}"):
        with contextlib.suppress(OSError):
            with mark.open("r+b") as file:
                lock(file)
            removeScratch(mark.parent)
