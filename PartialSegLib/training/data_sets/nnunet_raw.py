"""nnU-Net raw data, versions 1 (TaskNNN_Name) and 2 (DatasetNNN_Name): imagesTr/NAME_0000, labelsTr/NAME.

Further channels are NAME_0001 and so on, named in dataset.json.
Isensee et al.: nnU-Net, Nature Methods 2021; documentation/dataset_format.md of its repository. labelsTs,
which some version 1 folders have, makes imagesTs cases of the test split.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from pathlib import Path

from ...volume import image_suffix
from ..collection import Case
from .case_files import cases_of_pairs, existing_folder, images_in, label_maps_in, require_cases

CHANNEL = "_0000"


def nnunet_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases of one raw data set, with the channels whose files are there.

    Raises:
        InputError: there is none, or a file cannot be told from another.
    """
    folder = existing_folder(folder)
    training = _pairs(folder, data_set, "Tr")
    test = _pairs(folder, data_set, "Ts")
    tested = (dataclasses.replace(case, split="test") if case.label else case for case in test)
    expected = f"imagesTr/NAME{CHANNEL}.nii.gz with labelsTr/NAME.nii.gz"
    plain = images_in(folder / "imagesTr").keys() & label_maps_in(folder / "labelsTr").keys()
    return require_cases((*training, *tested), folder, expected, "decathlon" if plain else "")


def _pairs(folder: Path, data_set: str, suffix: str) -> tuple[Case, ...]:
    images: dict[str, Path] = {}
    others: dict[str, list[str]] = defaultdict(list)
    for name, path in images_in(folder / f"images{suffix}").items():
        if name.endswith(CHANNEL):
            images[name.removesuffix(CHANNEL)] = path
        elif re.fullmatch(r".+_\d{4}", name):
            others[name[: -len(CHANNEL)]].append(str(path))
    labels = label_maps_in(folder / f"labels{suffix}")
    cases = cases_of_pairs(data_set, images, labels, folder / f"images{suffix}")
    first = {str(path) for path in images.values()}
    named = (case if case.image in first else _with_channel(case) for case in cases)
    return tuple(
        dataclasses.replace(case, other_channels=tuple(others[case.name.removeprefix(f"{data_set}-")]))
        for case in named
    )


def _with_channel(case: Case) -> Case:
    """The name that a missing image should have."""
    image = Path(case.image)
    suffix = image_suffix(image)
    return dataclasses.replace(case, image=f"{case.image.removesuffix(suffix)}{CHANNEL}{suffix}")
