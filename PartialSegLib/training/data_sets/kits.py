"""KiTS19: case_NNNNN/imaging.nii.gz and segmentation.nii.gz, in the folder "data" of its repository.

Heller et al.: The KiTS19 Challenge Data, arXiv:1904.00445. The arrays' first axis is the slice; the affine of
the files says so. 210 of the 300 cases have labels.
"""

from __future__ import annotations

from pathlib import Path

from ..collection import Case
from .case_files import case_folders, existing_folder, require_cases


def kits_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of KiTS19, in the folder or one below it.

    Raises:
        InputError: there is none.
    """
    folder = existing_folder(folder)
    folders = [*folder.glob("case_*"), *folder.glob("*/case_*")]
    cases = case_folders(data_set, folders, "imaging", "segmentation")
    return require_cases(cases, folder, "case_NNNNN/imaging.nii.gz with segmentation.nii.gz")
