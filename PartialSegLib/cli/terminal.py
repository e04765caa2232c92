"""What the commands write to the terminal: tables, and progress where a person is watching."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..sentences import without_control

_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EINVAL)
"""The last is what Windows mostly says of a closed pipe (python/cpython#79935)."""


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Write aligned columns to standard output.

    Args:
        header: title of each column.
        rows: cells, as text.
        right: indices of the columns that are aligned to the right, as numbers are.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        write_line("  ".join(cells).rstrip())


def write_line(text: str = "") -> None:
    """Write one line to standard output at once, also where that is a file or a pipe.

    Work goes on where the reader of a pipe, such as `head`, has seen enough, or the terminal is closed.
    """
    try:
        sys.stdout.write(f"{without_control(text)}\n")
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _NOBODY_READS:
            raise
        discard_output()


def discard_output() -> None:
    """Lead standard output nowhere from now on, with what waits to be written."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextmanager
def progress_bar(unit: str = "patch") -> Iterator[Callable[[int, int], None]]:
    """Give a callback (done, total), as for `InferenceSession.predict`, that draws a bar on a terminal only.

    Slicer's Python has no tqdm; there a line with the count takes its place.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda done, total: _show_count(done, total, unit)
        sys.stderr.write("\n")
        return
    with tqdm(unit=unit, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def announced(text: str) -> Iterator[None]:
    """Say on a terminal what is being done while it cannot be counted; the line is gone afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    line = f"{text} … (Ctrl+C stops it)"
    sys.stderr.write(line)
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write(f"\r{' ' * len(line)}\r")
        sys.stderr.flush()


def _show_count(done: int, total: int, unit: str) -> None:
    sys.stderr.write(f"\r{done} of {total} ({unit})")
    sys.stderr.flush()
