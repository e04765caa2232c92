"""Folders of masks: those that labels.csv lists, without it all that are named after structures."""

import contextlib
import csv
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files.file_names import folded
from ..files.output_files import replacing
from ..images.nifti import write_nifti
from ..segmentation import Key, Segmentation
from ..sentences import first_few
from ..structures import load_structures
from ..volume import Volume, image_stem, image_suffix, read_volume
from .label_names import comparable_set
from .label_tables import read_table, refuse_file_of_others, write_table

FOLDER_TABLE = "labels.csv"
"""What marks a folder as one segmentation."""

logger = logging.getLogger(__name__)


def write_mask_folder(path: Path, segmentation: Segmentation) -> None:
    """Write each mask as STRUCTURE.nii.gz (TASK-STRUCTURE.nii.gz if several tasks found it), and labels.csv.

    The folder then holds this segmentation alone: masks that its earlier labels.csv lists and that are not
    written now are removed, and a warning says so. When writing fails, everything is as it was.

    Args:
        path: A folder; created if needed, files in it that its labels.csv does not list stay.
        segmentation: What to write.

    Raises:
        InputError: When the folder holds masks of another origin, which would be replaced or, without
            labels.csv, no longer be read, or the files cannot be written.
    """
    names = {key: f"{segmentation.identifier(key)}.nii.gz" for key in segmentation}
    check_mask_folder(path, names.values())
    written = set(map(folded, names.values()))
    outdated = [name for name in listed_masks(path) if folded(name) not in written]
    with replacing(path, outdated) as folder:
        folder.mkdir()
        for key, name in names.items():
            write_nifti(folder / name, segmentation[key].view(np.uint8), segmentation.affine)
        write_table(folder / FOLDER_TABLE, segmentation, names)
    if outdated:
        some = first_few(outdated, 3)
        logger.warning("%s: masks of the earlier segmentation were removed: %s.", path, some)


def read_mask_folder(path: Path) -> Segmentation:
    """Read a folder of masks: those of its labels.csv, or without one every image, named after its structure.

    Raises:
        InputError: When there are no masks or they do not share one grid.
    """
    if (path / FOLDER_TABLE).exists():
        files = {
            (row["task"], row["structure"]): path / row["label"] for row in read_table(path / FOLDER_TABLE)
        }
    else:
        images = sorted(
            child for child in path.iterdir() if image_suffix(child) and not child.name.startswith(".")
        )
        files = {key_of_name(image): image for image in images}
        if twins := [image.name for image in images if image not in files.values()]:
            raise InputError(f"{path}: The folder holds a second file of the mask {twins[0]}; keep one.")
    if not files:
        raise InputError(f"{path}: The folder holds no masks; give one with STRUCTURE.nii.gz files.")
    first: Volume | None = None
    for key, file in files.items():
        volume = read_volume(file)
        if first is None:
            first, segmentation = volume, Segmentation(volume.shape, volume.affine)
        elif not volume.same_geometry(first):
            raise InputError(
                f"{file}: The mask lies on another grid than the others of the folder; resample it."
            )
        segmentation.add(*key, None, as_mask(file, volume))
    return segmentation


def check_mask_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Refuse a folder with masks of another origin, which a segmentation would replace or hide.

    Args:
        folder: Where the masks shall be; may be missing.
        names: Those of the files to be written, as far as they are known. Without labels.csv the folder may
            hold no mask named after a structure either; other images may lie in it.

    Raises:
        InputError: When there are such masks, or a labels.csv that is no table of ours.
    """
    if not folder.is_dir():
        return
    refuse_file_of_others(folder / FOLDER_TABLE)
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


def holds_mask(volume: Volume) -> bool:
    """Say whether all voxels are 0 or 1, or 0 or 255, as those of one mask."""
    array = volume.array
    if array.dtype != np.int16 or array.min() < 0:
        return False
    return bool(array.max() <= 1 or (array.max() == 255 and np.isin(array, (0, 255)).all()))


def as_mask(path: Path, volume: Volume) -> np.ndarray:
    """The voxels of an image as a mask.

    Raises:
        InputError: When it has other values than a mask has.
    """
    if not holds_mask(volume):
        raise InputError(
            f"{path}: A mask holds 0 and 1 (or 255) only; a label map needs its NAME.labels.csv beside it, a "
            "dataset.json, or --labels."
        )
    return volume.array.astype(bool)
