"""TotalSegmentator: sNNNN/ct.nii.gz and segmentations/STRUCTURE.nii.gz, with the split in meta.csv.

Wasserthal et al.: TotalSegmentator: Robust Segmentation of 104 Anatomic Structures in CT Images, Radiology:
Artificial Intelligence 2023. The masks of a case are merged into one label map by `mask_merging`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ...segmentation_files.label_names import structures_of_labels
from ...sentences import suggestion
from ..collection import Case, DataSet
from .case_files import existing_folder, image_named, images_in, make_case, require_cases

MASK_FOLDER = "segmentations"
SOURCE = "https://zenodo.org/records/6802614"
SPLITS: dict[str, Literal["training", "validation", "test"]] = {
    "train": "training",
    "val": "validation",
    "test": "test",
}


def totalsegmentator_cases(folder: Path, data_set: str) -> tuple[Case, ...]:
    """Cases without label maps yet, of the splits that meta.csv names.

    Raises:
        InputError: there is none.
    """
    folder = existing_folder(folder)
    splits = _splits(folder / "meta.csv")
    found = ((path, image_named(path, "ct")) for path in sorted(folder.iterdir()) if path.is_dir())
    cases = tuple(
        make_case(data_set, path.name, image, None, splits.get(path.name, "training"))
        for path, image in found
        if image is not None
    )
    return require_cases(cases, folder, f"sNNNN/ct.nii.gz with {MASK_FOLDER}/STRUCTURE.nii.gz")


def mask_names(cases: tuple[Case, ...], wanted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Masks to be merged, in their order: those asked for, or the masks of all cases in alphabetical order.

    Raises:
        InputError: there are no masks, or none of a name that is asked for.
    """
    known = sorted({name for case in cases for name in images_in(Path(case.image).parent / MASK_FOLDER)})
    if not known:
        raise InputError(f"{Path(cases[0].image).parent} holds no {MASK_FOLDER}; unpack the data set again.")
    for name in wanted:
        if name not in known:
            raise InputError(f"No case has a mask {name}; {suggestion(name, known)}.")
    return wanted or tuple(known)


def parse_mask_rules(rules: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Rules typed by a user, NAME=MASK[,MASK...]: which masks make a structure.

    Raises:
        InputError: a rule has no name or no masks.
    """
    structures: dict[str, tuple[str, ...]] = {}
    for rule in rules:
        name, _, given = rule.partition("=")
        masks = tuple(part.strip() for part in given.split(","))
        if not name.strip() or not all(masks):
            raise InputError(
                f"'{rule}' is no rule for masks; give NAME=MASK[,MASK...], as in "
                "kidney=kidney_left,kidney_right."
            )
        structures[name.strip()] = (*structures.get(name.strip(), ()), *masks)
    return structures


def totalsegmentator_data_set(
    name: str, task: str, masks: tuple[str, ...], rules: Mapping[str, tuple[str, ...]] | None = None
) -> DataSet:
    """The data set whose label maps count masks from 1 in their order.

    Args:
        name: of the data set.
        task: that it trains.
        masks: that were merged.
        rules: which of them make a structure; None or empty makes each one of its own.
    """
    values = {mask: value for value, mask in enumerate(masks, 1)}
    meant = rules or {mask: (mask,) for mask in masks}
    ids = structures_of_labels(meant)
    structures = {ids[label]: tuple(values[part] for part in parts) for label, parts in meant.items()}
    return DataSet(name, task, structures, source=SOURCE, license="CC BY 4.0")


def _splits(path: Path) -> dict[str, Literal["training", "validation", "test"]]:
    """Split of each case; empty where the table or its column is missing, as in the first version."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    return {row.get("image_id", ""): SPLITS[row["split"]] for row in rows if row.get("split") in SPLITS}
