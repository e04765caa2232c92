"""Cases one after the other, but reading, computing and writing at the same time.

While a case is computed, the next one is read and the one before it is written, each in a thread of its own.
At most one image waits to be computed, and at most one result to be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..errors import Cancelled, DeviceError, OutOfMemoryError

Case = TypeVar("Case")
Image = TypeVar("Image")
Found = TypeVar("Found")
Written = TypeVar("Written")


@dataclass(frozen=True)
class Stages(Generic[Case, Image, Found, Written]):
    """What is done with a case.

    Attributes:
        read: called in a thread of its own.
        compute: called in the caller's thread.
        write: called in a thread of its own.
    """

    read: Callable[[Case], Image]
    compute: Callable[[Case, Image], Found]
    write: Callable[[Case, Found], Written]


@dataclass(frozen=True)
class Attempt:
    """How a stage, or a case as a whole, went.

    Attributes:
        seconds: of its own stages, without waiting for other cases.
        value: what came out; None when it failed.
        error: why it failed; None when it did not.
    """

    seconds: float
    value: Any = None
    error: Exception | None = None

    @property
    def lacked_memory(self) -> bool:
        """Whether it may go well when nothing else is in memory."""
        return isinstance(self.error, MemoryError | OutOfMemoryError)

    def then(self, stage: Callable[..., Any], case: Any) -> Attempt:
        """Go on with the next stage, unless this one failed."""
        if self.error is not None:
            return self
        result = _attempt(stage, case, self.value)
        return Attempt(self.seconds + result.seconds, result.value, result.error)


def run_overlapped(
    cases: Sequence[Case],
    stages: Stages[Case, Image, Found, Written],
    finish: Callable[[Case, Attempt], object],
) -> None:
    """Run all cases; what goes wrong with one of them is its own, and the next one begins.

    A case that runs out of memory before it is written is tried again with nothing else in memory, so that
    the results are those of one case after the other. When the run is interrupted, the result that is being
    written is finished first.

    Args:
        cases: in this order.
        stages: what is done with each.
        finish: called in the caller's thread, in the order of the cases, with what `write` returned or the
            error of the case.

    Raises:
        Cancelled: by a stage.
        DeviceError: by a stage, other than lack of memory: further cases would fail, too.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        pipeline = _Pipeline(stages, finish, reader, writer)
        try:
            for number, case in enumerate(cases):
                pipeline.run(case, cases[number + 1 : number + 2])
            pipeline.finish_writing()
        finally:
            pipeline.finish_writing()


class _Pipeline:
    def __init__(
        self,
        stages: Stages[Any, Any, Any, Any],
        finish: Callable[[Any, Attempt], object],
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
    ) -> None:
        self._stages = stages
        self._finish = finish
        self._reader = reader
        self._writer = writer
        self._ahead: Future[Attempt] | None = None
        self._writing: tuple[Any, Future[Attempt]] | None = None

    def run(self, case: Any, following: Sequence[Any]) -> None:
        """Compute a case, and leave it to be written."""
        found = self._compute(case, following)
        if found.lacked_memory and (self._ahead is not None or self._writing is not None):
            self.finish_writing()
            self._drop_ahead()
            found = self._compute(case, [])
        self.finish_writing()
        if found.error is None:
            self._writing = case, self._writer.submit(found.then, self._stages.write, case)
        else:
            self._finish(case, found)

    def finish_writing(self) -> None:
        """Wait for the result that is being written, if there is one, and tell of it."""
        if self._writing is not None:
            case, written = self._writing
            result = written.result()  # an interruption here leaves it to be told of
            self._writing = None
            self._finish(case, result)

    def _compute(self, case: Any, following: Sequence[Any]) -> Attempt:
        image = _attempt(self._stages.read, case) if self._ahead is None else self._ahead.result()
        self._ahead = None
        for other in following:
            self._ahead = self._reader.submit(_attempt, self._stages.read, other)
        return image.then(self._stages.compute, case)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            if not self._ahead.cancel():
                self._ahead.result()
            self._ahead = None


def _attempt(stage: Callable[..., Any], *inputs: Any) -> Attempt:
    start = perf_counter()
    try:
        value = stage(*inputs)
        return Attempt(perf_counter() - start, value)
    except (MemoryError, OutOfMemoryError) as error:
        kind = MemoryError if isinstance(error, MemoryError) else OutOfMemoryError
        again = kind(str(error))  # without the traceback, which holds on to what filled the memory
        return Attempt(perf_counter() - start, error=again)
    except (Cancelled, DeviceError):
        raise
    except Exception as error:
        return Attempt(perf_counter() - start, error=error)
