"""StructSeg 2019, task 3: N/data.nii.gz and label.nii.gz, the folders being numbers.

Li, Zhou, Deng, Chen: Automatic structure segmentation for radiotherapy planning challenge 2019.
"""

from __future__ import annotations

from pathlib import Path

from ..collection import Case
from .case_files import case_folders, existing_folder, require_cases


def structseg_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of one task of StructSeg, in the folder or one below it.

    Raises:
        InputError: there is none.
    """
    folder = existing_folder(folder)
    folders = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.name.isdecimal()]
    cases = case_folders(data_set, folders, "data", "label")
    return require_cases(cases, folder, "N/data.nii.gz with label.nii.gz")
