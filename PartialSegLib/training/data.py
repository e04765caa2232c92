"""Where the cases of a run come from, and the order in which its processes read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch.utils.data import DataLoader, Dataset, Subset

from ..cli.terminal import progress_bar
from ..errors import InputError
from ..manifest import Manifest
from .case_check import NO_FOREGROUND, check_cases, fault_rows
from .cases import Cases, SyntheticCases
from .collection import Collection, read_collection
from .config import CollectionData, TrainingConfig
from .patches.collection_cases import CollectionCases
from .preparation.prepared_cases import prepare_collection, unprepared_cases
from .workers import Workers

VALIDATION_SEED = 1


def training_cases(config: TrainingConfig, manifest: Manifest, channels: int) -> Dataset[Cases]:
    """The images of all steps, one after the other: each a pure function of the seed and its number.

    Args:
        config: of the run.
        manifest: of its package.
        channels: K, of the network's heads.
    """
    length = config.iterations * config.batch_size
    if config.collection is None:
        return SyntheticCases(config, manifest.tasks, channels, length)
    return _collection_cases(config, config.collection, manifest, channels, length, "training")


def validation_cases(config: TrainingConfig, manifest: Manifest, channels: int) -> Dataset[Cases] | None:
    """A few images that training never sees; None if there are none."""
    if config.synthetic is not None:
        number, all_tasks = config.synthetic.validation_images, len(manifest.tasks)
        config = replace(config, synthetic=replace(config.synthetic, cases_per_image=all_tasks))
        return SyntheticCases(config, manifest.tasks, channels, number, VALIDATION_SEED) if number else None
    assert config.collection is not None
    number = config.collection.validation_patches
    if number == 0 or not read_collection(config.collection.collection).split("validation"):
        return None
    return _collection_cases(config, config.collection, manifest, channels, number, "validation")


def batches(
    data: Dataset[Cases], config: TrainingConfig, workers: Workers, step: int
) -> Iterator[list[Cases]]:
    """The images of this process for every step from `step` on.

    Image number `step * batch_size + n` is the same whoever reads it and however often the run was stopped.
    """
    own = config.batch_size // workers.size
    first = workers.rank * own
    order = [
        s * config.batch_size + first + n for s in range(step, config.iterations) for n in range(own)
    ]  # fmt: skip
    loader = DataLoader(
        Subset(data, order),
        batch_size=own,
        collate_fn=list,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        persistent_workers=config.workers > 0,
    )
    return iter(loader)


def prepare(config: TrainingConfig, manifest: Manifest) -> None:
    """Check and preprocess the cases of a collection that are not yet.

    Raises:
        InputError: with a table of all faulty cases; nothing is prepared then.
    """
    if config.collection is None:
        return
    data = config.collection
    collection = _of_tasks(read_collection(data.collection), manifest)
    place = (config.preprocessing, Path(data.prepared))
    new = replace(collection, cases=unprepared_cases(collection, *place, rule=data.label_resampling))
    with progress_bar("case checked") as on_progress:
        faults = check_cases(new, on_progress, data.preparing_processes)
    faults = [fault for fault in faults if fault.kind != NO_FOREGROUND]  # a patient without tumour is one
    if faults:
        rows = "\n".join("  ".join(row) for row in fault_rows(faults)[1])
        raise InputError(
            f"{len(faults)} faults in the cases; repair these files or leave the cases out:\n{rows}"
        )
    with progress_bar("case") as on_progress:
        prepare_collection(
            collection,
            *place,
            rule=data.label_resampling,
            processes=data.preparing_processes,
            on_progress=on_progress,
        )


def _collection_cases(
    config: TrainingConfig,
    data: CollectionData,
    manifest: Manifest,
    channels: int,
    length: int,
    split: Literal["training", "validation"],
) -> Dataset[Cases]:
    """Patches of one split; those for validation are not augmented, and placed by the foreground."""
    training = split == "training"
    return CollectionCases(
        Path(data.prepared),
        _of_tasks(read_collection(data.collection), manifest),
        manifest.tasks,
        channels,
        config.patch_size,
        length=length,
        seed=config.seed if training else (config.seed, VALIDATION_SEED),
        split=split,
        case_sampling=data.case_sampling,
        place=data.place,
        foreground=data.foreground if training else 1.0,
        padding=manifest.inference.padding,
        augmentation=data.chosen_augmentation() if training else None,
    )


def _of_tasks(collection: Collection, manifest: Manifest) -> Collection:
    """The part of a collection that trains the tasks of a model.

    A model of one task takes all data sets if none of them names its task.
    """
    names = {task.name for task in manifest.tasks}
    data_sets = {name: data_set for name, data_set in collection.data_sets.items() if data_set.task in names}
    if not data_sets and len(names) == 1:
        return collection
    return replace(
        collection,
        data_sets=data_sets,
        cases=tuple(case for case in collection.cases if case.data_set in data_sets),
    )
