"""What the commands write to the terminal: tables, and a progress bar where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


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
    """Write one line to standard output."""
    sys.stdout.write(f"{text}\n")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Give a callback for `InferenceSession.predict` that draws a bar on a terminal only."""
    from tqdm import tqdm

    with tqdm(unit="patch", leave=False, disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
