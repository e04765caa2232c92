"""Training patches of the cases of a collection, each labelled for the task that its data set trains."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import InputError
from ...manifest import Task
from ...sentences import suggestion
from ..cases import STREAMS, Cases
from ..collection import Case, Collection, DataSet, tasks_of
from ..label_bits import to_bits
from ..preparation.case_store import PreparedCase, Size
from ..preparation.prepared_cases import find_case, labelled_cases
from .augmentation import Augmentation, monai_transforms
from .intensities import disturb_intensities
from .sampling import CaseSampling, Padding, Place, case_probabilities, cases_in_turn, choose_start
from .spatial_transform import draw_spatial_transform

ORDER = 2  # a stream of random numbers beside `STREAMS`


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """A prepared case and what its labels say of a task.

    Attributes:
        case: on disk.
        data_set: whose labels these are.
        task: index of the model's task.
        channels: for each annotated structure of the task its channel and its values in the label map.
    """

    case: PreparedCase
    data_set: DataSet
    task: int
    channels: dict[int, tuple[int, ...]]

    def with_labels(self, image: Tensor, labels: Tensor, num_structures: int) -> Cases:
        """One case of an image (C, D, H, W) and a label map (D, H, W) of whole numbers.

        Structures of the task that the data set does not list are not annotated. Voxels with a value that the
        data set ignores belong to no structure and are marked.
        """
        bits = torch.zeros(1, num_structures, -(-labels.numel() // 8), dtype=torch.uint8)
        annotated = torch.zeros(1, num_structures, dtype=torch.bool)
        for channel, values in self.channels.items():
            bits[0, channel] = to_bits(_has_value(labels, values))
            annotated[0, channel] = True
        nothing = torch.empty(0, dtype=torch.int64)
        ignore = self.data_set.ignore
        ignored = _has_value(labels, ignore) if ignore else None
        return Cases(image, torch.tensor([self.task]), bits, annotated, nothing, nothing, ignored)


class CollectionCases(Dataset[Cases]):
    """Patches of a collection, one case each: a pure function of (seed, split, index).

    Neither the number of workers nor where a run was interrupted changes a patch. Cases are drawn with
    replacement, as in nnU-Net; DoDNet's code goes through all cases in random order. For validation tasks
    take turns, see `cases_in_turn`. Where an image is smaller than what a patch is made from, the missing
    voxels have the intensity outside the image and are labelled background, as in DoDNet's code: so the
    network learns that nothing is there.

    Args:
        folder: with the prepared cases, see `training.preparation`.
        collection: whose cases.
        tasks: of the model; which one a data set trains says `tasks_of`.
        num_structures: K, the output channels of the network's head.
        patch_size: voxels (z, y, x).
        length: number of patches.
        seed: of everything.
        split: of the collection.
        case_sampling, place, foreground: see `sampling`.
        padding: where voxels are added to small images, as at inference.
        augmentation: what is done to the patches.

    Raises:
        InputError: a task has no training case, a data set has no task, a case is not prepared, or MONAI is
            missing and asked for.
    """

    def __init__(
        self,
        folder: Path,
        collection: Collection,
        tasks: tuple[Task, ...],
        num_structures: int,
        patch_size: Size,
        *,
        length: int,
        seed: int = 0,
        split: Literal["training", "validation"] = "training",
        case_sampling: CaseSampling = "uniform",
        place: Place = "dodnet",
        foreground: float = 0.8,
        padding: Padding = "end",
        augmentation: Augmentation | None = None,
    ) -> None:
        self.cases = labelled_cases_of_tasks(folder, collection, tasks, split)
        names = [case.data_set.name for case in self.cases]
        self.cumulative = np.cumsum(case_probabilities(names, case_sampling))
        self.num_structures, self.patch_size = num_structures, patch_size
        self.length = length
        self.seed, self.stream = seed, STREAMS[split]
        self.order: list[int] | None = None
        if split == "validation":
            keys = [(case.task, case.data_set.name) for case in self.cases]
            self.order = cases_in_turn(keys, length, np.random.default_rng([seed, ORDER, 0]))
        self.place: Place = place
        self.foreground = foreground
        self.padding: Padding = padding
        self.augmentation = augmentation or Augmentation()
        if self.augmentation != Augmentation():
            monai_transforms()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Cases:
        """Make patch number `index`."""
        rng = np.random.default_rng([self.seed, self.stream, index])
        chosen = self.cases[self._drawn(rng) if self.order is None else self.order[index]]
        transform = draw_spatial_transform(self.augmentation, rng)
        covered, crop = transform.scaled_size(self.patch_size), transform.crop_size(self.patch_size)
        where = self.place, self.foreground, self.padding
        first = choose_start(chosen.case, list(chosen.channels.values()), covered, *where, rng)
        z, y, x = (f - (whole - part) // 2 for f, whole, part in zip(first, crop, covered, strict=True))
        image = torch.from_numpy(chosen.case.read_image((z, y, x), crop))
        labels = torch.from_numpy(chosen.case.read_labels((z, y, x), crop))
        image, labels = transform.apply(image, labels, self.patch_size)
        image = disturb_intensities(image, self.augmentation, rng)
        return chosen.with_labels(image, labels, self.num_structures)

    def _drawn(self, rng: np.random.Generator) -> int:
        """Number of a case for training."""
        number = np.searchsorted(self.cumulative, rng.random(), side="right")
        return min(int(number), len(self.cases) - 1)


def labelled_cases_of_tasks(
    folder: Path, collection: Collection, tasks: tuple[Task, ...], split: str
) -> list[LabelledCase]:
    """The labelled cases of a split with the tasks that they train, in the order of the collection.

    Raises:
        InputError: see `cases_of_tasks`, or a case is not prepared.
    """
    return [
        LabelledCase(find_case(folder, collection, case), collection.data_sets[case.data_set], task, channels)
        for case, task, channels in cases_of_tasks(collection, tasks, split)
    ]


def cases_of_tasks(
    collection: Collection, tasks: tuple[Task, ...], split: str
) -> list[tuple[Case, int, dict[int, tuple[int, ...]]]]:
    """The same before they are prepared: each with its `task` and `channels`, see `LabelledCase`.

    Raises:
        InputError: a task has no training case, or a data set no task or none of its structures.
    """
    found = []
    names = [task.name for task in tasks]
    numbers = tasks_of(collection, names)
    for case in labelled_cases(collection, split):
        data_set = collection.data_sets[case.data_set]
        if case.data_set not in numbers:
            raise InputError(
                f"The data set {data_set.name} trains the task {data_set.task}, which the model does not "
                f"have; {suggestion(data_set.task, names)}."
            )
        index = numbers[case.data_set]
        channels = {
            channel: data_set.structures[structure]
            for structure, channel in tasks[index].structures.items()
            if structure in data_set.structures
        }
        if not channels:
            raise InputError(
                f"The data set {data_set.name} has none of the structures of the task {tasks[index].name} "
                f"({', '.join(tasks[index].structures)}); correct its task or its structures."
            )
        found.append((case, index, channels))
    there = {index for _, index, _ in found}
    lacking = [task.name for index, task in enumerate(tasks) if index not in there]
    if lacking and (split == "training" or not found):
        left = json.dumps([task.name for index, task in enumerate(tasks) if index in there])
        raise InputError(
            f"The collection {collection.name} has no labelled {split} cases for {', '.join(lacking)}; "
            "add some (`partialseg data … --task` says what a data set trains)"
            + (f", or leave these tasks out (only_tasks={left})." if there else ".")
        )
    return found


def _has_value(labels: Tensor, values: tuple[int, ...]) -> Tensor:
    """Where a label map has one of some values."""
    found = labels == values[0]
    for value in values[1:]:
        found |= labels == value
    return found
