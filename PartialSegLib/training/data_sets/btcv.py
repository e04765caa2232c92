"""BTCV (Beyond the Cranial Vault): folders img and label beside each other, in RawData/Training.

Landman et al.: MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, Synapse syn3193805. The abdominal part
has img0001.nii.gz with label0001.nii.gz, the pelvic part (Cervix) 0507688-Image.nii.gz with
0507688-Label.nii.gz; the two parts are told apart by these names.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..collection import Case
from .case_files import cases_of_pairs, existing_folder, images_in, require_cases


def btcv_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of the abdominal part, at any depth.

    Raises:
        InputError: there is none.
    """
    cases = _cases(folder, data_set, r"img(\d+)", r"label(\d+)")
    return require_cases(cases, folder, "img/img0001.nii.gz with label/label0001.nii.gz")


def btcv_pelvis_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of the pelvic part, at any depth.

    Raises:
        InputError: there is none.
    """
    cases = _cases(folder, data_set, r"(\d+)-Image", r"(\d+)-Label")
    return require_cases(cases, folder, "img/NUMBER-Image.nii.gz with label/NUMBER-Label.nii.gz")


def _cases(folder: Path, data_set: str, image: str, label: str) -> tuple[Case, ...]:
    """Cases of every folder img that has a folder label beside it, paired by their number."""
    cases: list[Case] = []
    for images in sorted(path for path in existing_folder(folder).rglob("img") if path.is_dir()):
        labels = images.with_name("label")
        if labels.is_dir():
            cases += cases_of_pairs(data_set, _numbered(images, image), _numbered(labels, label), images)
    return tuple(cases)


def _numbered(folder: Path, pattern: str) -> dict[str, Path]:
    """Images whose stem has a pattern, by the number in it."""
    found = ((re.fullmatch(pattern, name), path) for name, path in images_in(folder).items())
    return {match[1]: path for match, path in found if match}
