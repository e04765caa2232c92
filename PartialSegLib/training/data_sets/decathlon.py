"""Medical Segmentation Decathlon: TaskNN_Name with dataset.json, imagesTr, labelsTr and imagesTs.

Antonelli et al.: The Medical Segmentation Decathlon, Nature Communications 2022. imagesTs have no public
labels: they become cases that wait for pseudo-labels. Images of several channels, as in Task01_BrainTumour,
have them on the fourth axis of one file.
"""

from __future__ import annotations

from pathlib import Path

from ..collection import Case
from .case_files import cases_of_pairs, existing_folder, images_in, label_maps_in, make_case, require_cases


def decathlon_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of one task.

    Raises:
        InputError: there is none, or a file cannot be told from another.
    """
    folder = existing_folder(folder)
    images, labels = images_in(folder / "imagesTr"), label_maps_in(folder / "labelsTr")
    labelled = cases_of_pairs(data_set, images, labels, folder / "imagesTr")
    unlabelled = (
        make_case(data_set, name, path, None) for name, path in images_in(folder / "imagesTs").items()
    )
    expected = "imagesTr/NAME.nii.gz with labelsTr/NAME.nii.gz"
    numbered = any(f"{name}_0000" in images for name in labels)
    return require_cases((*labelled, *unlabelled), folder, expected, "nnunet" if numbered else "")
