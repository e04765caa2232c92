"""The command `batch`: many images, one segmentation file each, the model loaded once."""

from __future__ import annotations

import logging
from argparse import Namespace
from itertools import count
from typing import TYPE_CHECKING

from ..batch.cases import BatchCase, Outcome
from ..batch.pipeline import Attempt, Stages, run_overlapped
from ..batch.request import BatchRequest, settings_of
from ..batch.running import Batch
from ..errors import InputError
from ..failures import is_fault_of_ours, sentence
from ..manifest import read_manifest
from ..overview.picture import check_drawing, write_overview
from ..packages.installed import find_package
from ..segmentation import Segmentation
from ..segmentation_files.formats import write_segmentation
from ..structures import structure_or_tissue
from ..volume import Volume, read_ct
from .segmenting import (
    FORCE_ADVICE,
    bundled_model,
    check_folder,
    check_session_options,
    given_names,
    open_session,
    picture_title,
)
from .terminal import progress_bar, write_line

if TYPE_CHECKING:
    from ..session import InferenceSession

_NUM_NAMED = 3

logger = logging.getLogger(__name__)


def batch(options: Namespace) -> None:
    """Segment what is left of a batch; a case that fails is written down, and the next one begins.

    Raises:
        InputError: an input or the output cannot be used, or at least one case failed.
        DeviceError: the device is missing.
    """
    check_folder(options.output)
    check_session_options(options)
    folder = find_package(options.model or bundled_model())
    names = given_names(options.task), given_names(options.structure)
    request = BatchRequest(read_manifest(folder), *names, options.format, settings_of(vars(options)))
    if options.pictures:
        check_drawing()
    given = options.input, options.output, request, options.overwrite, options.force, options.pictures
    todo = Batch(*given)
    if earlier := len(todo.cases) - len(todo.left):
        write_line(f"{earlier} of {len(todo.cases)} cases were done before.")
    if todo.left:
        _run(todo, open_session(options, {}), options)
    write_line(f"The volumes are in {todo.summary}.")
    if todo.failed:
        raise InputError(
            f"{len(todo.failed)} of {len(todo.cases)} cases failed; "
            f"{todo.summary} says why, and the same command tries them again."
        )


def _run(todo: Batch, session: InferenceSession, options: Namespace) -> None:
    """Segment what is left, and write down at once what became of each case."""
    numbers = count(1)

    def read(case: BatchCase) -> Volume:
        return read_ct(case.image, is_forced=options.force, advice=FORCE_ADVICE)

    def compute(case: BatchCase, volume: Volume) -> tuple[Segmentation, Volume | None]:
        try:
            session.set_image(volume, check=False)
            with progress_bar() as show:
                found = session.predict(options.task, show, structures=options.structure)
            return found, volume if options.pictures else None
        finally:
            session.reset_image()

    def write(case: BatchCase, result: tuple[Segmentation, Volume | None]) -> dict[tuple[str, str], float]:
        found, volume = result
        todo.begin(case)
        write_segmentation(todo.target(case), found, case.image, any_modality=options.force)
        if volume is not None:
            write_overview(todo.picture(case), volume, found, picture_title(case.image, session))
        return {key: found.volume_ml(key) for key in found}

    def finish(case: BatchCase, attempt: Attempt) -> None:
        outcome = _outcome(case, attempt)
        todo.record(case, outcome)
        end = outcome.error or f"{outcome.seconds:.1f} s{_not_found(outcome)}"
        write_line(f"{next(numbers)} of {len(todo.left)}: {case.name}, {end}")

    try:
        run_overlapped(todo.left, Stages(read, compute, write), finish)
    finally:
        todo.finish()


def _outcome(case: BatchCase, attempt: Attempt) -> Outcome:
    if attempt.error is None:
        return Outcome(attempt.seconds, attempt.value)
    if is_fault_of_ours(attempt.error):
        logger.warning("%s:", case.name, exc_info=attempt.error)
    return Outcome(attempt.seconds, error=sentence(attempt.error))


def _not_found(outcome: Outcome) -> str:
    """Of which structures no task found anything, as the end of a line."""
    found = {structure for (_, structure), volume in outcome.volumes_ml.items() if volume > 0}
    missing = [structure_or_tissue(one).name for _, one in outcome.volumes_ml if one not in found]
    missing = list(dict.fromkeys(missing))
    if not missing:
        return ""
    more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
    return f"; nothing found of {', '.join(missing[:_NUM_NAMED])}{more}"
