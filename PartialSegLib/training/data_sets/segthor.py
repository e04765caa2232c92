"""SegTHOR: train/Patient_NN/Patient_NN.nii.gz and GT.nii.gz.

Lambert et al.: SegTHOR: Segmentation of Thoracic Organs at Risk in CT images, arXiv:1912.05950.
"""

from __future__ import annotations

from pathlib import Path

from ..collection import Case
from .case_files import case_folders, existing_folder, require_cases


def segthor_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of SegTHOR, in the folder or one below it.

    Raises:
        InputError: there is none.
    """
    folder = existing_folder(folder)
    folders = [*folder.glob("Patient_*"), *folder.glob("*/Patient_*")]
    cases = case_folders(data_set, folders, "*", "GT")
    return require_cases(cases, folder, "Patient_NN/Patient_NN.nii.gz with GT.nii.gz")
