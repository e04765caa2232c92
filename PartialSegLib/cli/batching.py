"""The command `batch`: many images, one segmentation file each, the model loaded once."""

from __future__ import annotations

import logging
from argparse import Namespace
from time import perf_counter
from typing import TYPE_CHECKING

from ..batch import Batch, BatchCase, BatchRequest, Outcome
from ..errors import Cancelled, DeviceError, InputError, OutOfMemoryError
from ..failures import describe_failure, is_fault_of_ours
from ..manifest import read_manifest
from ..packages import find_package
from ..segmentation import write_segmentation
from .segmenting import bundled_model, check_folder, open_session, read_ct
from .terminal import progress_bar, write_line

if TYPE_CHECKING:
    from ..session import InferenceSession

logger = logging.getLogger(__name__)


def batch(options: Namespace) -> None:
    """Segment what is left of a batch; a case that fails is written down, and the next one begins.

    Raises:
        InputError: an input or the output cannot be used, or at least one case failed.
        DeviceError: the device is missing.
    """
    check_folder(options.output)
    folder = find_package(options.model or bundled_model())
    settings = {"overlap": options.overlap, "mirror": options.mirror}
    request = BatchRequest(
        read_manifest(folder), _names(options.task), _names(options.structure), options.format, settings
    )
    todo = Batch(options.input, options.output, request, options.overwrite)
    if earlier := len(todo.cases) - len(todo.left):
        write_line(f"{earlier} of {len(todo.cases)} cases were done before.")
    if todo.left:
        session = open_session(options, {})
        for number, case in enumerate(todo.left, 1):
            outcome = _try(case, session, options)
            todo.record(case, outcome)
            end = outcome.error or f"{outcome.seconds:.1f} s"
            write_line(f"{number} of {len(todo.left)}: {case.name}, {end}")
    write_line(f"The volumes are in {todo.summary}.")
    if todo.failed:
        raise InputError(
            f"{len(todo.failed)} of {len(todo.cases)} cases failed; "
            f"{todo.summary} says why, and the same command tries them again."
        )


def _try(case: BatchCase, session: InferenceSession, options: Namespace) -> Outcome:
    """Segment one image; whatever goes wrong with it alone is its outcome."""
    start = perf_counter()
    try:
        volumes = _segment(case, session, options)
    except OutOfMemoryError as error:  # another image may be smaller
        return _failure(error, start)
    except (Cancelled, DeviceError):
        raise
    except Exception as error:
        if is_fault_of_ours(error):
            logger.warning("%s:", case.name, exc_info=error)
        return _failure(error, start)
    finally:
        session.reset_image()
    return Outcome(perf_counter() - start, volumes)


def _segment(case: BatchCase, session: InferenceSession, options: Namespace) -> dict[tuple[str, str], float]:
    session.set_image(read_ct(case.image, options.force))
    with progress_bar() as show:
        found = session.predict(options.task, show, options.structure)
    write_segmentation(case.output, found)
    return {key: found.volume_ml(key) for key in found}


def _failure(error: Exception, start: float) -> Outcome:
    _, sentence, advice = describe_failure(error)
    return Outcome(perf_counter() - start, error=f"{sentence} {advice}".strip())


def _names(given: list[str] | None) -> tuple[str, ...] | None:
    return tuple(given) if given else None
