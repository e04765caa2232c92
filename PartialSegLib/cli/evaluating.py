"""The command `evaluate`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from statistics import fmean

from ..errors import InputError
from ..evaluation import SCORE_SUFFIXES, TOLERANCE_MM, Score, evaluate, matched_cases, write_scores
from ..segmentation import read_segmentation
from .terminal import write_table


def evaluate_files(options: Namespace) -> None:
    """Score predictions against references; to a file, or as a table to standard output."""
    if options.output and options.output.suffix.lower() not in SCORE_SUFFIXES:
        raise InputError(f"{options.output}: scores are written as {' or '.join(SCORE_SUFFIXES)}.")
    tolerance_mm = TOLERANCE_MM if options.tolerance is None else options.tolerance
    if not tolerance_mm >= 0:
        raise InputError(
            f"The tolerance is a distance in mm, such as {TOLERANCE_MM:g}, not {tolerance_mm:g}."
        )
    scores = []
    for case, prediction, reference in matched_cases(options.prediction, options.reference):
        pair = read_segmentation(prediction), read_segmentation(reference)
        scores += evaluate(*pair, options.structure, tolerance_mm=tolerance_mm, case=case)
    if options.output:
        write_scores(options.output, scores)
    else:
        _write_score_table(scores, tolerance_mm)


def _write_score_table(scores: Sequence[Score], tolerance_mm: float) -> None:
    rows = [[s.case, s.task, s.structure, *_figures([s])] for s in scores]
    if len({s.case for s in scores}) > 1:
        for task, structure in dict.fromkeys((s.task, s.structure) for s in scores):
            group = [s for s in scores if (s.task, s.structure) == (task, structure)]
            rows.append([f"mean of {len(group)}", task, structure, *_figures(group)])
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
