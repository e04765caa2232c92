"""dataset.json: what the Medical Segmentation Decathlon and nnU-Net write beside imagesTr and labelsTr."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...segmentation_files.label_tables import labels_of
from ..collection import DataSet
from .label_rules import contradicted_labels, structures_of_values
from .protocols import PROTOCOLS

FILE = "dataset.json"
IGNORE_LABEL = "ignore"
CHANNELS = {
    "flair": "flair",
    "t2f": "flair",
    "t1": "t1",
    "t1w": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1gd": "t1ce",
    "t1c": "t1ce",
    "t2": "t2",
    "t2w": "t2",
}
"""What the Decathlon and the years of BraTS call their sequences, in small letters, and one name for each."""


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Its contents.

    Raises:
        InputError: the file is missing or damaged, or names no labels.
    """
    path = folder / FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no {FILE}; give the folder of one task, with imagesTr and labelsTr in it."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); unpack the data set again.") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("labels"), dict):
        raise InputError(f"{path} names no labels; expected an object with 'labels', as nnU-Net writes it.")
    return contents


def channels_of(contents: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The channels of the images, in the order of their numbers; the sequences of BraTS by one name each.

    The Decathlon and nnU-Net version 1 have them under "modality", version 2 under "channel_names".

    Raises:
        InputError: they are not there, or not numbered.
    """
    channels = contents.get("channel_names", contents.get("modality"))
    if not isinstance(channels, dict) or not channels or not all(str(key).isdecimal() for key in channels):
        raise InputError(
            f'{path} names no channels; expected "channel_names" (or "modality") with numbers and names, '
            'as in {"0": "CT"}.'
        )
    names = [str(channels[number]).strip() for number in sorted(channels, key=int)]
    if len(names) == 1 and "CT" in names[0].upper():
        return ("CT",)
    return tuple(CHANNELS.get(re.sub("[^a-z0-9]", "", name.lower()), name) for name in names)


def data_set_of(folder: Path, contents: dict[str, Any], name: str | None = None) -> DataSet:
    """The data set that a dataset.json describes.

    A data set with the name, the values and the labels of a task of the Decathlon has the rules of
    `protocols`; where its licence, too, is the Decathlon's, or none is stated in a folder TaskNN_Name, it is
    that task. The labels of any other data set are known by their names (`label_rules`). nnU-Net's "ignore"
    label stays unlabelled.

    Args:
        folder: that of the data set; Task03_Liver, Dataset501_Mine.
        contents: as `read_dataset_json` returned them.
        name: of the data set in the collection; None makes one from the folder's name.

    Raises:
        InputError: labels or channels are not numbered.
    """
    title = re.sub(r"^(Task|Dataset)\d+_", "", folder.name)
    labels, channels = labels_of(contents, folder / FILE), channels_of(contents, folder / FILE)
    ignore = labels.pop(IGNORE_LABEL, ())
    licence = str(contents.get("licence", contents.get("license", "")))
    protocol = PROTOCOLS.get(f"msd-{_dashed(title)}")
    task, structures = title.replace("_", " "), None
    if protocol is not None and not ignore and _has_rules_of(protocol, labels):
        is_stated = _plain(licence) == _plain(protocol.license)
        if is_stated or (not licence and re.match(r"Task\d+_", folder.name)):
            return replace(protocol, name=name or protocol.name, channels=channels)
        task, structures = protocol.task, protocol.structures
    return DataSet(
        name or _dashed(title),
        task,
        structures_of_values(labels) if structures is None else structures,
        ignore,
        str(contents.get("reference", "")),
        licence,
        channels,
    )


def _plain(licence: str) -> str:
    return re.sub(r"[^a-z0-9]", "", licence.lower())


def _has_rules_of(protocol: DataSet, labels: dict[str, tuple[int, ...]]) -> bool:
    """Whether labels have the values of a protocol, and none a name that says something else."""
    same_values = _values(labels) == _values(protocol.structures)
    return same_values and not contradicted_labels(labels, protocol.structures)


def _values(labels: dict[str, tuple[int, ...]]) -> set[int]:
    return {value for values in labels.values() for value in values}


def _dashed(title: str) -> str:
    """HepaticVessel becomes hepatic-vessel."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9.]+", "-", title).strip("-").lower()
