"""The command `evaluate`."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ..batch.images import SUMMARY_FILE
from ..batch.running import REQUEST_FILE
from ..errors import InputError
from ..evaluation import Comparison, Score, write_scores
from ..evaluation.case_matching import matched_cases
from ..evaluation.metrics import TOLERANCE_MM
from ..evaluation.scores import SCORE_SUFFIXES
from ..failures import is_fault_of_ours, sentence
from ..segmentation import Segmentation
from ..segmentation_files.formats import read_segmentation
from ..segmentation_files.label_maps import has_named_labels
from ..segmentation_files.mask_folders import key_of_name
from ..sentences import suggestion
from .segmenting import check_folder
from .terminal import progress_bar, write_table

logger = logging.getLogger(__name__)


def evaluate_files(options: Namespace) -> None:
    """Score predictions against references; to a file, or as a table to standard output.

    Raises:
        InputError: wrong options, nothing to compare, or at least one case could not be scored.
    """
    tolerance_mm = checked_tolerance(options)
    labels = None if options.labels is None else _labels(options.labels)
    given = options.prediction_labels
    predicted = None if given is None else _labels(given, "--prediction-labels")
    pairs, missing = matched_cases(options.prediction, options.reference)
    comparison, failed = Comparison(options.structure, tolerance_mm, options.absent_is_empty), 0
    with progress_bar("case") as show:
        for done, (case, prediction, reference) in enumerate(pairs, 1):
            try:
                own = predicted or (None if labels is None or _names_itself(prediction) else labels)
                found = _read(prediction, own, "--prediction-labels", is_case=bool(case))
                comparison.add(case, found, _read(reference, labels, "--labels", is_case=bool(case)))
            except Exception as error:
                if not case:
                    raise
                tell_failure(case, error)
                failed += 1
            show(done, len(pairs))
    write_comparison(comparison, options, tolerance_mm, failed + len(missing), len(pairs) + len(missing))


def checked_tolerance(options: Namespace) -> float:
    """The tolerance of the normalized surface distance in mm.

    Raises:
        InputError: it is no distance, the scores have no suffix that they can be written as, or their place
            cannot be written to, or holds the table of a batch.
    """
    if options.output:
        if options.output.suffix.lower() not in SCORE_SUFFIXES:
            raise InputError(f"{options.output}: scores are written as {' or '.join(SCORE_SUFFIXES)}.")
        if options.output.is_dir():
            raise InputError(f"{options.output}: A folder has this name; choose another for the scores.")
        if options.output.name == SUMMARY_FILE and (options.output.parent / REQUEST_FILE).exists():
            raise InputError(f"{options.output} is the table of a batch; choose another name for the scores.")
        check_folder(options.output.parent)
    tolerance_mm = TOLERANCE_MM if options.tolerance is None else options.tolerance
    if not tolerance_mm >= 0:
        raise InputError(
            f"The tolerance is a distance in mm, such as {TOLERANCE_MM:g}, not {tolerance_mm:g}."
        )
    return float(tolerance_mm)


def write_comparison(
    comparison: Comparison, options: Namespace, tolerance_mm: float, failed: int, count: int
) -> None:
    """Write the scores of some cases to the file of the options, or as a table to standard output.

    Raises:
        InputError: there are none, or they are not those of all cases: failed of count have none.
    """
    if failed == count:
        raise InputError("No case could be scored; the sentences above say why.")
    scores = comparison.scores()
    if options.output:
        write_scores(options.output, scores)
    else:
        _write_score_table(scores, tolerance_mm)
    if failed:
        raise InputError(
            f"{failed} of {count} cases could not be scored, the others were; see the sentences above."
        )


def _names_itself(prediction: Path) -> bool:
    return prediction.is_file() and has_named_labels(prediction)


def _read(
    file: Path, labels: Mapping[str, tuple[int, ...]] | None, option: str, *, is_case: bool
) -> Segmentation:
    """Read a segmentation.

    Raises:
        InputError: it cannot be read, or only the name of its case would say what a mask shows.
    """
    segmentation = read_segmentation(file, labels)
    if is_case and labels is None and file.is_file() and key_of_name(file) in segmentation:
        raise InputError(
            f"{file}: Nothing says which structure its mask shows; give it as in {option} 1=liver_tumor."
        )
    return segmentation


def tell_failure(case: str, error: Exception) -> None:
    """Why a case failed, with the traceback of a fault of ours."""
    traceback = error if is_fault_of_ours(error) else None
    logger.warning("%s: %s", case, sentence(error), exc_info=traceback)


def _labels(text: str, option: str = "--labels") -> Mapping[str, tuple[int, ...]]:
    """Values of each structure: 1=liver,2=liver,2=liver_tumor, or those of a public data set by its name."""
    if "=" not in text:
        return _labels_of_data_set(text, option)
    labels: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        value, _, structure = part.strip().partition("=")
        if not value.isdecimal() or not structure:
            raise InputError(f"{option} {text}: expected VALUE=STRUCTURE, as in 1=liver,2=liver_tumor.")
        labels[structure] = (*labels.get(structure, ()), int(value))
    return labels


def _labels_of_data_set(name: str, option: str) -> Mapping[str, tuple[int, ...]]:
    from ..training.data_sets.protocols import PROTOCOLS

    if name.lower() not in PROTOCOLS:
        raise InputError(
            f"{option} {name!r}: expected VALUE=STRUCTURE, as in 1=liver,2=liver_tumor, or a data set; "
            f"{suggestion(name.lower(), PROTOCOLS)}."
        )
    return PROTOCOLS[name.lower()].structures


def _write_score_table(scores: Sequence[Score], tolerance_mm: float) -> None:
    rows = [[s.case, s.task, s.structure, *_figures([s])] for s in scores]
    if len({s.case for s in scores}) > 1:
        for task, structure in dict.fromkeys((s.task, s.structure) for s in scores):
            group = [s for s in scores if (s.task, s.structure) == (task, structure)]
            rows.append([f"mean of {len(group)}", task, structure, *_figures(group)])
            with_it = [s for s in group if s.reference_ml > 0]
            if 0 < len(with_it) < len(group):
                rows.append([f"mean of {len(with_it)} with it", task, structure, *_figures(with_it)])
    header = [
        "CASE",
        "TASK",
        "STRUCTURE",
        "DICE",
        f"NSD {tolerance_mm:g} mm",
        "HD95 mm",
        "ML",
        "REFERENCE ML",
    ]
    write_table(header, rows, right=range(3, len(header)))


def _figures(scores: Sequence[Score]) -> list[str]:
    columns = {"dice": 3, "nsd": 3, "hausdorff95_mm": 1, "prediction_ml": 1, "reference_ml": 1}
    return [f"{fmean(getattr(s, name) for s in scores):.{digits}f}" for name, digits in columns.items()]
