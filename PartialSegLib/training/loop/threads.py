"""Work on many cases at once in threads: reading compressed files leaves the interpreter free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


@contextmanager
def mapped(function: Callable[[T], Result], items: Iterable[T], workers: int) -> Iterator[Iterator[Result]]:
    """Give the results in the order of the items; leaving early drops the items not begun yet.

    Args:
        function: called in one of the threads.
        items: its arguments.
        workers: number of threads.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
