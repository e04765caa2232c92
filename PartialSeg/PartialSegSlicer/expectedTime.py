"""How long a run may take on this computer, from the runs before: seconds per million network voxels."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.manifest import Manifest

from . import mrml


def megavoxels(volumeNode: slicer.vtkMRMLScalarVolumeNode, manifest: Manifest) -> float:
    """Voxels of a volume on the model's grid, in millions; what a first run takes grows with it."""
    z, y, x = manifest.preprocessing.spacing
    return mrml.volumeInMl(volumeNode) * 1000 / (z * y * x) / 1e6


def remember(manifest: Manifest, device: str, seconds: float, size: float) -> None:
    """Keep what a first run took, in the settings of the application."""
    if size > 0:
        qt.QSettings().setValue(_key(manifest, device), seconds / size)


def expectation(volumeNode: Any, manifest: Manifest, device: str) -> str:
    """A sentence about the time of a first run."""
    rate = qt.QSettings().value(_key(manifest, device))
    if not rate:
        return _("Time on this computer: known after the first run.")
    if volumeNode is None or volumeNode.GetImageData() is None:
        return _("Choose a volume to see the expected time.")
    seconds = float(rate) * megavoxels(volumeNode, manifest)
    return _("Expected time: {time}.").format(time=duration(seconds))


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))


def _key(manifest: Manifest, device: str) -> str:
    return f"PartialSeg/secondsPerMegavoxel/{manifest.name}/{device}"
