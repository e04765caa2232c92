"""Where the cases of a run come from, and the order in which its processes read them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from math import ceil
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
from .preparation.prepared_cases import prepare_collection, settings_folder, unprepared_cases
from .stop_signals import heed_parent_only
from .workers import Workers

logger = logging.getLogger(__name__)

VALIDATION_SEED = 1
PREFETCHED = 4  # batches that each data worker has ready
PATIENCE_S = 600  # for one batch
SHARED_MEMORY = Path("/dev/shm")
_OF_DATA_WORKERS = re.compile(
    r"DataLoader (worker \(|timed out)|shared memory|</torch_\w+>|with the workers|ancdata"
)


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
    order = [
        s * config.batch_size + first + n for s in range(step, config.iterations) for n in range(own)
    ]  # fmt: skip
    if config.workers and order:
        waiting = config.workers * PREFETCHED * own * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        check_shared_memory(waiting * _bytes(data[order[0]]))
    loader = DataLoader(
        Subset(_WithErrors(data), order),
        batch_size=own,
        collate_fn=list,
        num_workers=config.workers,
        prefetch_factor=PREFETCHED if config.workers else None,
        persistent_workers=config.workers > 0,
        timeout=PATIENCE_S if config.workers else 0,
        worker_init_fn=heed_parent_only,
        pin_memory=workers.device.type == "cuda",
    )
    return _without_errors(iter(loader))


class _WithErrors(Dataset[Cases | InputError]):
    """A data set that gives a user's mistake back: raised in a data worker it would be a traceback."""

    def __init__(self, data: Dataset[Cases]) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Cases | InputError:
        try:
            return self.data[index]
        except InputError as error:
            return error


def _without_errors(feed: Iterator[list[Cases | InputError]]) -> Iterator[list[Cases]]:
    """The batches, until one holds an error, which is raised."""
    try:
        for batch in feed:
            for item in batch:
                if isinstance(item, InputError):
                    raise item
            yield [item for item in batch if isinstance(item, Cases)]
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        raise _lost_worker("it broke off in the middle of a batch") from error
    finally:
        del feed  # a traceback would keep the data workers, which the garbage collector ends in 5 seconds


def check_shared_memory(needed: int, place: Path = SHARED_MEMORY) -> None:
    """Refuse a run whose data workers would wait for shared memory, or die of its lack.

    Args:
        needed: bytes of all batches that wait to be trained on.
        place: where shared memory shows its size; nothing is checked where there is no such place.

    Raises:
        InputError: less is free.
    """
    if not place.exists():
        return
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"workers: the batches that data workers prepare take up to {needed / 1e6:.0f} MB of shared "
            f"memory, but {place} has {free / 1e6:.0f} MB free; choose fewer `workers` (0 needs none), or "
            f"enlarge it (docker run --shm-size={ceil(needed / 1e9) + 1}g)."
        )


@contextmanager
def explained_data_workers() -> Iterator[None]:
    """Say in one sentence that a data worker was ended or no longer answers.

    Raises:
        InputError: as above; PyTorch may notice it anywhere in a step.
    """
    try:
        yield
    except RuntimeError as error:
        if not _OF_DATA_WORKERS.search(str(error)):
            raise
        raise _lost_worker(str(error).splitlines()[0].rstrip(" .")) from error


def _lost_worker(said: str) -> InputError:
    with suppress(RuntimeError):
        time.sleep(1)  # PyTorch raises once more when the system tells it of the death
    return InputError(
        f"A process that prepares data has ended or hangs ({said}), mostly because the memory or "
        f"{SHARED_MEMORY} is full; choose fewer `workers` and start the same command again: the run goes on "
        "from its last checkpoint."
    )


def _bytes(cases: Cases) -> int:
    """Size of what a data worker sends."""
    return sum(part.nbytes for part in vars(cases).values() if part is not None)


def prepare(config: TrainingConfig, manifest: Manifest) -> Path | None:
    """Check and preprocess the cases of a collection that are not yet.

    Returns:
        The folder of the prepared cases; None for synthetic ones.

    Raises:
        InputError: with a table of all faulty cases; nothing is prepared then.
    """
    if config.collection is None:
        return None
    data, whole = config.collection, read_collection(config.collection.collection)
    collection = _of_tasks(whole, config, manifest)
    _log_left_out(whole, collection, config)
    folder, rule = _prepared(config, data), data.label_resampling
    new = unprepared_cases(collection, config.preprocessing, folder, rule=rule)
    _refuse_faults(replace(collection, cases=new), data.preparing_processes)
    with progress_bar("case") as on_progress:
        prepare_collection(
            collection,
            config.preprocessing,
            folder,
            rule=rule,
            processes=data.preparing_processes,
            on_progress=on_progress,
        )
    return folder


def _refuse_faults(collection: Collection, processes: int) -> None:
    """Refuse cases that no run can use, all in one table."""
    with progress_bar("case checked") as on_progress:
        faults = check_cases(collection, on_progress, processes)
    faults = [fault for fault in faults if fault.kind != NO_FOREGROUND]  # a patient without tumour is one
    if faults:
        rows = "\n".join("  ".join(row) for row in fault_rows(faults)[1])
        raise InputError(
            f"{len(faults)} faults in the cases; repair these files or leave the cases out:\n{rows}"
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
        seed=config.seed if training else (config.seed, VALIDATION_SEED),
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
    """The part of a collection that trains the tasks of a model.

    A model of one task takes all data sets if none of them names its task.

    Raises:
        InputError: the task of a data set is misspelt.
    """
    names = {task.name for task in manifest.tasks}
    data_sets = {name: data_set for name, data_set in collection.data_sets.items() if data_set.task in names}
    if not data_sets and len(names) == 1:
        return collection
    known = _tasks_of_package(config)
    for data_set in collection.data_sets.values():
        if data_set.task not in known and (meant := _nearly_the_same(data_set.task, known)):
            raise InputError(
                f"The data set {data_set.name} trains the task {data_set.task}, the model has {meant}; name "
                "the task in collection and configuration alike, or take the data set out of the collection."
            )
    return replace(
        collection,
        data_sets=data_sets,
        cases=tuple(case for case in collection.cases if case.data_set in data_sets),
    )


def _log_left_out(whole: Collection, part: Collection, config: TrainingConfig) -> None:
    """Say which data sets are not trained on, unless `only_tasks` wants it so."""
    known = _tasks_of_package(config)
    for name, data_set in whole.data_sets.items():
        if name not in part.data_sets and data_set.task not in known:
            count = sum(case.data_set == name for case in whole.cases)
            logger.warning(
                "The data set %s (%d cases) is left out: the model has no task %s.",
                name,
                count,
                data_set.task,
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
