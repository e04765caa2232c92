"""What the labels of a map are called: in the table beside it, or in a dataset.json of another system."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..segmentation import Key, Segmentation
from ..volume import image_stem

Values = dict[Key, tuple[int, ...]]
"""Which labels of a map make a mask."""
_LONGEST_HEADER = 10_000  # bytes
_DELIMITERS = str.maketrans(";\t", ",,")  # of Excel
_COLUMNS = ("label", "task", "structure", "name", "volume_ml", "color", "snomed_type", "snomed_region")


def table_path(path: Path) -> Path:
    """Return where the table of a label map lies: NAME.labels.csv beside it."""
    return path.with_name(f"{image_stem(path)}.labels.csv")


def is_table(path: Path) -> bool:
    """Whether a file is a table of ours, by its columns, and not one that somebody gave the same name."""
    try:
        with path.open("rb") as file:
            header = file.readline(_LONGEST_HEADER).decode("utf-8-sig", errors="replace")
    except OSError:
        return False
    columns = {column.strip().strip('"') for column in header.translate(_DELIMITERS).split(",")}
    return {"label", "task", "structure"} <= columns


def refuse_file_of_others(path: Path) -> None:
    """Refuse to replace what has the name of a table and is none of ours.

    Raises:
        InputError: When there is such a file.
    """
    if path.is_file() and not is_table(path):
        raise InputError(
            f"{path} is no table of labels and would be replaced by one; move it, or choose another name."
        )


def write_table(path: Path, segmentation: Segmentation, labels: dict[Key, str]) -> None:
    """Write a table of ours.

    Args:
        path: Where.
        segmentation: Whose masks are named.
        labels: Of each mask the value in a label map, or the name of its file in a folder.
    """
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


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table, also of one that Excel has saved in its own way.

    Raises:
        InputError: When a column is missing.
    """
    contents = path.read_bytes()
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = contents.decode("cp1252", errors="replace")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    rows = [row for row in rows if any(row.values())]
    if any(not row.get("label") or not row.get("structure") or row.get("task") is None for row in rows):
        raise InputError(
            f"{path}: A label table needs the columns label, task and structure; write it again."
        )
    return rows


def volumes_of_table(path: Path) -> dict[Key, float]:
    """Of each mask before others were written over it, ml; without those that are not given."""
    volumes: dict[Key, float] = {}
    for row in read_table(path):
        with contextlib.suppress(ValueError):
            volumes[row["task"], row["structure"]] = float((row.get("volume_ml") or "").replace(",", "."))
    return volumes


def values_of_table(path: Path) -> Values:
    """The labels of each mask.

    Raises:
        InputError: When a column is missing, or a label is no whole number.
    """
    rows = read_table(path)
    if wrong := [row["label"] for row in rows if not row["label"].isdecimal()]:
        raise InputError(f"{path}: '{wrong[0]}' is no label; give whole numbers.")
    values: Values = {}
    for row in rows:
        key = row["task"], row["structure"]
        values[key] = (*values.get(key, ()), int(row["label"]))
    return values


def read_dataset_labels(path: Path, is_near: bool) -> dict[str, tuple[int, ...]] | None:
    """What a dataset.json names; nothing where it is that of something else, or far and not nnU-Net's.

    Raises:
        InputError: When it is near and damaged, or a value is not a whole number.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        if not is_near:
            return None
        raise InputError(f"{path} cannot be read as JSON ({error}); copy it again, or remove it.") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("labels"), dict):
        return None
    if not is_near and not ("numTraining" in contents and {"channel_names", "modality"} & contents.keys()):
        return None
    return labels_of(contents, path)


def labels_of(contents: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """Labels and their values without the background, as a dataset.json names them.

    The Decathlon and nnU-Net version 1 write {"1": "liver"}, version 2 {"liver": 1} or, for regions,
    {"liver": [1, 2]}. Labels of one name are one structure.

    Raises:
        InputError: When a value is not a whole number.
    """
    labels: dict[str, tuple[int, ...]] = {}
    try:
        for key, value in contents["labels"].items():
            is_number = isinstance(value, int | list)
            name, values = (str(key), value) if is_number else (str(value), int(key))
            numbers = tuple(int(number) for number in (values if isinstance(values, list) else [values]))
            if numbers not in ((), (0,)) and name.lower() != "background":
                labels[name] = (*labels.get(name, ()), *numbers)
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: expected labels as name: value or value: name, got {contents['labels']}."
        ) from None
    return labels
