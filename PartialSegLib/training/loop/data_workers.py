"""Processes that prepare batches beside the training, and what is said when they cannot.

PyTorch raises what goes wrong in them as a traceback of theirs, anywhere in a step, or waits for ever.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ...errors import InputError
from .stop_signals import heed_parent_only

PREFETCHED = 4  # batches that each data worker has ready
PATIENCE_S = 600  # for one batch
SHARED_MEMORY = Path("/dev/shm")
_OF_DATA_WORKERS = re.compile(
    r"DataLoader (worker \(|timed out)|shared memory|</torch_\w+>|with the workers|ancdata"
)


def loaded(
    data: Dataset[Any],
    order: Iterable[list[Any]],
    count: int,
    pinned: bool,
    collate: Callable[[list[Any]], Any] = list,
) -> Iterator[Any]:
    """Batches in an order.

    Args:
        data: gives an item, made of tensors, by its key.
        order: keys of each batch, asked for as they are needed.
        count: data workers; 0 prepares batches in this process.
        pinned: put them into memory from which a GPU copies by itself.
        collate: makes a batch of its items.

    Raises:
        InputError: the machine has too little shared memory for what data workers send; later a case that
            cannot be read.
    """
    keys = iter(order)
    first = next(keys, None)
    if first is None:
        return iter(())
    if count:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        check_shared_memory(processes * count * PREFETCHED * len(first) * _bytes(data[first[0]]))
    loader = DataLoader(
        _WithErrors(data),
        batch_sampler=chain([first], keys),
        collate_fn=partial(_collated, collate=collate),
        num_workers=count,
        prefetch_factor=PREFETCHED if count else None,
        persistent_workers=count > 0,
        timeout=PATIENCE_S if count else 0,
        worker_init_fn=_begin,
        pin_memory=pinned,
    )
    return _without_errors(iter(loader))


def _begin(worker: int) -> None:
    """What a data worker does first: PyTorch gives it one thread, but NumPy's would spin on all cores."""
    heed_parent_only()
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)


class _WithErrors(Dataset[Any]):
    """A data set that gives a user's mistake back: raised in a data worker it would be a traceback."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.data[key]
        except InputError as error:
            return error


def _collated(items: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    """The batch of the items, or the first mistake among them."""
    return next((item for item in items if isinstance(item, InputError)), None) or collate(items)


def _without_errors(feed: Iterator[Any]) -> Iterator[Any]:
    """The batches, until one is an error, which is raised."""
    try:
        for batch in feed:
            if isinstance(batch, InputError):
                raise batch
            yield batch
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


def _bytes(item: Any) -> int:
    """Size of an item that a data worker sends: a tuple of tensors, or an object that holds them."""
    parts = item if isinstance(item, tuple) else vars(item).values()
    return sum(part.nbytes for part in parts if part is not None)
