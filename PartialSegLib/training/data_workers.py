"""Processes that prepare batches beside the training, and what is said when they cannot.

PyTorch raises what goes wrong in them as a traceback of theirs, anywhere in a step, or waits for ever.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import InputError
from .cases import Cases
from .stop_signals import heed_parent_only

PREFETCHED = 4  # batches that each data worker has ready
PATIENCE_S = 600  # for one batch
SHARED_MEMORY = Path("/dev/shm")
_OF_DATA_WORKERS = re.compile(
    r"DataLoader (worker \(|timed out)|shared memory|</torch_\w+>|with the workers|ancdata"
)


def loaded(
    data: Dataset[Cases], order: Sequence[int], batch_size: int, count: int, pinned: bool
) -> Iterator[list[Cases]]:
    """Batches in an order.

    Args:
        data: gives the cases of an image by its number.
        order: numbers of all images.
        batch_size: images at a time.
        count: data workers; 0 prepares images in this process.
        pinned: put them into memory from which a GPU copies by itself.

    Raises:
        InputError: the machine has too little shared memory for what data workers send; later a case that
            cannot be read.
    """
    if count and order:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        check_shared_memory(processes * count * PREFETCHED * batch_size * _bytes(data[order[0]]))
    loader = DataLoader(
        Subset(_WithErrors(data), order),
        batch_size=batch_size,
        collate_fn=list,
        num_workers=count,
        prefetch_factor=PREFETCHED if count else None,
        persistent_workers=count > 0,
        timeout=PATIENCE_S if count else 0,
        worker_init_fn=heed_parent_only,
        pin_memory=pinned,
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
