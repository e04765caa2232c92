"""BraTS until 2021: a folder for each patient with NAME_flair, NAME_t1ce, NAME_t1, NAME_t2 and NAME_seg.

Menze et al.: The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 2015. All sequences of
a patient lie on one grid of 1 mm, and the skull is stripped. Label values are 1 necrosis and non-enhancing
tumour, 2 oedema and 4 enhancing tumour. The cases of its online validation have no NAME_seg.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..collection import Case
from .case_files import existing_folder, image_named, images_in, make_case, require_cases
from .protocols import PROTOCOLS

CHANNELS = PROTOCOLS["brats"].channels


def brats_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases at any depth, such as those of the folders HGG and LGG.

    A sequence without a file stays in the case, for the check of the collection to report.

    Raises:
        InputError: there is none.
    """
    found = {path.parent for path in existing_folder(folder).rglob(f"*_{CHANNELS[0]}.*")}
    cases = [
        _case(data_set, patient, name.removesuffix(f"_{CHANNELS[0]}"))
        for patient in sorted(found)
        for name in images_in(patient)
        if name.endswith(f"_{CHANNELS[0]}")
    ]
    names = ", ".join(f"NAME_{channel}" for channel in CHANNELS)
    return require_cases(tuple(cases), folder, f"{names} with NAME_seg.nii.gz")


def _case(data_set: str, folder: Path, name: str) -> Case:
    files = [
        image_named(folder, f"{name}_{channel}") or folder / f"{name}_{channel}.nii.gz"
        for channel in CHANNELS
    ]
    case = make_case(data_set, name, files[0], image_named(folder, f"{name}_seg"))
    return replace(case, other_channels=tuple(map(str, files[1:])))
