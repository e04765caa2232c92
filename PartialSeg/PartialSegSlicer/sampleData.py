"""The phantom CT in Sample Data: computed on this machine, nothing is downloaded."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from .childProcess import childOptions, pythonProgram

NAME = "PartialSegPhantom"
SEED = 1
_THUMBNAIL = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "PartialSegPhantom.png"
_PROGRAM = """
import json, sys
from PartialSegLib import write_volume
from PartialSegLib.phantom import make_phantom
write_volume(sys.argv[1], make_phantom(**json.loads(sys.argv[2])).volume)
"""


def register() -> None:
    """Offer the phantom in the module Sample Data."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="PartialSeg",
        sampleName=NAME,
        thumbnailFileName=str(_THUMBNAIL),
        customDownloader=lambda source: addPhantom(),
    )


def addPhantom(
    seed: int = SEED, runProgram: Callable[..., Any] = subprocess.run, **options: Any
) -> slicer.vtkMRMLScalarVolumeNode:
    """Compute the phantom in a child process and load it.

    Args:
        seed: of the patient.
        runProgram: `subprocess.run`, or something like it.
        options: of `PartialSegLib.phantom.make_phantom`, such as spacing and shape.

    Returns:
        A CT of the trunk, 384 x 384 x 432 mm, portal venous phase, with lesions.
    """
    with tempfile.TemporaryDirectory(prefix="PartialSeg-") as folder:
        path = Path(folder) / f"{NAME}.nii.gz"
        command = [pythonProgram(), "-c", _PROGRAM, str(path), json.dumps({"seed": seed, **options})]
        runProgram(command, check=True, **childOptions())
        node = slicer.util.loadVolume(str(path), {"name": _("Phantom CT")})
        node.SetAndObserveStorageNodeID(None)  # its file goes away
    return node
