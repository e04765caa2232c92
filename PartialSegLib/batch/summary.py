"""The table of a batch, summary.csv: a row for each case that was begun."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from ..files.output_files import replacing
from ..segmentation import Key
from .cases import BatchCase, Outcome

DONE, FAILED, WRITING = "done", "failed", "writing"
_ANY_NAME = "surrogateescape"  # also file names that are no UTF-8
_COLUMNS = ("case", "image", "segmentation", "status", "seconds", "message")

Row = dict[str, str]
Rows = dict[str, Row]
"""By case."""


def row_of(case: BatchCase, status: str) -> Row:
    """The row of a case of which no more is known."""
    segmentation = "" if status == FAILED else case.output.name
    return {"case": case.name, "image": str(case.image), "segmentation": segmentation, "status": status}


def finished_row(case: BatchCase, outcome: Outcome, keys: Iterable[Key]) -> Row:
    """The row of a case that is done or has failed, with the volumes of (task, structure)."""
    row = row_of(case, FAILED if outcome.error else DONE)
    row |= {"seconds": f"{outcome.seconds:.1f}", "message": outcome.error}
    for key in keys:
        if key in outcome.volumes_ml:
            row[_volume_column(key)] = f"{outcome.volumes_ml[key]:.3f}"
    return row


def read_rows(path: Path) -> Rows:
    """The rows of a summary.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is the table of something else.
    """
    with path.open(newline="", encoding="utf-8-sig", errors=_ANY_NAME) as file:
        table = csv.DictReader(file)
        if missing := set(_COLUMNS) - set(table.fieldnames or ()):
            raise ValueError(f"it has no column {min(missing)}")
        return {row["case"]: row for row in table}


def is_summary(path: Path) -> bool:
    """Whether a table has the columns of a summary.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig", errors=_ANY_NAME) as file:
        return set(_COLUMNS) <= set(csv.DictReader(file).fieldnames or ())


def write_rows(path: Path, rows: Rows, keys: Iterable[Key]) -> None:
    """Replace a summary in one stroke.

    Args:
        path: of the summary.
        rows: all of them.
        keys: (task, structure) of the volumes.

    Raises:
        InputError: the place cannot be written to.
    """
    header = [*_COLUMNS, *map(_volume_column, keys)]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors=_ANY_NAME) as file,
    ):
        writer = csv.DictWriter(file, header, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())


def version_of(file: Path) -> tuple[int, ...]:
    """Changes whenever a file is replaced; empty where there is none."""
    if not file.exists():
        return ()
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _volume_column(key: Key) -> str:
    return f"{key[0]}/{key[1]} [ml]"
