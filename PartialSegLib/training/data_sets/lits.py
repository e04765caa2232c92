"""LiTS: volume-N.nii and segmentation-N.nii, in one folder or in the folders of its two training batches.

Bilic et al.: The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 2023. The same 131 CTs are
the training cases of the Decathlon's Task03_Liver.
"""

from __future__ import annotations

from pathlib import Path

from ...volume import image_stem, image_suffix
from ..collection import Case
from .case_files import cases_of_pairs, existing_folder, files_by_name, require_cases


def lits_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of LiTS, at any depth; test-volume-N.nii, which have no public labels, are passed over.

    Volume and segmentation may lie in different folders, as in some copies of the data set.

    Raises:
        InputError: there is none, or a file is there twice.
    """
    folder = existing_folder(folder)
    images, labels = _numbered(folder, "volume-"), _numbered(folder, "segmentation-")
    expected = "volume-N.nii with segmentation-N.nii"
    return require_cases(cases_of_pairs(data_set, images, labels, folder), folder, expected)


def _numbered(folder: Path, prefix: str) -> dict[str, Path]:
    """Files by their number."""
    found = sorted(path for path in folder.rglob(f"{prefix}*") if image_suffix(path) and path.is_file())
    return files_by_name((image_stem(path).removeprefix(prefix), path) for path in found)
