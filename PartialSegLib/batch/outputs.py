"""Where the segmentations of a batch go: what lies there already, and whether a batch has written it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..files.file_names import holds_files
from ..sentences import first_few
from .images import results_in

EARLIER_RESULTS = "earlier_results"
"""In the request of a batch: names of what earlier batches have written, which this one may replace."""
NUM_LISTED = 3


def earlier_results(folder: Path, request: Path) -> set[str]:
    """Names of what batches have written into a folder, also of what one began to replace and did not reach.

    Args:
        folder: of the segmentations.
        request: the file that says what the last batch was asked for; may be missing.
    """
    names = results_in(folder)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        names |= {str(name) for name in json.loads(request.read_text(encoding="utf-8"))[EARLIER_RESULTS]}
    return {name for name in names if (folder / name).exists()}


def is_there(output: Path) -> bool:
    """Whether there is a file, or a folder that is not empty."""
    return holds_files(output) if output.is_dir() else output.exists()


def refuse_files_of_others(outputs: Iterable[Path]) -> None:
    """Refuse to replace what no batch has written down.

    Args:
        outputs: of the cases that no batch has begun.

    Raises:
        InputError: some of them exist.
    """
    others = [output for output in outputs if is_there(output)]
    if others:
        raise InputError(
            f"{others[0].parent} holds files that no batch has written and this one would replace: "
            f"{first_few([output.name for output in others], NUM_LISTED)}; choose another folder, move them "
            "away, or replace them (--overwrite)."
        )
