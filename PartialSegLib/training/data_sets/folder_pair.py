"""A plain pair of folders: images/NAME and labels/NAME, of any format that volumes are read from."""

from __future__ import annotations

from pathlib import Path

from ..collection import Case
from .case_files import cases_of_pairs, existing_folder, images_in, label_maps_in, require_cases


def folder_pair_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases paired by name; suffixes may differ.

    Raises:
        InputError: there is none, or a file cannot be told from another.
    """
    folder = existing_folder(folder)
    images, labels = images_in(folder / "images"), label_maps_in(folder / "labels")
    cases = cases_of_pairs(data_set, images, labels, folder / "images")
    return require_cases(cases, folder, "images/NAME.nii.gz with labels/NAME.nii.gz")
