"""The training loop, in the open: batch, step, log, validation, checkpoint; and why a run stops early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import DeviceError, InputError, OutOfMemoryError
from ...pytorch.devices import explained_memory_errors
from .phased_run import PhasedRun, StepResult
from .run_lock import held
from .run_log import RunLog
from .stop_signals import noted_signals, stop
from .workers import Workers

_LOWEST_SCALE = 2.0**-16
"""Of a loss in float16, after 32 halvings: what overflows nevertheless is infinite or no number."""
CHECKPOINT_FILE, PACKAGE_FOLDER, LOCK_FILE = "checkpoint.pt", "package", ".lock"


def run_steps(
    run: PhasedRun,
    feed: Iterator[Any],
    log: RunLog,
    folder: Path,
    checkpoint_every: int,
    validate_every: int,
    validate: Callable[[], None],
) -> None:
    """Take all steps that are left, or those until a signal asks any of the processes to stop.

    Args:
        run: at any step.
        feed: what this process has of the batch of every step that is left.
        log: of the run.
        folder: of the run, for the checkpoint.
        checkpoint_every: steps; the last one leaves a checkpoint too, and so does one before a validation,
            which may take longer than whoever stops the run waits.
        validate_every: steps; after the last one the run is validated too. 0 only then.
        validate: sees how the network does.

    Raises:
        InputError: loss or gradient are no longer finite, or the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM (`Terminated`) has come; there is a checkpoint of the last step.
    """
    with noted_signals(alone=run.workers.size == 1) as noted:
        while run.step < run.iterations:
            result, waited = _timed_step(run, feed)
            _check_finite(result, run)
            mean, asked = run.workers.means([result.loss, float(bool(noted))])
            log.add_step(run.step, mean, result.rate, result.norm, waited, result.figures)
            done = run.step == run.iterations
            is_validated = not done and validate_every and run.step % validate_every == 0
            if done:  # a run that is stopped now takes its last steps again, and is validated
                validate()
            if done or asked or is_validated or run.step % checkpoint_every == 0:
                log.flush()
                if run.workers.leads:
                    run.save(folder / CHECKPOINT_FILE)
            if asked and not done:
                run.workers.wait()
                stop(noted)
            if is_validated:
                validate()


def _timed_step(run: PhasedRun, feed: Iterator[Any]) -> tuple[StepResult, float]:
    """Take a step, and say how many seconds it waited for its data."""
    asked = time.monotonic()
    batch = next(feed)
    waited = time.monotonic() - asked
    return run.take_step(batch), waited


def _check_finite(result: StepResult, run: PhasedRun) -> None:
    """Stop where nothing can be learned any more; in float16 both may overflow until their scale fits."""
    if math.isfinite(result.loss) and math.isfinite(result.norm):
        return
    if not run.scaler.is_enabled() or run.scaler.get_scale() < _LOWEST_SCALE:
        raise InputError(
            f"The loss ({result.loss:.3g}) or its gradient ({result.norm:.3g}) is no longer finite at step "
            f"{run.step}; lower the learning rate and start again: the run goes on from its last checkpoint."
        )


@contextmanager
def explained_exhaustion(workers: Workers, work: str, advice: str) -> Iterator[None]:
    """Say in one sentence that the memory does not suffice.

    Args:
        workers: the processes of the run.
        work: what was too much, as in "patches of [64, 192, 192]".
        advice: what to do, as in "choose smaller ones".

    Raises:
        OutOfMemoryError: out of memory.
    """
    try:
        with explained_memory_errors(workers.device):
            yield
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"Out of memory on {workers.device} with {work}; {advice}.") from error


@contextmanager
def explained_compilation(compiled: bool) -> Iterator[None]:
    """Say in one sentence that a compiled network failed; `torch.compile` makes code that may be wrong.

    Args:
        compiled: whether the network is compiled; nothing is explained otherwise.

    Raises:
        InputError: anything but our own errors.
    """
    try:
        yield
    except (InputError, DeviceError):
        raise
    except Exception as error:
        if not compiled:
            raise
        raise InputError(
            f"The network failed as torch.compile of PyTorch {torch.__version__} has compiled it "
            f"({type(error).__name__}); set compile=false, the run goes on from its last checkpoint."
        ) from error


@contextmanager
def run_folder(output: str, leads: bool) -> Iterator[Path]:
    """Make the folder of a run, if it is not there yet, and keep other runs out of it until the block ends.

    Args:
        output: the folder.
        leads: whether this process keeps it for all of its run.

    Raises:
        InputError: it cannot be made or written to, or another run is at work in it.
    """
    folder = _made_folder(output)
    if not leads:
        yield folder
        return
    refusal = f"Another run is at work in {folder}; wait for its end, or choose another output folder."
    with held(folder / LOCK_FILE, refusal):
        yield folder


def _made_folder(output: str) -> Path:
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: {output} cannot be made a folder ({error.strerror}); choose another place."
        ) from None
    return Path(output)


def check_batch(batch_size: int, items: str, workers: Workers, accumulate: int = 1) -> None:
    """Refuse a batch that processes, and their parts of it, cannot share equally.

    Args:
        batch_size: of all processes together.
        items: what a batch is made of, as in "images".
        workers: the processes of the run.
        accumulate: parts into which each process divides what it has.

    Raises:
        InputError: it is no multiple of processes times parts.
    """
    parts = workers.size * accumulate
    if batch_size % parts:
        raise InputError(
            f"batch_size: {batch_size} {items} cannot be shared by {workers.size} processes in {accumulate} "
            f"parts; choose a multiple of {parts}."
        )
