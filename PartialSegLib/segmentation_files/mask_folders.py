"""Which files of a folder are masks: those that its labels.csv lists, else those named after structures."""

import contextlib
import csv
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..files.file_names import folded
from ..segmentation import Key
from ..sentences import first_few
from ..structures import load_structures
from ..volume import image_stem, image_suffix
from .label_names import comparable_set
from .label_tables import read_table

FOLDER_TABLE = "labels.csv"
"""What marks a folder as one segmentation."""


def check_mask_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Refuse a folder with masks of another origin, which a segmentation would replace or hide.

    Args:
        folder: Where the masks shall be; may be missing.
        names: Those of the files to be written, as far as they are known. Without labels.csv the folder may
            hold no mask named after a structure either; other images may lie in it.

    Raises:
        InputError: When there are such masks.
    """
    if not folder.is_dir():
        return
    wanted = set(map(folded, names)) - set(map(folded, listed_masks(folder)))
    is_ours = (folder / FOLDER_TABLE).exists()
    masks = [
        file.name
        for file in sorted(folder.iterdir())
        if folded(file.name) in wanted or (not is_ours and _is_named_after_structure(file))
    ]
    if masks:
        raise InputError(
            f"{folder} holds masks that are not of an earlier run and would be replaced or no longer be "
            f"read: {first_few(masks, 3)}; choose another folder."
        )


def listed_masks(folder: Path) -> list[str]:
    """Names of the masks in a folder that a table of ours lists."""
    rows: list[dict[str, str]] = []
    with contextlib.suppress(OSError, InputError, csv.Error):
        rows = read_table(folder / FOLDER_TABLE)
    masks = (folder / row["label"] for row in rows if row["label"].endswith(".nii.gz"))
    return [mask.name for mask in masks if mask.parent == folder and mask.is_file()]


def key_of_name(path: Path) -> Key:
    """Return (task, structure) of a mask by its file's name: STRUCTURE.nii.gz or TASK-STRUCTURE.nii.gz."""
    task, _, structure = image_stem(path).rpartition("-")
    return task, structure


def _is_named_after_structure(file: Path) -> bool:
    if not image_suffix(file) or file.name.startswith(".") or not file.is_file():
        return False
    return not load_structures().keys().isdisjoint(comparable_set([key_of_name(file)[1]]))
