"""Collection: the cases of several data sets, each data set labelled for structures of its own.

A collection is one JSON file. Paths of images and label maps are relative to its folder, so that the folder
can be moved as a whole; absolute paths stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ...errors import InputError
from ...files.file_names import expanded
from ...files.json_fields import from_json, require, to_json
from ...files.output_files import replacing
from ...sentences import suggestion

FORMAT: Final = "partialseg-collection"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class DataSet:
    """One annotation protocol.

    Attributes:
        name: short and unique in the collection, such as msd-liver.
        task: name of the model's task that its cases train; several data sets may share one.
        structures: for each annotated structure the values of the label map that belong to it. Values may
            serve two structures: an organ includes its tumour where both list the tumour's value. A structure
            that is not listed is unknown in this data set, not absent.
        ignore: values of voxels that nobody has labelled; no structure is trained there.
        source: where the data come from.
        license: of the data.
        channels: of its images, in the order of their files; a model finds its own among them by name.
    """

    name: str
    task: str
    structures: dict[str, tuple[int, ...]]
    ignore: tuple[int, ...] = ()
    source: str = ""
    license: str = ""
    channels: tuple[str, ...] = ("CT",)

    def __post_init__(self) -> None:
        """Refuse a data set without a name or channels, and values that are no labels."""
        require(bool(self.name.strip()), "name: expected the name of the data set, got an empty text")
        require(
            len(set(self.channels)) == len(self.channels) > 0,
            f"channels: expected at least one, each with a name of its own, got {list(self.channels)}",
        )
        for structure, values in self.structures.items():
            require(
                len(values) > 0 and min(values) > 0,
                f"structures.{structure}: expected label values from 1 on, got {list(values)}",
            )
        require(
            min(self.ignore, default=0) >= 0,
            f"ignore: expected label values from 0 on, got {list(self.ignore)}; give such voxels another "
            "value in the label maps",
        )


@dataclass(frozen=True)
class Case:
    """One image and its labels.

    Attributes:
        name: unique in the collection; also how the name of its folder begins after preprocessing.
        data_set: name of its data set.
        image: path of the CT, or of the first channel; a NIfTI file of four axes holds all channels.
        label: path of its label map; None for a case without labels, which waits for pseudo-labels.
        split: what the case is for.
        other_channels: paths of the second and further channels, where each has a file of its own.
    """

    name: str
    data_set: str
    image: str
    label: str | None = None
    split: Literal["training", "validation", "test"] = "training"
    other_channels: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all channels."""
        return self.image, *self.other_channels

    def with_paths(self, moved: Callable[[str], str]) -> Case:
        """The same case with every path as a function gives it."""
        label = None if self.label is None else moved(self.label)
        others = tuple(moved(path) for path in self.other_channels)
        return replace(self, image=moved(self.image), label=label, other_channels=others)


@dataclass(frozen=True)
class Collection:
    """Data sets and their cases.

    Attributes:
        name: of the collection.
        folder: what relative paths start from.
        data_sets: by name, in the order of the file.
        cases: in the order of the file.
    """

    name: str
    folder: Path
    data_sets: dict[str, DataSet]
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        """Refuse cases of unknown data sets and names that occur twice."""
        for name, times in Counter(case.name for case in self.cases).items():
            require(
                times == 1, f"cases: the name {name} occurs {times} times; names are file names, once each"
            )
        known = list(self.data_sets)
        for case in self.cases:
            if case.data_set not in known:
                advice = suggestion(case.data_set, known)
                raise InputError(
                    f"cases: {case.name} belongs to the unknown data set {case.data_set}; {advice}"
                )

    def path(self, relative: str) -> Path:
        """Where an image or label map lies."""
        return self.folder / relative

    def split(self, split: str) -> tuple[Case, ...]:
        """The cases of one split, in the order of the file."""
        return tuple(case for case in self.cases if case.split == split)

    def digest(self) -> str:
        """A text that differs where other cases train or validate, or where their labels mean other things.

        Where files lie and in which order does not change it, nor do cases for tests or without labels.
        """
        cases = sorted(
            (case.name, case.data_set, case.split)
            for case in self.cases
            if case.label is not None and case.split != "test"
        )
        used = [self.data_sets[name] for name in sorted({data_set for _, data_set, _ in cases})]
        rules = [(one.task, one.structures, one.ignore, one.channels) for one in used]
        return hashlib.sha256(json.dumps([cases, rules], sort_keys=True).encode()).hexdigest()


def tasks_of(collection: Collection, tasks: Sequence[str]) -> dict[str, int]:
    """The number of the task that each data set trains: of the one that it names.

    A model of one task takes all data sets if none of them names its task.

    Args:
        collection: whose data sets.
        tasks: names of a model's tasks, in their order.

    Returns:
        By the names of the data sets, in their order; those of other tasks are left out.
    """
    numbers = {task: number for number, task in enumerate(tasks)}
    named = {
        name: numbers[data_set.task]
        for name, data_set in collection.data_sets.items()
        if data_set.task in numbers
    }
    return dict.fromkeys(collection.data_sets, 0) if len(tasks) == 1 and not named else named


@dataclass(frozen=True)
class _File:
    format: Literal["partialseg-collection"]
    format_version: Literal[1]
    name: str
    data_sets: tuple[DataSet, ...]
    cases: tuple[Case, ...]


def read_collection(path: Path | str) -> Collection:
    """Read a collection file.

    Raises:
        InputError: the file is missing, is not JSON, or a field is unknown, missing or wrong.
    """
    path = expanded(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"No collection at {path}; make one with `partialseg data`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); make it again with `partialseg data`."
        ) from None
    try:
        file = from_json(_File, values)
        data_sets = {data_set.name: data_set for data_set in file.data_sets}
        require(len(data_sets) == len(file.data_sets), "data_sets: two data sets share a name")
        return Collection(file.name, path.parent, data_sets, file.cases)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_collection(path: Path | str, collection: Collection) -> None:
    """Write a collection file, in one stroke; paths are written as they stand in the cases."""
    file = _File(
        FORMAT, FORMAT_VERSION, collection.name, tuple(collection.data_sets.values()), collection.cases
    )
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(to_json(file), indent=1) + "\n", encoding="utf-8")
