"""The agreement of a mask with its reference as a record, and tables of such records."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..errors import InputError
from ..files.output_files import replacing

SCORE_SUFFIXES = (".csv", ".json")
_ANY_NAME = "surrogateescape"  # also file names that are no UTF-8


@dataclass(frozen=True)
class Score:
    """Agreement of one predicted mask with its reference.

    Attributes:
        case: which image; empty for a single one.
        task: the task that predicted the mask.
        structure: what both masks show.
        dice: Dice coefficient, 0 to 1.
        nsd: normalized surface distance at `tolerance_mm`, 0 to 1.
        hausdorff95_mm: 95th percentile of the surface distances; infinite when one mask is empty.
        prediction_ml: volume of the prediction.
        reference_ml: volume of the reference.
        tolerance_mm: distance up to which surfaces agree.
    """

    case: str
    task: str
    structure: str
    dice: float
    nsd: float
    hausdorff95_mm: float
    prediction_ml: float
    reference_ml: float
    tolerance_mm: float


def write_scores(path: str | Path, scores: Iterable[Score]) -> None:
    """Write scores as a table (.csv) or a list of records (.json, where an infinite distance is null).

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SCORE_SUFFIXES:
        raise InputError(f"Scores are written as {' or '.join(SCORE_SUFFIXES)}, not {path}.")
    records = [asdict(score) for score in scores]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors=_ANY_NAME) as file,
    ):
        if suffix == ".csv":
            table = csv.DictWriter(file, [field.name for field in fields(Score)], lineterminator="\n")
            table.writeheader()
            table.writerows(records)
        else:
            finite = [{k: None if v == math.inf else v for k, v in record.items()} for record in records]
            json.dump(finite, file, indent=2)
            file.write("\n")
