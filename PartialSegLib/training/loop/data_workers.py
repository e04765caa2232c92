"""Processes that prepare batches beside the training, and what is said when they cannot.

PyTorch waits without a deadline for locks that a process may hold for good when it is killed, and where it
can, it raises anywhere in a step instead. So a thread waits for it, which can be left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from math import ceil
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ...errors import InputError
from .stop_signals import heed_parent_only

PREFETCHED = 4  # batches that each data worker has ready
PATIENCE_S = 600  # for one batch
SHUTDOWN_S = 60  # for the end of all data workers, each of which finishes its batch
SHARED_MEMORY = Path("/dev/shm")
_LOOK_S = 1.0  # how often is looked whether all data workers live
_OF_DATA_WORKERS = re.compile(
    r"DataLoader (worker \(|timed out)|shared memory|</?torch_\w+>|with the workers|ancdata"
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
            cannot be read, or a data worker that was ended or no longer answers.
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
        timeout=PATIENCE_S if count else 0,
        worker_init_fn=_begin,
        pin_memory=pinned,
    )
    return _without_errors(_from_workers(loader) if count else iter(loader))


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
    for batch in feed:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _from_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of data workers, which end with them.

    Raises:
        InputError: one of them was ended or no longer answers.
    """
    others = active_children()
    with _kept_signals():
        feed: Any = iter(loader)
    workers = [child for child in active_children() if child not in others]
    end = object()
    try:
        while (batch := _answer(_in_thread(partial(next, feed, end)), workers)) is not end:
            yield batch
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        raise _lost_worker("it broke off in the middle of a batch") from error
    except RuntimeError as error:
        if not _OF_DATA_WORKERS.search(str(error)):
            raise
        raise _lost_worker(str(error).splitlines()[0].rstrip(" .")) from error
    finally:
        shut_down = getattr(feed, "_shutdown_workers", lambda: None)  # other versions may call it otherwise
        wait([_in_thread(shut_down)], 1 if _broken(workers) else SHUTDOWN_S)
        for worker in workers:
            worker.terminate()


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Begin work that may never end, in a thread that nobody has to wait for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="data workers", daemon=True).start()
    return future


def _answer(waiting: Future[Any], workers: Sequence[BaseProcess]) -> Any:
    """What comes out, as long as all data workers live."""
    while not wait([waiting], _LOOK_S).done:
        if broken := _broken(workers):
            said = ", ".join(f"process {worker.pid}: exit code {worker.exitcode}" for worker in broken)
            raise _lost_worker(said)
    return waiting.result()


def _broken(workers: Sequence[BaseProcess]) -> list[BaseProcess]:
    return [worker for worker in workers if worker.exitcode not in (None, 0)]


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep PyTorch from raising in the main thread, wherever that is, when a data worker ends."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)  # None: of a program that embeds Python


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


def _lost_worker(said: str) -> InputError:
    full = f"memory or {SHARED_MEMORY}" if SHARED_MEMORY.exists() else "memory"
    return InputError(
        f"A process that prepares data has ended or hangs ({said}), mostly because the {full} is full; "
        "choose fewer `workers` and start the same command again: the run goes on from its last checkpoint."
    )


def _bytes(item: Any) -> int:
    """Size of an item that a data worker sends: a tuple of tensors, or an object that holds them."""
    parts = item if isinstance(item, tuple) else vars(item).values()
    return sum(part.nbytes for part in parts if part is not None)
