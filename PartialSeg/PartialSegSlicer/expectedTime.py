"""How long a run may take on this computer, from the runs before: seconds per million network voxels."""

from __future__ import annotations

import json
import zlib
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Manifest

from .modelOptions import ModelOptions
from .scene import mrml

_WITHOUT_EFFECT = ("path", "device", "cache_bytes")  # on a first run; the key names model and device itself


def megavoxels(volumeNode: slicer.vtkMRMLScalarVolumeNode, manifest: Manifest) -> float:
    """Voxels of a volume on the model's grid, in millions; what a first run takes grows with it.

    Raises:
        InputError: a parent transform of the volume is not linear.
    """
    z, y, x = manifest.preprocessing.spacing
    return mrml.volumeInMl(volumeNode) * 1000 / (z * y * x) / 1e6


def remember(manifest: Manifest, options: ModelOptions, device: str, rate: float) -> None:
    """Keep the seconds per million voxels of a first run, in the settings of the application."""
    qt.QSettings().setValue(_key(manifest, options, device), rate)


def expectation(volumeNode: Any, manifest: Manifest, options: ModelOptions, device: str) -> str:
    """A sentence about the time of a first run with these options."""
    try:
        rate = qt.QSettings().value(_key(manifest, options, device))
        if not rate:
            return _("Time on this computer: known after the first run.")
        if volumeNode is None or volumeNode.GetImageData() is None:
            return _("Choose a volume to see the expected time.")
        seconds = float(rate) * megavoxels(volumeNode, manifest)
    except InputError:  # what is wrong with the volume or the options is said elsewhere
        return _("The expected time of this volume is not known.")
    return _("Expected time: {time}.").format(time=duration(seconds))


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))


def _key(manifest: Manifest, options: ModelOptions, device: str) -> str:
    settings = {name: one for name, one in options.forWorker().items() if name not in _WITHOUT_EFFECT}
    digest = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
    return f"PartialSeg/secondsPerMegavoxel/{manifest.name}/{device}/{digest:08x}"
