"""The log of a run: `log.csv`, `validation.csv`, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import InputError
from ...files.output_files import replacing

logger = logging.getLogger(__name__)

LOG_FILE, VALIDATION_FILE = "log.csv", "validation.csv"
LOG_COLUMNS = ("step", "loss", "learning_rate", "gradient_norm", "seconds", "waited")
VALIDATION_COLUMNS = ("step", "task", "structure", "dice")
MESSAGE_SECONDS = 30.0


class RunLog:
    """Writes what happens, and says now and then how far the run is.

    Rows behind the step at which a run goes on were written by steps that its checkpoint does not hold; they
    are removed.

    Args:
        folder: of the run.
        step: finished steps.
        iterations: steps of the whole run.
        leads: whether this process writes; the others of the run say nothing.
        figures: further columns of `log.csv`.

    Raises:
        InputError: from each method; the disk is full, or the folder cannot be written to any more.
    """

    def __init__(
        self, folder: Path, step: int, iterations: int, leads: bool, figures: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.iterations = iterations
        self.leads = leads
        self._first_step = step
        self._figures = tuple(figures)
        self._started = self._spoken = time.monotonic()
        if not leads:
            return
        with self._explained_errors(), ExitStack() as opened:
            self._files = [
                opened.enter_context(_opened(folder / name, columns, step))
                for name, columns in (
                    (LOG_FILE, LOG_COLUMNS + self._figures),
                    (VALIDATION_FILE, VALIDATION_COLUMNS),
                )
            ]
            self._log, self._validation = (csv.writer(file) for file in self._files)
            self._board = _tensorboard(folder, step)
            if self._board is not None:
                opened.callback(self._board.close)
            self._opened = opened.pop_all()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; what goes wrong with that hides no earlier error."""
        if not self.leads:
            return
        earlier = nullcontext() if error is None else suppress(InputError)
        with earlier, self._explained_errors():
            self._opened.close()

    def flush(self) -> None:
        """Bring the rows written so far to the disk."""
        with self._explained_errors():
            for file in self._files if self.leads else ():
                file.flush()

    def add_step(
        self,
        step: int,
        loss: float,
        rate: float,
        norm: float,
        waited: float,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """One finished step.

        Args:
            step: its number, from 1.
            loss: of its batch.
            rate: learning rate.
            norm: of the gradient, before clipping.
            waited: seconds for which the step waited for data.
            figures: for further columns; those that are missing stay empty.
        """
        if not self.leads:
            return
        now = time.monotonic()
        seconds = now - self._started
        figures = figures or {}
        further = (f"{figures[name]:.6g}" if name in figures else "" for name in self._figures)
        row = (step, repr(loss), f"{rate:.6g}", f"{norm:.6g}", f"{seconds:.2f}", f"{waited:.3f}", *further)
        with self._explained_errors():
            self._log.writerow(row)
            if self._board is not None:
                for name, value in {"loss": loss, "learning rate": rate, **figures}.items():
                    self._board.add_scalar(name, value, step)
        if now - self._spoken > MESSAGE_SECONDS or step == self.iterations:
            self._spoken = now
            left = seconds / (step - self._first_step) * (self.iterations - step)
            logger.info("step %d of %d, loss %.4f, %s left", step, self.iterations, loss, duration(left))

    def add_validation(
        self, step: int, scores: Mapping[tuple[str, str], float], parts: str = "patches"
    ) -> None:
        """Dice by (task, structure) after a step, and what of the images it was taken on."""
        if not self.leads:
            return
        with self._explained_errors():
            for (task, structure), dice in scores.items():
                self._validation.writerow((step, task, structure, f"{dice:.4f}"))
                if self._board is not None:
                    self._board.add_scalar(f"Dice/{task}/{structure}", dice, step)
        listed = ", ".join(f"{task}/{structure} {dice:.3f}" for (task, structure), dice in scores.items())
        logger.info("step %d, Dice on %s: %s", step, parts, listed)

    @contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"The log cannot be written to {self.folder} ({error.strerror or error}); free space and "
                "start again: the run goes on from its last checkpoint."
            ) from None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log; none if there is no file.

    Raises:
        InputError: it is no log, such as one that another program has saved with semicolons.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values()]  # the last one may be half written
            if "step" not in (reader.fieldnames or ["step"]):
                raise ValueError("it has no column step")
            return [row for row in rows if int(row["step"])]
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is not as a run has written it ({error}); rename it and start again: the run goes on "
            "from its last checkpoint, with a new log."
        ) from None


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _opened(path: Path, columns: tuple[str, ...], step: int) -> Any:
    """A log to append to, with its rows up to a step."""
    rows = [row for row in read_rows(path) if int(row["step"]) <= step]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path.open("a", newline="", encoding="utf-8")


def _tensorboard(folder: Path, step: int) -> Any | None:
    """A writer for TensorBoard, if that is installed; it drops what it has of later steps."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
