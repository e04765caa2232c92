"""The phantom CT in Sample Data: computed on this machine, nothing is downloaded."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .worker.childProcess import childOptions, killTree, lastWords, pythonProgram
from .worker.temporaryFolder import temporaryFolder

CATEGORY = "PartialSeg"
NAME = "PartialSeg phantom"
SEED = 1
_FILE = "PartialSegPhantom.nii.gz"
_THUMBNAIL = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "PartialSegPhantom.png"
_PROGRAM = """
import json, sys
from PartialSegLib import write_volume
from PartialSegLib.phantom import make_phantom
write_volume(sys.argv[1], make_phantom(**json.loads(sys.argv[2])).volume)
"""


def register() -> None:
    """Offer the phantom in the module Sample Data, once."""
    from SampleData import SampleDataLogic

    if any(source.sampleName == NAME for source in SampleDataLogic.sampleDataSourcesByCategory(CATEGORY)):
        return
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris="",  # Slicer wants one for each file, also for those that it does not download itself
        fileNames=_FILE,
        nodeNames=NAME,
        thumbnailFileName=str(_THUMBNAIL),
        customDownloader=_onClicked,
    )


def addPhantom(
    seed: int = SEED, goesOn: Callable[[], bool] = lambda: True, **options: Any
) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Compute the phantom in a child process and load it.

    Args:
        seed: of the patient.
        goesOn: called again and again until it is computed; False gives it up.
        options: of `PartialSegLib.phantom.make_phantom`, such as spacing and shape.

    Returns:
        A CT of the trunk, 384 x 384 x 432 mm, portal venous phase, with lesions; None if it was given up.

    Raises:
        RuntimeError: the child process has failed.
    """
    place = temporaryFolder()
    with tempfile.TemporaryDirectory(prefix="PartialSeg-", dir=place, ignore_cleanup_errors=True) as folder:
        path = Path(folder) / _FILE
        arguments = [str(path), json.dumps({"seed": seed, **options})]
        if not _run([pythonProgram(), "-c", _PROGRAM, *arguments], Path(folder) / "errors.txt", goesOn):
            return None
        node = slicer.util.loadVolume(str(path), {"name": _("Phantom CT")})
        slicer.mrmlScene.RemoveNode(node.GetStorageNode())  # its file goes away
        node.SetAndObserveStorageNodeID(None)
    return node


def _onClicked(source: Any) -> None:
    """Add the phantom while a window says so; it can be cancelled there, and Slicer stays alive."""
    text = _("Computing a phantom CT; nothing is downloaded.")
    with slicer.util.tryWithErrorDisplay(_("The phantom could not be computed.")):
        window = slicer.util.createProgressDialog(maximum=0, labelText=text, windowTitle=NAME)
        window.setWindowModality(qt.Qt.ApplicationModal)
        window.show()

        def goesOn() -> bool:
            slicer.app.processEvents()
            return not window.wasCanceled

        try:
            addPhantom(goesOn=goesOn)
        finally:
            window.close()
            window.deleteLater()


def _run(command: list[str], errorFile: Path, goesOn: Callable[[], bool]) -> bool:
    """Run a child process; False if it was given up.

    Raises:
        RuntimeError: it has failed; with the last line that it wrote.
    """
    with errorFile.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, **childOptions())
        try:
            while process.poll() is None:
                if not goesOn():
                    return False
                time.sleep(0.02)
        finally:
            killTree(process)
            process.wait()
    if process.returncode != 0:
        lines = errorFile.read_text("utf-8", "replace").splitlines()
        raise RuntimeError(lastWords(lines) or f"exit code {process.returncode}")
    return True
