"""The report of one run as JSON: what was found, how long it took, and with what it was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__
from .files.output_files import replacing
from .segmentation import Key, Segmentation

_PACKAGES = ("numpy", "safetensors", "scipy", "SimpleITK", "torch")
_AXES = ("R", "A", "S")


def build_report(
    segmentation: Segmentation,
    seconds: Mapping[str, float],
    source: str,
    memory: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """Gather what a reader of the results asks for.

    Args:
        segmentation: what was found; its provenance names model, weights, device and settings.
        seconds: time per stage.
        source: which image it was, as the user named it.
        memory: `predicted_bytes` before the run and `peak_bytes` after it, of the computer's memory and of
            the whole process; None where a figure is unknown, or for all.

    Returns:
        Plain JSON: source, provenance, structures, seconds, memory if it was given, versions.
    """
    return {
        "source": source,
        "provenance": segmentation.provenance,
        "structures": [describe_mask(segmentation, key) for key in segmentation],
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        **({} if memory is None else {"memory": dict(memory)}),
        "versions": _versions(),
    }


def describe_mask(segmentation: Segmentation, key: Key) -> dict[str, Any]:
    """Size and place of one mask.

    Args:
        segmentation: holds the mask.
        key: (task, structure).

    Returns:
        task, structure, name, voxels, volume_ml and bounding_box_mm: the lowest and highest edge of its
        voxels towards the patient's right (R), front (A) and head (S), or None when nothing was found.
    """
    box = segmentation.bounding_box_mm(key)
    return {
        "task": key[0],
        "structure": key[1],
        "name": segmentation.display_name(key),
        "voxels": segmentation.voxel_count(key),
        "volume_ml": round(segmentation.volume_ml(key), 3),
        "bounding_box_mm": box
        and {axis: [round(end, 2) for end in ends] for axis, ends in zip(_AXES, box, strict=True)},
    }


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write a report as a .json file.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        # JSON's own escapes for file names that are no UTF-8
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _versions() -> dict[str, str]:
    versions = {"partialseg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
