"""Segmentations as NIfTI: one label map with a table beside it, or a folder with one mask per structure."""

import csv
from pathlib import Path

import numpy as np

from .errors import InputError
from .nifti import write_nifti
from .output_files import replacing
from .segmentation import Key, Segmentation
from .volume import IMAGE_SUFFIXES, Volume, read_volume

_COLUMNS = ("label", "task", "structure", "name", "volume_ml", "color", "snomed_type", "snomed_region")
FOLDER_TABLE = "labels.csv"
"""What marks a folder as one segmentation."""
_LARGEST_LABEL = 255


def write_label_map(path: Path, segmentation: Segmentation) -> None:
    """Write one uint8 label map and NAME.labels.csv.

    Where masks overlap the later one wins: organs first, then structures within an organ (vessels), then
    lesions; within each group in the order of `segmentation.keys()`. Labels count from 1 in this order.

    Args:
        path: A .nii or .nii.gz file.
        segmentation: What to write.

    Raises:
        InputError: When there are more than 255 masks or the files cannot be written.
    """
    keys = sorted(segmentation, key=lambda key: segmentation.structure_of(key).overlap_rank)
    if len(keys) > _LARGEST_LABEL:
        raise InputError(f"{len(keys)} masks do not fit one label map; write a .seg.nrrd file or a folder.")
    labels = np.zeros(segmentation.shape, np.uint8)
    for label, key in enumerate(keys, start=1):
        box, mask = segmentation.cropped(key)
        labels[box][mask] = label
    with replacing(path) as image, replacing(_table_path(path)) as table:
        write_nifti(image, labels, segmentation.affine)
        _write_table(table, segmentation, {key: str(label) for label, key in enumerate(keys, start=1)})


def write_mask_folder(path: Path, segmentation: Segmentation) -> None:
    """Write each mask as STRUCTURE.nii.gz (TASK-STRUCTURE.nii.gz if several tasks found it), and labels.csv.

    Args:
        path: A folder; created if needed, other files in it stay.
        segmentation: What to write.

    Raises:
        InputError: When the files cannot be written.
    """
    names = {key: f"{segmentation.identifier(key)}.nii.gz" for key in segmentation}
    with replacing(path) as folder:
        folder.mkdir()
        for key, name in names.items():
            write_nifti(folder / name, segmentation[key].view(np.uint8), segmentation.affine)
        _write_table(folder / FOLDER_TABLE, segmentation, names)


def read_label_map(path: Path) -> Segmentation:
    """Read a label map with its NAME.labels.csv, or without that a single mask named after its structure.

    Raises:
        InputError: When the image or the table cannot be used.
    """
    volume = read_volume(path)
    segmentation = Segmentation(volume.shape, volume.affine)
    if _table_path(path).exists():
        for row in _read_table(_table_path(path)):
            if not row["label"].isdecimal():
                raise InputError(f"{_table_path(path)}: '{row['label']}' is no label; give whole numbers.")
            segmentation.add(row["task"], row["structure"], None, volume.array == int(row["label"]))
    else:
        segmentation.add(*_key_of_name(path), None, _as_mask(path, volume))
    return segmentation


def read_mask_folder(path: Path) -> Segmentation:
    """Read a folder of masks: those of its labels.csv, or without one every image, named after its structure.

    Raises:
        InputError: When there are no masks or they do not share one grid.
    """
    if (path / FOLDER_TABLE).exists():
        files = {
            (row["task"], row["structure"]): path / row["label"] for row in _read_table(path / FOLDER_TABLE)
        }
    else:
        images = sorted(child for child in path.iterdir() if child.name.lower().endswith(IMAGE_SUFFIXES))
        files = {_key_of_name(image): image for image in images}
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


def _table_path(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}.labels.csv")


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _key_of_name(path: Path) -> Key:
    task, _, structure = _stem(path).rpartition("-")
    return task, structure


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


def _read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if any(not row.get("label") or not row.get("structure") or row.get("task") is None for row in rows):
        raise InputError(
            f"{path}: A label table needs the columns label, task and structure; write it again."
        )
    return rows


def _as_mask(path: Path, volume: Volume) -> np.ndarray:
    if volume.array.dtype != np.int16 or volume.array.min() < 0 or volume.array.max() > 1:
        raise InputError(
            f"{path}: A mask holds 0 and 1 only; a label map needs its NAME.labels.csv beside it."
        )
    return volume.array.astype(bool)
