"""The CTs of `make bench-field`, as .nii.gz files that both sides of a comparison read.

All are stored as an axial DICOM series is, because nnU-Net takes a file's axes as they are.
"""

from __future__ import annotations

from pathlib import Path

from benchmark import REAL_CT

from PartialSegLib import Volume, read_volume, write_volume
from PartialSegLib.phantom import make_phantom
from PartialSegLib.volume import reorient

AXES = "SPL"
REAL = "abdomen"
GRIDS = {"phantom": ((1.5, 0.75, 0.75), (512, 512)), "tiny": ((5.0, 4.0, 4.0), (96, 96))}
"""Spacing (z, y, x) in mm, and rows and columns, of each kind of phantom."""


def case_file(name: str, folder: Path) -> Path:
    """The image of a case, written on first use.

    Args:
        name: "abdomen", the contrast-enhanced CT; or a kind of phantom and its slices, as in "phantom-300".
        folder: where images are kept.
    """
    path = folder / f"{name}.nii.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(path, reorient(_volume(name), AXES))
    return path


def available_cases(names: list[str]) -> list[str]:
    """The cases that can be had here: the real CT is not part of the repository."""
    return [name for name in names if name != REAL or REAL_CT.exists()]


def _volume(name: str) -> Volume:
    if name == REAL:
        return read_volume(REAL_CT)
    kind, _, slices = name.partition("-")
    spacing, plane = GRIDS[kind]
    return make_phantom(1, spacing, (int(slices), *plane)).volume
