"""Segmentations as NIfTI: one label map with a table beside it, or a folder with one mask per structure."""

import contextlib
import csv
import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files.file_names import folded
from ..files.output_files import replacing
from ..images.nifti import write_nifti
from ..masks.boxes import EMPTY_BOX, Box, box_around
from ..masks.packed_mask import PackedMask
from ..segmentation import Key, Segmentation, writing_order
from ..sentences import first_few
from ..structures import ORGANS_WITH_TUMOR, load_structures, structure_or_tissue
from ..volume import Volume, image_stem, image_suffix, read_volume
from .label_names import comparable_set
from .label_tables import read_dataset_labels, read_table
from .mask_folders import FOLDER_TABLE, check_mask_folder, key_of_name, listed_masks

_COLUMNS = ("label", "task", "structure", "name", "volume_ml", "color", "snomed_type", "snomed_region")
_DATASET_FILE = "dataset.json"
_FOLDERS_ABOVE = 3
"""How far above a label map nnU-Net's dataset.json may lie: TRAINER/fold_0/validation/a.nii.gz."""
_LARGEST_LABEL = 32767  # of int16, as some programs read any label map
_ROUNDING_ML = 0.001
_LOST_SHARE = 0.01
"""Of a mask, more than which is told to be overwritten."""

Values = dict[Key, tuple[int, ...]]
"""Which labels of a map make a mask."""

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
        _write_table(table, segmentation, {key: str(value) for key, value in values.items()})


def check_table_is_free(path: Path) -> None:
    """Refuse a new label map NAME.nii beside NAME.nii.gz, or the other way round, whose table it would take.

    Raises:
        InputError: When there is that other one, and its table.
    """
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
        return {key: given[key] for key in keys}
    return {key: label for label, key in enumerate(keys, start=1)}


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
        _write_table(folder / FOLDER_TABLE, segmentation, names)
    if outdated:
        some = first_few(outdated, 3)
        logger.warning("%s: masks of the earlier segmentation were removed: %s.", path, some)


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
        segmentation.add(*key_of_name(path), None, _as_mask(path, volume))
        return segmentation
    named = set(itertools.chain(*values.values()))
    counts = _voxel_counts(volume.array, named)
    if source == table_path(path):
        voxel_ml = volume.voxel_volume / 1000
        label_ml = {number: voxels * voxel_ml for number, voxels in counts.items()}
        values = _given_back(path, values, label_ml)
    boxes, whole = _label_boxes(volume.array), np.s_[0:z, 0:y, 0:x]
    for key, numbers in values.items():
        places = (boxes.get(number, whole) for number in numbers if counts[number])
        box = reduce(box_around, places, EMPTY_BOX)
        mask = np.logical_or.reduce([volume.array[box] == number for number in numbers])
        if key[1].lower() == "ignore":
            segmentation.ignored = PackedMask(box, mask)
        else:
            segmentation.add(*key, box, mask)
    if source and (unnamed := sorted(counts.keys() - named - {0})):
        left_out = ", ".join(f"{value:g}" for value in unnamed[:10])
        logger.warning("%s: labels that %s does not name were left out: %s.", path, source.name, left_out)
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
        segmentation.add(*key, None, _as_mask(file, volume))
    return segmentation


def table_path(path: Path) -> Path:
    """Return where the table of a label map lies: NAME.labels.csv beside it."""
    return path.with_name(f"{image_stem(path)}.labels.csv")


def _write_table(path: Path, segmentation: Segmentation, labels: dict[Key, str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for key, label in labels.items():
            structure = segmentation.structure_of(key)
            volume_ml = f"{segmentation.volume_ml(key):.3f}"
            color = "#{:02x}{:02x}{:02x}".format(*structure.color)
            region = structure.region.value if structure.region else ""
            writer.writerow(
                [label, *key, segmentation.display_name(key), volume_ml, color, structure.type.value, region]
            )


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
        return table_path(path), _values_of_table(table_path(path))
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


def _values_of_table(path: Path) -> Values:
    rows = read_table(path)
    if wrong := [row["label"] for row in rows if not row["label"].isdecimal()]:
        raise InputError(f"{path}: '{wrong[0]}' is no label; give whole numbers.")
    values: Values = {}
    for row in rows:
        key = row["task"], row["structure"]
        values[key] = (*values.get(key, ()), int(row["label"]))
    return values


def _given_back(path: Path, values: Values, label_ml: Mapping[float, float]) -> Values:
    """Add to each mask the labels that were written over it; warn of what cannot be given back."""
    order = list(values)  # that of writing
    written_ml = _volumes_of_table(table_path(path))
    result, lost = {}, []
    for place, key in enumerate(order):
        later = {other: values[other] for other in order[place + 1 :]}
        result[key] = own = _own_values(key, values, later, label_ml, written_ml.get(key))
        missing_ml = written_ml.get(key, 0.0) - sum(label_ml[number] for number in own)
        later_ml = sum(label_ml[number] for number in {*itertools.chain(*later.values())} - {*own})
        if max(_ROUNDING_ML, _LOST_SHARE * written_ml.get(key, 0.0)) < missing_ml < later_ml + _ROUNDING_ML:
            lost.append(f"{missing_ml:.3g} ml of {key[1]} ({key[0]})")
    if lost:
        logger.warning(
            "%s: %s were overwritten in this label map; evaluate a .seg.nrrd or a folder of masks instead.",
            *(path, ", ".join(lost)),
        )
    return result


def _own_values(
    key: Key, values: Values, later: Values, label_ml: Mapping[float, float], written_ml: float | None
) -> tuple[int, ...]:
    """The labels of a mask: its own and what brings it to its volume in the table.

    That are structures in the organ, where the volume gets closer, tumours first, and the same structure of
    another task, where the volume is met: only then did that one cover all that is missing. Where the table
    has no volume, or the map was edited and has more, an organ gets the tumour of its own task.
    """
    task, structure = key[0], structure_or_tissue(key[1])
    own = dict.fromkeys(values[key])
    tumor = f"{key[1]}_tumor" if key[1] in ORGANS_WITH_TUMOR else ""
    if written_ml is None or sum(label_ml[number] for number in own) > written_ml + _ROUNDING_ML:
        return tuple(own | dict.fromkeys(values.get((task, tumor), ())))
    tumors = sorted((other for other in values if other[1] == tumor), key=lambda other: other[0] != task)
    for other in dict.fromkeys([*tumors, *later]):
        added = [number for number in values[other] if number not in own]
        missing_ml = written_ml - sum(label_ml[number] for number in own)
        excess_ml = sum(label_ml[number] for number in added) - missing_ml
        region = structure_or_tissue(other[1]).region
        is_inside = structure.region is None and region == structure.type
        is_namesake = other[1] == key[1]
        if (is_inside and abs(excess_ml) < missing_ml) or (is_namesake and abs(excess_ml) < _ROUNDING_ML):
            own |= dict.fromkeys(added)
    return tuple(own)


def _volumes_of_table(path: Path) -> dict[Key, float]:
    """Of each mask before others were written over it, ml; without those that are not given."""
    volumes: dict[Key, float] = {}
    for row in read_table(path):
        with contextlib.suppress(ValueError):
            volumes[row["task"], row["structure"]] = float((row.get("volume_ml") or "").replace(",", "."))
    return volumes


def holds_mask(volume: Volume) -> bool:
    """Say whether all voxels are 0 or 1, or 0 or 255, as those of one mask."""
    array = volume.array
    if array.dtype != np.int16 or array.min() < 0:
        return False
    return bool(array.max() <= 1 or (array.max() == 255 and np.isin(array, (0, 255)).all()))


def _as_mask(path: Path, volume: Volume) -> np.ndarray:
    if not holds_mask(volume):
        raise InputError(
            f"{path}: A mask holds 0 and 1 (or 255) only; a label map needs its NAME.labels.csv beside it, a "
            "dataset.json, or --labels."
        )
    return volume.array.astype(bool)
