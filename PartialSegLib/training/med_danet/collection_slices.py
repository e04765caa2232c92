"""The slices of a collection's cases, for Med-DANet: every pixel has one label."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from ...errors import InputError
from ...manifest import Manifest, Task
from ..collection import Collection, DataSet, read_collection
from ..preparation.case_store import PreparedCase
from ..preparation.prepared_cases import find_case, labelled_cases, prepare_collection
from .config import SliceBankConfig
from .slices import PhantomSlices, Slice, SliceSource


class CollectionSlices:
    """The axial slices of the training cases of those data sets that train the task.

    A softmax needs a class for every pixel: all structures of the task are labelled in all of these data
    sets. Of structures that overlap the one with the higher channel is the label: an organ comes before its
    tumour.

    Args:
        collection: whose cases.
        prepared: folder where they lie preprocessed, see `prepare_collection`.
        task: the structures and their channels.

    Raises:
        InputError: there is no case, one is not prepared, or a data set leaves structures or voxels unknown.
    """

    def __init__(self, collection: Collection, prepared: Path, task: Task) -> None:
        self.task = task
        self.cases: list[tuple[PreparedCase, DataSet]] = []
        for case in labelled_cases(collection, "training"):
            data_set = collection.data_sets[case.data_set]
            if data_set.task == task.name:
                _check_labels(data_set, task)
                self.cases.append((find_case(prepared, case), data_set))
        if not self.cases:
            raise InputError(
                f"The collection {collection.name} has no labelled training case for the task {task.name}; "
                "name the task of one of its data sets."
            )
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


def open_slices(config: SliceBankConfig, manifest: Manifest) -> SliceSource:
    """The slices that a configuration names; cases of a collection are preprocessed if they are not yet.

    Raises:
        InputError: see `CollectionSlices` and `prepare_collection`.
    """
    (task,) = manifest.tasks
    if config.collection is None:
        return PhantomSlices(config.phantoms, config.preprocessing, task, config.seed)
    collection, prepared = read_collection(config.collection.collection), Path(config.collection.prepared)
    prepare_collection(
        collection,
        config.preprocessing,
        prepared,
        rule=config.collection.label_resampling,
        processes=max(1, config.workers),
    )
    return CollectionSlices(collection, prepared, task)


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
