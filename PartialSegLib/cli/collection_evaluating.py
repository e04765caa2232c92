"""The command `data evaluate`: a model on whole cases of a collection."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING

from ..errors import Cancelled, DeviceError, InputError, OutOfMemoryError
from ..evaluation import Comparison
from ..manifest import Task, read_manifest
from ..packages.installed import find_package
from .evaluating import checked_tolerance, tell_failure, write_comparison
from .segmenting import check_folder
from .terminal import progress_bar

if TYPE_CHECKING:
    from ..session import InferenceSession
    from ..training.collection import Case, Collection

SPLITS = ("test", "validation", "training")

logger = logging.getLogger(__name__)


def evaluate_collection(options: Namespace) -> None:
    """Segment the labelled cases of a split, each with the task of its data set, and score what is annotated.

    Raises:
        InputError: wrong options, nothing to compare, or at least one case could not be scored.
        DeviceError: the device is missing.
    """
    from ..model import load_model
    from ..session import InferenceSession
    from ..training.collection import read_collection
    from ..training.collection.case_evaluation import tasks_of_data_sets

    tolerance_mm = checked_tolerance(options)
    if options.output:
        check_folder(options.output.parent)
    collection, folder = read_collection(options.collection), find_package(options.model)
    tasks = tasks_of_data_sets(collection, read_manifest(folder))
    cases = _cases(collection, tasks, options.split)
    session = InferenceSession(load_model(folder), options.device, cache_bytes=0)
    comparison, failed = Comparison(tolerance_mm=tolerance_mm), 0
    with progress_bar("case") as show:
        for done, case in enumerate(cases, 1):
            failed += not _is_scored(case, collection, tasks[case.data_set], session, comparison)
            show(done, len(cases))
    write_comparison(comparison, options, tolerance_mm, failed, len(cases))


def _cases(collection: Collection, tasks: dict[str, Task], split: str | None) -> list[Case]:
    """The labelled cases that the model has a task for; a warning names the data sets left out."""
    labelled = [case for case in collection.cases if case.label is not None]
    counts = Counter(case.split for case in labelled)
    wanted = split or ("test" if counts["test"] else "validation")
    if not counts[wanted]:  # type: ignore[index] # a split, too
        have = ", ".join(f"{counts[one]} for {one}" for one in SPLITS)  # type: ignore[index]
        raise InputError(
            f"{collection.name} has no labelled cases for {wanted} ({have}); choose another --split, or make "
            "the collection again with --fold or --list."
        )
    cases = [case for case in labelled if case.split == wanted]
    for name, count in Counter(case.data_set for case in cases if case.data_set not in tasks).items():
        task = collection.data_sets[name].task
        text = "The data set %s (cases: %d) is left out: the model has no task %s with its structures."
        logger.warning(text, name, count, task)
    if served := [case for case in cases if case.data_set in tasks]:
        return served
    raise InputError(f"The model has no task for any {wanted} case of {collection.name}; choose another.")


def _is_scored(
    case: Case, collection: Collection, task: Task, session: InferenceSession, comparison: Comparison
) -> bool:
    """Segment and score a case; whatever goes wrong with it alone is told."""
    from ..training.collection.case_evaluation import read_case

    try:
        image, reference = read_case(collection, case, task, session.model.manifest)
        session.set_image(image, check=False)
        comparison.add(case.name, session.predict(task.name), reference)
    except Exception as error:
        is_for_all = isinstance(error, Cancelled | DeviceError)
        if is_for_all and not isinstance(error, OutOfMemoryError):  # another image may be smaller
            raise
        tell_failure(case.name, error)
        return False
    finally:
        session.reset_image()
    return True
