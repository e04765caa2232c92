"""Where the cases of a run come from, and the order in which its processes read them."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from ..errors import InputError
from ..manifest import Manifest, Preprocessing
from ..sentences import first_few
from .cases import Cases, SyntheticCases
from .collection import Collection, DataSet, read_collection, tasks_of
from .collection.case_check import NO_HOUNSFIELD, check_cases, fault_rows
from .config import CollectionData, TrainingConfig
from .loop.data_workers import loaded
from .loop.workers import Workers
from .patches.collection_cases import CollectionCases, cases_of_tasks
from .preparation.prepared_cases import (
    Progress,
    labelled_cases,
    prepare_collection,
    prepared_images,
    settings_folder,
)
from .preparation.preparing import LabelRule

logger = logging.getLogger(__name__)

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Makes, for the name of what is counted, a callback (done, total) as `cli.terminal.progress_bar` does."""


@contextmanager
def no_progress_bar(unit: str) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda done, total: None


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
        return SyntheticCases(config, manifest.tasks, channels, number, "validation") if number else None
    assert config.collection is not None
    number = config.collection.validation_patches
    whole = read_collection(config.collection.collection)
    if number == 0 or not whole.split("validation"):
        return None
    cases, served = None, set()
    if labelled_cases(_of_tasks(whole, config, manifest), "validation"):
        cases = _collection_cases(config, config.collection, manifest, channels, number, "validation")
        served = {cases.cases[number].task for number in cases.order or ()}
    if left_out := [task.name for index, task in enumerate(manifest.tasks) if index not in served]:
        logger.warning("Not validated, for want of validation cases or patches: %s.", ", ".join(left_out))
    return cases


def batches(
    data: Dataset[Cases], config: TrainingConfig, workers: Workers, step: int
) -> Iterator[list[Cases]]:
    """The images of this process for every step from `step` on.

    Image number `step * batch_size + n` is the same whoever reads it and however often the run was stopped.

    Raises:
        InputError: the machine has too little shared memory for what data workers send; later a case that
            cannot be read.
    """
    own = config.batch_size // workers.size
    first = workers.rank * own
    starts = (first + s * config.batch_size for s in range(step, config.iterations))
    order = (list(range(start, start + own)) for start in starts)
    return loaded(data, order, config.workers, workers.device.type == "cuda")


def prepare(
    config: TrainingConfig, manifest: Manifest, progress_bar: ProgressBar = no_progress_bar
) -> Path | None:
    """Check and preprocess the cases of a collection that are not yet.

    Args:
        config: of the run.
        manifest: of its package.
        progress_bar: shows how far it is.

    Returns:
        The folder of the prepared cases; None for synthetic ones.

    Raises:
        InputError: a task has no training case, or cases are faulty, with a table of them all; nothing is
            prepared then.
    """
    if config.collection is None:
        return None
    data, whole = config.collection, read_collection(config.collection.collection)
    collection = _of_tasks(whole, config, manifest)
    _log_left_out(whole, collection, config)
    _log_untrained(collection, manifest)
    cases_of_tasks(collection, manifest.tasks, "training")
    folder = _prepared(config, data)
    how = data.label_resampling, data.preparing_processes, progress_bar
    check_and_prepare(collection, config.preprocessing, folder, *how)
    return folder


def training_collection(config: TrainingConfig, manifest: Manifest) -> Collection | None:
    """The part of a collection that a run is about; None where its cases are made on the fly.

    Raises:
        InputError: the task of a data set is misspelt.
    """
    if config.collection is None:
        return None
    return _of_tasks(read_collection(config.collection.collection), config, manifest)


def check_and_prepare(
    collection: Collection,
    preprocessing: Preprocessing,
    folder: Path,
    rule: LabelRule,
    processes: int,
    progress_bar: ProgressBar = no_progress_bar,
) -> None:
    """Check and preprocess those cases that are not yet, with progress bars; see `prepare_collection`.

    Whether an image is in two splits is checked for all cases, prepared or not.

    Raises:
        InputError: with a table of all faulty cases; nothing is prepared then.
    """
    used = replace(collection, cases=tuple(labelled_cases(collection)))
    prepared = prepared_images(used, preprocessing, folder, rule=rule)
    _refuse_faults(used, prepared, processes, progress_bar)
    with progress_bar("case") as on_progress:
        prepare_collection(
            collection, preprocessing, folder, rule=rule, processes=processes, on_progress=on_progress
        )


def _refuse_faults(
    collection: Collection, prepared: Mapping[str, str], processes: int, progress_bar: ProgressBar
) -> None:
    """Refuse cases that no run can use, all in one table."""
    with progress_bar("case checked") as on_progress:
        faults = check_cases(collection, on_progress, processes, prepared)
    if doubtful := [fault.case for fault in faults if fault.kind == NO_HOUNSFIELD]:
        logger.warning(
            "The values of %d CTs are hardly HU, and a model trained on them will not fit others: %s; "
            "`partialseg data check` says why.",
            len(doubtful), first_few(doubtful, 3),
        )  # fmt: skip
    faults = [fault for fault in faults if not fault.is_taken]
    if faults:
        rows = "\n".join("  ".join(row) for row in fault_rows(faults)[1])
        raise InputError(
            f"{len(faults)} faults in the cases; repair these files, or make the collection again without "
            f"these cases (`partialseg data … --exclude NAME`):\n{rows}"
        )


def _collection_cases(
    config: TrainingConfig,
    data: CollectionData,
    manifest: Manifest,
    channels: int,
    length: int,
    split: Literal["training", "validation"],
) -> CollectionCases:
    """Patches of one split; those for validation are not augmented, and placed by the foreground."""
    training = split == "training"
    return CollectionCases(
        _prepared(config, data),
        _of_tasks(read_collection(data.collection), config, manifest),
        manifest.tasks,
        channels,
        config.patch_size,
        length=length,
        seed=config.seed,
        split=split,
        case_sampling=data.case_sampling,
        place=data.place,
        foreground=data.foreground if training else 1.0,
        padding=manifest.inference.padding,
        augmentation=data.chosen_augmentation() if training else None,
    )


def _prepared(config: TrainingConfig, data: CollectionData) -> Path:
    """Where the cases lie that were prepared as the configuration says."""
    return settings_folder(Path(data.prepared), config.preprocessing, data.label_resampling)


def _of_tasks(collection: Collection, config: TrainingConfig, manifest: Manifest) -> Collection:
    """The part of a collection that trains the tasks of a model, see `tasks_of`.

    Raises:
        InputError: the task of a data set is misspelt.
    """
    trained = tasks_of(collection, [task.name for task in manifest.tasks])
    known = _tasks_of_package(config)
    for name, data_set in collection.data_sets.items():
        is_unknown = name not in trained and data_set.task not in known
        if is_unknown and (meant := _nearly_the_same(data_set.task, known)):
            raise InputError(
                f"The data set {data_set.name} trains the task {data_set.task}, the model has {meant}; name "
                "the task in collection and configuration alike, or take the data set out of the collection."
            )
    return replace(
        collection,
        data_sets={name: collection.data_sets[name] for name in trained},
        cases=tuple(case for case in collection.cases if case.data_set in trained),
    )


def _log_left_out(whole: Collection, part: Collection, config: TrainingConfig) -> None:
    """Say which data sets are not trained on, unless `only_tasks` wants it so."""
    known = _tasks_of_package(config)
    for name, data_set in whole.data_sets.items():
        if name not in part.data_sets and data_set.task not in known:
            count = sum(case.data_set == name for case in whole.cases)
            logger.warning(
                "The data set %s (%d cases) is left out: the model has no task %s%s.",
                name,
                count,
                data_set.task,
                _task_advice(data_set, config),
            )


def _task_advice(data_set: DataSet, config: TrainingConfig) -> str:
    """How to train a data set: the task that has most of its structures, or a task of one's own."""
    shared = {
        task["name"]: len(data_set.structures.keys() & task["structures"].keys())
        for task in config.package["tasks"]
    }
    name = max(shared, key=shared.__getitem__)
    if not shared[name]:
        return (
            ", nor any of its structures; give the configuration a task that has them (`package.tasks`, see "
            "docs/training.md), or name them as the model does when the collection is made (`--label`)"
        )
    return f"; to train {name} on it, make the collection again with `--task {json.dumps(name)}`"


def _log_untrained(collection: Collection, manifest: Manifest) -> None:
    """Say which structures no training case annotates, and which labels no task has."""
    tasks = {task.name: task for task in manifest.tasks}
    numbers = tasks_of(collection, list(tasks))
    names = dict.fromkeys(case.data_set for case in labelled_cases(collection, "training"))
    annotated: dict[str, set[str]] = defaultdict(set)
    for data_set in (collection.data_sets[name] for name in names):
        task = manifest.tasks[numbers[data_set.name]]
        annotated[task.name] |= data_set.structures.keys()
        if unused := [structure for structure in data_set.structures if structure not in task.structures]:
            logger.warning(
                "Labels of the data set %s are not used, the task %s of the model does not have them: %s.",
                data_set.name,
                task.name,
                ", ".join(unused),
            )
    lacking = [
        f"{name}/{structure}"
        for name, structures in annotated.items()
        for structure in tasks[name].structures
        if structure not in structures
    ]
    if lacking:
        logger.warning(
            "No training case annotates %s: the model will not learn this. Name the labels of the collection "
            "as the model does (`--label` of `partialseg data`), or take this out of the configuration.",
            ", ".join(lacking),
        )


def _tasks_of_package(config: TrainingConfig) -> list[str]:
    """All tasks of the package, also those that `only_tasks` leaves out."""
    return [task["name"] for task in config.package["tasks"]]


def _nearly_the_same(name: str, names: Sequence[str]) -> str | None:
    """The name that differs in case or a letter or two, but in no digit."""
    digits = re.compile(r"\D")
    alike = {other.casefold(): other for other in names if digits.sub("", other) == digits.sub("", name)}
    close = get_close_matches(name.casefold(), alike, n=1, cutoff=0.85)
    return alike[close[0]] if close else None
