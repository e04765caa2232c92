"""Masks of one structure each become one label map, on the grid of the case's own CT.

Masks count from 1 in a declared order; where two overlap, the one that comes later in that order has the
voxel. Merging goes on where it was stopped: a label map that exists is whole, because it was renamed into
place, and the order that it was made with is kept beside it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...files.output_files import replacing
from ...segmentation_files.mask_folders import holds_mask
from ...volume import Volume, read_volume, write_volume
from ..collection import Case
from ..collection.case_check import Fault
from ..collection.case_images import on_one_grid
from ..loop.threads import mapped
from .case_files import image_named
from .totalsegmentator import MASK_FOLDER

logger = logging.getLogger(__name__)

ORDER_FILE = "masks.json"
LARGEST_UINT8 = 255


def merge_cases(
    cases: tuple[Case, ...],
    masks: tuple[str, ...],
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> tuple[tuple[Case, ...], list[Fault]]:
    """Merge the masks of all cases.

    Args:
        cases: as `totalsegmentator_cases` found them.
        masks: names, in the order of their values.
        folder: gets a label map NAME.nii.gz for each case, and the order of the masks.
        on_progress: called with (cases done, all cases).
        workers: threads; each holds one case in memory.

    Returns:
        The cases that have a label map now, and what is wrong with the others.

    Raises:
        InputError: label maps of another order lie in the folder, or it cannot be written to.
    """
    _keep_order(folder / ORDER_FILE, masks)
    merged: list[Case] = []
    faults: list[Fault] = []
    with mapped(lambda case: _merge_or_fault(case, masks, folder), cases, workers) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Fault):
                faults.append(outcome)
            else:
                merged.append(outcome)
            on_progress(done, len(cases))
    return tuple(merged), faults


def merge_masks(image: Path, masks: tuple[str, ...], output: Path) -> int:
    """Merge the masks beside one CT.

    Args:
        image: the CT; its masks lie in segmentations/ beside it.
        masks: names, in the order of their values.
        output: the label map, .nii.gz; uint8, or uint16 for more than 255 masks.

    Returns:
        Voxels that lay in several masks.

    Raises:
        InputError: a file is missing or damaged, a mask is not 0 and 1, or lies on another grid than the CT.
    """
    ct = read_volume(image)
    labels = np.zeros(ct.shape, np.uint8 if len(masks) <= LARGEST_UINT8 else np.uint16)
    overlapping = 0
    for value, name in enumerate(masks, 1):
        inside = _read_mask(image.parent / MASK_FOLDER, name, ct)
        overlapping += int(np.count_nonzero(labels[inside]))
        labels[inside] = value
    write_volume(output, ct.with_array(labels))
    return overlapping


def _read_mask(folder: Path, name: str, ct: Volume) -> np.ndarray:
    """One mask (z, y, x), bool, on the grid of the CT."""
    path = image_named(folder, name)
    if path is None:
        raise InputError(f"{folder} has no mask {name}; an unknown structure is not an absent one.")
    mask = read_volume(path)
    if not on_one_grid(ct, mask):
        raise InputError(f"{path}: The mask lies on another grid than the CT beside it.")
    if not holds_mask(mask):
        raise InputError(f"{path}: A mask holds 0 and 1 (or 255) only.")
    return mask.array.astype(bool)


def _merge_or_fault(case: Case, masks: tuple[str, ...], folder: Path) -> Case | Fault:
    label = folder / f"{case.name}.nii.gz"
    try:
        if not label.exists():
            overlapping = merge_masks(Path(case.image), masks, label)
            logger.info("%s: %d voxels lay in several masks", case.name, overlapping)
    except InputError as error:
        return Fault(case.name, case.data_set, "masks cannot be merged", str(error))
    return dataclasses.replace(case, label=str(label.absolute()))


def _keep_order(path: Path, masks: tuple[str, ...]) -> None:
    """Write the order down, or refuse a folder of another one."""
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != list(masks):
            raise InputError(
                f"{path.parent} holds label maps merged from other masks or in another order; "
                "delete that folder, or give another output."
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(list(masks), indent=1) + "\n", encoding="utf-8")
