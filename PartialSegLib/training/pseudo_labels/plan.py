"""What pseudo-labelling is asked for, and what follows for each case of a collection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...files.json_fields import to_json
from ...manifest import Manifest
from ...segmentation import Key
from ...sentences import suggestion
from ...task_request import request_tasks
from ..collection import Case, Collection, DataSet
from ..collection.case_images import file_stamps
from .merging import Merging, plan_merging


@dataclass(frozen=True)
class PseudoLabelRequest:
    """What to add to which cases.

    Only training cases get pseudo-labels: validation and test cases are there to be compared with the truth.

    Attributes:
        manifest: of the model.
        structures: to add; None for all of the model's. A case gets those that it is not annotated for.
        tasks: of the model; None for all. Where several yield a structure, the first one counts.
        data_sets: names of those whose cases get labels; None for all.
        unlabelled_only: only cases without a label map.
        new_task: task that the data sets with pseudo-labels train; None for the one of each data set.
        suffix: file type of the label maps.
        settings: whatever else changes the result, such as overlap and mirroring, as plain JSON.
    """

    manifest: Manifest
    structures: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    data_sets: tuple[str, ...] | None = None
    unlabelled_only: bool = False
    new_task: str | None = None
    suffix: Literal[".nii.gz", ".nrrd"] = ".nii.gz"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, Key]:
        """The task and structure to take for each structure; raises InputError for names not of the model."""
        return find_keys(self.manifest, self.tasks, self.structures)

    @property
    def model(self) -> str:
        """Name and version of the model."""
        return f"{self.manifest.name} {self.manifest.version}"

    def to_json(self) -> dict[str, Any]:
        """What two runs must have in common to go on with each other's work."""
        plain = {
            "model": self.model,
            "weights_sha256": self.manifest.weights_sha256,
            "segments": [list(key) for key in self.keys.values()],
            "suffix": self.suffix,
            "settings": dict(self.settings),
        }
        return json.loads(json.dumps(plain))


@dataclass(frozen=True, eq=False)
class PlannedCase:
    """A case that gets pseudo-labels, and how.

    Attributes:
        case: of the source.
        merging: of its data set, or of its cases without label maps.
        files: checksum of names, sizes and times of change of image and label map when the case was planned;
            empty where one of them is not there.
    """

    case: Case
    merging: Merging
    files: str

    @property
    def fingerprint(self) -> str:
        """Of what the label map is made from: the rules, and the files, whose contents are not looked at."""
        return f"{self._rules}-{self.files}"

    def is_made_as(self, fingerprint: str) -> bool:
        """Whether a fingerprint is this one, as far as it can be told.

        Files that are not there now have not changed, and earlier versions wrote down the rules alone.
        """
        rules, _, files = fingerprint.partition("-")
        return rules == self._rules and (files == self.files or not files or not self.files)

    @property
    def _rules(self) -> str:
        made_from = [to_json(self.merging.data_set), self.merging.added, self.case.image, self.case.label]
        return _checksum(made_from)


def plan_cases(collection: Collection, request: PseudoLabelRequest) -> list[PlannedCase]:
    """Choose the cases that lack a structure, and work out the rules of their label maps.

    Raises:
        InputError: an unknown data set, task or structure, a case whose name cannot be a file's, or no case
            that lacks a structure.
    """
    for name in request.data_sets or ():
        if name not in collection.data_sets:
            raise InputError(f"Unknown data set {name!r}; {suggestion(name, list(collection.data_sets))}.")
    wanted = request.keys
    merging: dict[tuple[str, bool], Merging] = {}
    planned = []
    for case in collection.split("training"):
        data_set, is_labelled = collection.data_sets[case.data_set], case.label is not None
        added = [name for name in wanted if not is_labelled or name not in data_set.structures]
        is_chosen = request.data_sets is None or case.data_set in request.data_sets
        if not added or not is_chosen or (is_labelled and request.unlabelled_only):
            continue
        if data_set.channels != ("CT",):
            raise InputError(
                f"{data_set.name}: pseudo-labels are made for CT, its images have the channels "
                f"{', '.join(data_set.channels)}; leave this data set out."
            )
        if Path(case.name).name != case.name or "\\" in case.name:
            raise InputError(f"The case name {case.name!r} cannot be a file's; rename the case.")
        kind = case.data_set, is_labelled
        if kind not in merging:
            taken = [*collection.data_sets, *(other.data_set.name for other in merging.values())]
            merging[kind] = plan_merging(_renamed(data_set, is_labelled, taken, request, added), added)
        planned.append(PlannedCase(case, merging[kind], _checksum_of_files(collection, case)))
    if not planned:
        raise InputError(
            f"No chosen training case lacks any of {', '.join(wanted)}; choose other data sets or structures."
        )
    return planned


def find_keys(
    manifest: Manifest, tasks: tuple[str, ...] | None, structures: tuple[str, ...] | None
) -> dict[str, Key]:
    """For each structure the first task that yields it, in the order of the model.

    Raises:
        InputError: unknown task or structure.
    """
    keys: dict[str, Key] = {}
    for request in request_tasks(manifest, tasks, structures):
        for structure in request.structures:
            keys.setdefault(structure, (request.task.name, structure))
    return keys


def _checksum_of_files(collection: Collection, case: Case) -> str:
    try:
        return _checksum([file_stamps(collection.path(path)) for path in (case.image, case.label) if path])
    except OSError:  # labelling the case will say why
        return ""


def _checksum(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _renamed(
    data_set: DataSet, is_labelled: bool, taken: list[str], request: PseudoLabelRequest, added: list[str]
) -> DataSet:
    """The rules before merging, under the name that they have in the new collection."""
    stem = f"{data_set.name}-{'merged' if is_labelled else 'pseudo'}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 2))]
    source = "; ".join(filter(None, [data_set.source, f"{', '.join(added)} predicted by {request.model}"]))
    return DataSet(
        next(name for name in names if name not in taken),
        request.new_task or data_set.task,
        data_set.structures if is_labelled else {},
        data_set.ignore if is_labelled else (),
        source,
        data_set.license,
    )
