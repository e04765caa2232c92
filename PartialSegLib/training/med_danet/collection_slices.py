"""The slices that a configuration of Med-DANet names; of a collection's, every pixel has one label."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Subset

from ...errors import InputError
from ...manifest import Manifest, Task
from ..collection import Case, Collection, DataSet, read_collection
from ..data import ProgressBar, check_and_prepare, no_progress_bar
from ..preparation.case_store import PreparedCase
from ..preparation.prepared_cases import find_case, labelled_cases, settings_folder
from .config import CollectionSlicesConfig, SliceBankConfig
from .slices import PhantomSlices, Slice, SliceSource

VALIDATION_SEED = 10_000_000_033  # of patients that no training has seen


class CollectionSlices:
    """The axial slices of the cases of those data sets that train the task.

    A softmax needs a class for every pixel: all structures of the task are labelled in all of these data
    sets. Of structures that overlap the one with the higher channel is the label: an organ comes before its
    tumour.

    Args:
        collection: whose cases.
        prepared: folder where they lie preprocessed, see `prepare_collection`.
        task: the structures and their channels.
        split: of the cases.

    Raises:
        InputError: there is no case, one is not prepared, or a data set leaves structures or voxels unknown.
    """

    def __init__(
        self,
        collection: Collection,
        prepared: Path,
        task: Task,
        split: Literal["training", "validation"] = "training",
    ) -> None:
        self.task = task
        self.cases: list[tuple[PreparedCase, DataSet]] = [
            (find_case(prepared, collection, case), collection.data_sets[case.data_set])
            for case in _cases_of_task(collection, task, split)
        ]
        self.ends = list(accumulate(case.summary.shape[0] for case, _ in self.cases))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Slice:
        """Slice number `index`, those of the first case first."""
        number = bisect_right(self.ends, index)
        case, data_set = self.cases[number]
        depth, height, width = case.summary.shape
        place = (index - self.ends[number] + depth, 0, 0), (1, height, width)
        image, values = case.read_image(*place), case.read_labels(*place)[0]
        labels = np.zeros(values.shape, np.int64)
        for structure in sorted(self.task.structures, key=self.task.structures.__getitem__):
            labels[np.isin(values, data_set.structures[structure])] = self.task.structures[structure]
        return Slice(torch.from_numpy(image[:, 0]), torch.from_numpy(labels))


def prepare_slices(
    config: SliceBankConfig, manifest: Manifest, progress_bar: ProgressBar = no_progress_bar
) -> None:
    """Check and preprocess those cases of a collection that train the task and are not yet.

    Args:
        config: of the run.
        manifest: of its package.
        progress_bar: shows how far it is.

    Raises:
        InputError: there is no training case, a data set leaves structures or voxels unknown, or see
            `check_and_prepare`.
    """
    data, collection = config.collection, training_collection(config, manifest)
    if data is None or collection is None:
        return
    _cases_of_task(collection, manifest.tasks[0], "training")
    check_and_prepare(
        collection,
        config.preprocessing,
        _prepared(config, data),
        data.label_resampling,
        max(1, config.workers),
        progress_bar,
    )


def open_slices(config: SliceBankConfig, manifest: Manifest) -> SliceSource:
    """The slices to train on; `prepare_slices` comes before.

    Raises:
        InputError: see `CollectionSlices` and `PhantomSlices`.
    """
    (task,) = manifest.tasks
    if config.collection is None:
        return PhantomSlices(config.phantoms, config.preprocessing, task, config.seed)
    collection = read_collection(config.collection.collection)
    return CollectionSlices(collection, _prepared(config, config.collection), task)


def training_collection(config: SliceBankConfig, manifest: Manifest) -> Collection | None:
    """The data sets of a collection that train the task, with their cases; None for synthetic patients."""
    if config.collection is None:
        return None
    whole, task = read_collection(config.collection.collection), manifest.tasks[0].name
    cases = tuple(case for case in whole.cases if whole.data_sets[case.data_set].task == task)
    return replace(whole, cases=cases)


def open_validation_slices(config: SliceBankConfig, manifest: Manifest) -> SliceSource | None:
    """The slices to validate on, evenly spaced; None if there are none.

    Raises:
        InputError: as of `open_slices`.
    """
    (task,), wanted = manifest.tasks, config.validation_slices
    if wanted == 0:
        return None
    slices: SliceSource
    if config.collection is None:
        phantoms = replace(config.phantoms, count=ceil(wanted / config.phantoms.shape[0]))
        slices = PhantomSlices(phantoms, config.preprocessing, task, VALIDATION_SEED)
    else:
        collection = training_collection(config, manifest)
        if collection is None or not labelled_cases(collection, "validation"):
            return None
        slices = CollectionSlices(collection, _prepared(config, config.collection), task, "validation")
    numbers = np.linspace(0, len(slices) - 1, min(wanted, len(slices))).round().astype(int)
    return Subset(slices, numbers.tolist())  # type: ignore[arg-type] # a source is as good as a data set


def describe_validation(slices: SliceSource | None) -> str:
    """What a run is validated on, as in "256 slices of 12 cases"; "" for nothing."""
    if slices is None:
        return ""
    source, of = getattr(slices, "dataset", slices), ""
    if isinstance(source, CollectionSlices):
        numbers = getattr(slices, "indices", range(len(slices)))
        of = f" of {len({bisect_right(source.ends, number) for number in numbers})} cases"
    return f"{len(slices)} slices{of or ' of synthetic patients'}"


def _prepared(config: SliceBankConfig, data: CollectionSlicesConfig) -> Path:
    """Where the cases lie that were prepared as the configuration says."""
    return settings_folder(Path(data.prepared), config.preprocessing, data.label_resampling)


def _cases_of_task(collection: Collection, task: Task, split: str) -> list[Case]:
    """The labelled cases of those data sets that train the task.

    Raises:
        InputError: there is none, or a data set leaves structures or voxels unknown.
    """
    found = []
    for case in labelled_cases(collection, split):
        data_set = collection.data_sets[case.data_set]
        if data_set.task == task.name:
            _check_labels(data_set, task)
            found.append(case)
    if not found:
        raise InputError(
            f"The collection {collection.name} has no labelled {split} case for the task {task.name}; "
            "name the task of one of its data sets."
        )
    return found


def _check_labels(data_set: DataSet, task: Task) -> None:
    """Refuse a data set that leaves anything unknown."""
    missing = [structure for structure in task.structures if structure not in data_set.structures]
    if missing:
        raise InputError(
            f"The data set {data_set.name} has no labels of {', '.join(missing)}, but a softmax needs all "
            f"structures of the task {task.name}; leave it out, or label them."
        )
    if data_set.ignore:
        raise InputError(
            f"The data set {data_set.name} has voxels without labels (ignore), but a softmax needs all; "
            "leave it out, or complete it with pseudo-labels."
        )
