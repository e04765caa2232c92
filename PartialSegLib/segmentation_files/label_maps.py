"""Label maps: one NIfTI image whose values are named in a table beside it, or by a dataset.json."""

import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files.output_files import replacing
from ..images.nifti import write_nifti
from ..masks.boxes import EMPTY_BOX, Box, box_around
from ..masks.packed_mask import PackedMask
from ..segmentation import Key, Segmentation, writing_order
from ..structures import load_structures
from ..volume import Volume, read_volume
from .label_names import comparable_set
from .label_tables import (
    Values,
    read_dataset_labels,
    refuse_file_of_others,
    table_path,
    values_of_table,
    write_table,
)
from .mask_folders import as_mask, key_of_name
from .overwritten_labels import given_back

_DATASET_FILE = "dataset.json"
_FOLDERS_ABOVE = 3
"""How far above a label map nnU-Net's dataset.json may lie: TRAINER/fold_0/validation/a.nii.gz."""
_LARGEST_LABEL = 32767  # of int16, as some programs read any label map

logger = logging.getLogger(__name__)


def write_label_map(path: Path, segmentation: Segmentation) -> None:
    """Write one label map, uint8 or uint16, and NAME.labels.csv; when writing fails, both are as they were.

    Where masks overlap the later one of `writing_order` wins: organs, then structures within an organ
    (vessels), then lesions. Labels are `segmentation.label_values`, so those of a model are the same
    whichever tasks were asked for; masks without them, or with values that no label map holds, are numbered
    from 1 in this order.

    Args:
        path: A .nii or .nii.gz file.
        segmentation: What to write.

    Raises:
        InputError: When there are more than 32,767 masks, the table is that of another label map, or the
            files cannot be written.
    """
    check_table_is_free(path)
    if len(segmentation) > _LARGEST_LABEL:
        raise InputError(
            f"{len(segmentation)} masks do not fit one label map; write a .seg.nrrd file or a folder."
        )
    values = _written_values(segmentation)
    largest = max(values.values(), default=0)
    labels = np.zeros(segmentation.shape, np.uint8 if largest <= 255 else np.uint16)
    for key, value in values.items():
        box, mask = segmentation.cropped(key)
        labels[box][mask] = value
    with replacing(path.parent, named=path) as folder:
        folder.mkdir()
        write_nifti(folder / path.name, labels, segmentation.affine)
        table = folder / table_path(path).name
        write_table(table, segmentation, {key: str(value) for key, value in values.items()})


def check_table_is_free(path: Path) -> None:
    """Refuse a label map whose table would replace that of NAME.nii beside NAME.nii.gz, or a file of others.

    Raises:
        InputError: When there is one.
    """
    refuse_file_of_others(table_path(path))
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    if twin.exists() and table_path(path).exists() and not path.exists():
        raise InputError(
            f"{table_path(path)} says what the labels of {twin.name} are, and {path.name} would need a file "
            "of that name, too; choose another name."
        )


def _written_values(segmentation: Segmentation) -> dict[Key, int]:
    """The label of each mask, in the order in which they are written."""
    keys, given = writing_order(segmentation), segmentation.label_values
    if all(1 <= given.get(key, 0) <= _LARGEST_LABEL for key in keys):
        return {key: given[key] for key in writing_order(sorted(keys, key=given.__getitem__))}
    return {key: label for label, key in enumerate(keys, start=1)}


def read_label_map(path: Path, labels: Mapping[str, tuple[int, ...]] | None = None) -> Segmentation:
    """Read a label map, or a single mask named after its structure.

    Args:
        path: The image. What its labels are says NAME.labels.csv, else `labels`, else a dataset.json in its
            folder, above the folder labelsTr, or, if it is nnU-Net's, up to three folders above and the image
            is not named after a structure; without any of these it is a mask. By a table, which is
            ours, the organs of `ORGANS_WITH_TUMOR` get back what `write_label_map` gave to their tumours, and
            every mask what the volumes of the table tell to be its own. What is lost is told in a warning.
            The label "ignore" of a dataset.json or of `labels` becomes `Segmentation.ignored`.
        labels: The values of each structure.

    Raises:
        InputError: When the image or the table cannot be used.
    """
    volume = _with_whole_labels(read_volume(path))
    segmentation = Segmentation(volume.shape, volume.affine)
    z, y, x = volume.shape
    source, values = _named_values(path, labels)
    if values is None:
        segmentation.add(*key_of_name(path), None, as_mask(path, volume))
        return segmentation
    named = set(itertools.chain(*values.values()))
    counts = _voxel_counts(volume.array, named)
    if source == table_path(path):
        voxel_ml = volume.voxel_volume / 1000
        label_ml = {number: voxels * voxel_ml for number, voxels in counts.items()}
        values = given_back(path, values, label_ml)
    boxes, whole = _label_boxes(volume.array), np.s_[0:z, 0:y, 0:x]
    for key, numbers in values.items():
        places = (boxes.get(number, whole) for number in numbers if counts[number])
        box = reduce(box_around, places, EMPTY_BOX)
        mask = np.logical_or.reduce([volume.array[box] == number for number in numbers])
        if key[1].lower() == "ignore":
            segmentation.ignored = PackedMask(box, mask)
        else:
            segmentation.add(*key, box, mask)
    if unnamed := sorted(counts.keys() - named - {0}):
        left_out = ", ".join(f"{value:g}" for value in unnamed[:10])
        which = f"{source.name} does not name" if source else "are not named"
        logger.warning("%s: labels that %s were left out: %s.", path, which, left_out)
    return segmentation


def _with_whole_labels(volume: Volume) -> Volume:
    """Labels 1.0000153 and the like become whole: so they come back where a header scales its voxels."""
    if volume.array.dtype.kind != "f" or not np.isfinite(volume.array).all():
        return volume
    whole = np.rint(volume.array)
    if np.abs(whole).max(initial=0) > np.iinfo(np.int16).max or np.any(np.abs(volume.array - whole) > 1e-3):
        return volume
    return replace(volume, array=whole.astype(np.int16))


def _voxel_counts(array: np.ndarray, named: set[int]) -> dict[float, int]:
    """How many voxels have each value that is in a map or named."""
    counts: dict[float, int] = dict.fromkeys(named, 0)
    if array.dtype == np.int16:
        lowest, voxels = np.iinfo(np.int16).min, np.zeros(1 << 16, np.int64)
        for plane in array:
            voxels += np.bincount(plane.ravel().astype(np.intp) - lowest, minlength=len(voxels))
        return counts | {int(index) + lowest: int(voxels[index]) for index in np.flatnonzero(voxels)}
    others = array[~np.isin(array, np.array(list(named), array.dtype))]
    counts |= zip(*(part.tolist() for part in np.unique(others, return_counts=True)), strict=True)
    return counts | {number: int(np.count_nonzero(array == number)) for number in named}


def _label_boxes(array: np.ndarray) -> dict[int, Box]:
    """Where the labels above 0 of a map of whole numbers lie, found in one pass."""
    if array.dtype != np.int16:
        return {}
    from scipy import ndimage  # when a map is read, not whenever Slicer starts

    boxes = enumerate(ndimage.find_objects(array), start=1)
    return {label: (box[0], box[1], box[2]) for label, box in boxes if box}


def has_named_labels(path: Path) -> bool:
    """Whether a table or a dataset.json says what the labels of a map are.

    Raises:
        InputError: When that file is damaged.
    """
    return _named_values(path, None)[1] is not None


def _named_values(
    path: Path, labels: Mapping[str, tuple[int, ...]] | None
) -> tuple[Path | None, Values | None]:
    """The file that names the labels of a map, if it is one that names them all, and their values."""
    if table_path(path).exists():
        return table_path(path), values_of_table(table_path(path))
    if labels is not None:
        return None, _values_of(labels)
    own, *above = Path(os.path.abspath(path)).parents[: 1 + _FOLDERS_ABOVE]
    near = [own, *(above[:1] if own.name.startswith("labels") else [])]
    is_mask = not load_structures().keys().isdisjoint(comparable_set([key_of_name(path)[1]]))
    for folder in (*near, *(() if is_mask else above)):
        file = folder / _DATASET_FILE
        if file.is_file() and (named := read_dataset_labels(file, folder in near)) is not None:
            return file, _values_of(named)
    return None, None


def _values_of(labels: Mapping[str, tuple[int, ...]]) -> Values:
    """Labels that no task has found."""
    return {("", structure): values for structure, values in labels.items()}
