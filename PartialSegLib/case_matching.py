"""Which segmentation is compared with which: two files, or two folders of cases by their names."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError
from .label_maps import FOLDER_TABLE
from .label_names import comparable_set
from .structures import load_structures
from .volume import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


def matched_cases(prediction: str | Path, reference: str | Path) -> list[tuple[str, Path, Path]]:
    """Pair predictions with references.

    Args:
        prediction: a segmentation as `read_segmentation` takes it, or a folder of these.
        reference: likewise; cases are matched by their names without suffix: the same, the same but for
            capital letters, or NAME_0000, as nnU-Net calls its images.

    Returns:
        (case, prediction, reference) of every reference, sorted by case; the case is empty for a single pair.

    Raises:
        InputError: one is a folder of cases and the other is not, a reference has no prediction, or a case is
            there twice.
    """
    prediction, reference = Path(prediction).expanduser(), Path(reference).expanduser()
    folders = [path for path in (prediction, reference) if _is_folder_of_cases(path)]
    if not folders:
        return [("", prediction, reference)]
    if len(folders) == 1:
        raise InputError(f"{folders[0]} is a folder of cases, the other is not; give two of a kind.")
    predictions, references = _cases(prediction), _cases(reference)
    names = {case: _predicted_name(case, predictions) for case in sorted(references)}
    if missing := [case for case, name in names.items() if not name]:
        raise InputError(f"{prediction} has no prediction for {', '.join(missing)}; add it.")
    if extra := sorted(predictions.keys() - set(names.values())):
        logger.warning("Without a reference and left out: %s.", ", ".join(extra))
    return [(case, predictions[name], references[case]) for case, name in names.items()]


def _is_folder_of_cases(path: Path) -> bool:
    """Whether a folder holds segmentations, not masks named after structures."""
    if not path.is_dir() or (path / FOLDER_TABLE).exists():
        return False
    return not load_structures().keys() & comparable_set(case.rpartition("-")[2] for case in _cases(path))


def _cases(folder: Path) -> dict[str, Path]:
    """Segmentations by their names without suffix; what macOS packs along (.hidden, __MACOSX) is none."""
    suffixes = (".seg.nrrd", ".seg.nhdr", *IMAGE_SUFFIXES)
    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), "")
        if path.name.startswith((".", "__MACOSX")) or not (suffix or path.is_dir()):
            continue
        case = path.name[: len(path.name) - len(suffix)]
        if case in cases:
            raise InputError(f"{folder} holds {cases[case].name} and {path.name} of one case; keep one.")
        cases[case] = path
    if not cases:
        raise InputError(f"{folder} holds no segmentations; give a file or a folder of them.")
    return cases


def _predicted_name(case: str, predictions: Iterable[str]) -> str:
    """Name of the prediction of a case, or nothing."""
    for wanted in (case, f"{case}_0000"):
        if wanted in predictions:
            return wanted
        close = [name for name in predictions if name.casefold() == wanted.casefold()]
        if len(close) == 1:
            return close[0]
    return ""
