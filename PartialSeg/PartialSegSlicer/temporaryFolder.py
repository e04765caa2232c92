"""Where a volume lies on its way to the worker: the temporary folder of Slicer's application settings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import slicer

from .workerProcess import WorkerProcess


def temporaryFolder() -> str:
    """The folder of the application settings; the system's where it is not there."""
    folder = slicer.app.temporaryPath
    return folder if folder and Path(folder).is_dir() else tempfile.gettempdir()


def startWorker() -> WorkerProcess:
    """A worker that finds its arrays in this folder.

    Raises:
        OSError: it could not be started.
    """
    return WorkerProcess(scratchParent=temporaryFolder())
