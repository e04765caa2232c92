"""Which segmentation is compared with which: two files, or two folders of cases by their names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded, folded
from ..segmentation_files.label_names import comparable_set
from ..segmentation_files.mask_folders import FOLDER_TABLE
from ..sentences import first_few
from ..structures import load_structures
from ..volume import IMAGE_SUFFIXES, image_stem, image_suffix

LABELS_AND_IMAGES = (("segmentation-", "volume-"), ("label", "img"))
"""How the names of label maps and of their images begin in LiTS and BTCV."""
_SUFFIXES = (".seg.nrrd", ".seg.nhdr", ".dcm", *IMAGE_SUFFIXES)
_NUM_LISTED = 10

logger = logging.getLogger(__name__)


def matched_cases(
    prediction: str | Path, reference: str | Path
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair predictions with references; a warning names what is left out on either side.

    Args:
        prediction: a segmentation as `read_segmentation` takes it, a case folder of TotalSegmentator or KiTS,
            or a folder of these.
        reference: likewise; cases are matched by their names without suffix: the same, the same but for
            capital letters, NAME_0000, as nnU-Net calls its images, or the only NAME_…; NAME may also be that
            of the image, volume-N for segmentation-N (LiTS) and imgN for labelN (BTCV).

    Returns:
        (case, prediction, reference) of every reference with a prediction, sorted by case; the case is empty
        for a single pair. And the cases of the references without.

    Raises:
        InputError: one is a folder of cases and the other is not, no reference has a prediction, or a case is
            there twice.
    """
    prediction, reference = (_segmentation_in(expanded(path)) for path in (prediction, reference))
    folders = [path for path in (prediction, reference) if _is_folder_of_cases(path)]
    if not folders:
        return [("", prediction, reference)], []
    if len(folders) == 1:
        raise InputError(f"{folders[0]} is a folder of cases, the other is not; give two of a kind.")
    predictions, references = _cases(prediction), _cases(reference)
    names = _predicted_names(references, predictions)
    missing = sorted(references.keys() - names.keys())
    if not names:
        raise InputError(
            f"{prediction} has no prediction for {first_few(missing, _NUM_LISTED)}; "
            "give each the name of its reference."
        )
    if missing:
        have = "1 reference has" if len(missing) == 1 else f"{len(missing)} references have"
        are = "is" if len(missing) == 1 else "are"
        logger.warning("%s no prediction and %s left out: %s.", have, are, first_few(missing, _NUM_LISTED))
    if extra := sorted(predictions.keys() - set(names.values())):
        logger.warning("Without a reference and left out: %s.", first_few(extra, _NUM_LISTED))
    return [(case, predictions[names[case]], references[case]) for case in sorted(names)], missing


def _segmentation_in(path: Path) -> Path:
    """What is the segmentation in a case folder of TotalSegmentator or KiTS; else the path itself."""
    if not path.is_dir() or (path / FOLDER_TABLE).exists():
        return path
    masks, label_map = path / "segmentations", path / "segmentation.nii.gz"
    return masks if masks.is_dir() else label_map if label_map.is_file() else path


def _is_folder_of_cases(path: Path) -> bool:
    """Whether a folder holds segmentations, not masks named after structures."""
    if not path.is_dir() or (path / FOLDER_TABLE).exists():
        return False
    return not load_structures().keys() & comparable_set(case.rpartition("-")[2] for case in _cases(path))


def _cases(folder: Path) -> dict[str, Path]:
    """Segmentations by their names without suffix; what macOS packs along (.hidden, __MACOSX) is none."""
    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        is_case = image_suffix(path, _SUFFIXES) or path.is_dir()
        if path.name.startswith((".", "__MACOSX")) or not is_case:
            continue
        case = image_stem(path, _SUFFIXES)
        if case in cases:
            raise InputError(f"{folder} holds {cases[case].name} and {path.name} of one case; keep one.")
        cases[case] = path
    if not cases:
        raise InputError(f"{folder} holds no segmentations; give a file or a folder of them.")
    images = {image for case in cases for image in _image_names(case)[1:]}
    return {case: _segmentation_in(path) for case, path in cases.items() if case not in images}


def _image_names(case: str) -> list[str]:
    """What a case may be called besides: by its label map, and by the image of it."""
    images = [
        image + case.removeprefix(label) for label, image in LABELS_AND_IMAGES if case.startswith(label)
    ]
    return [case, *images]


def _predicted_names(cases: Collection[str], predictions: Collection[str]) -> dict[str, str]:
    """Name of the prediction of each case that has one: its own, else the only one that goes on from it."""
    names: dict[str, str] = {}
    for case in cases:
        wanted = (name for own in _image_names(case) for name in (own, f"{own}_0000"))
        if found := next(filter(None, (_equal_name(name, predictions) for name in wanted)), ""):
            names[case] = found
    longer: defaultdict[str, list[str]] = defaultdict(list)
    for name in set(predictions) - set(names.values()):
        begins = [case for case in cases if folded(name).startswith(_beginnings(case))]
        if begins:
            longer[max(begins, key=len)].append(name)
    return {case: found[0] for case, found in longer.items() if len(found) == 1} | names


def _beginnings(case: str) -> tuple[str, ...]:
    return tuple(folded(f"{name}_") for name in _image_names(case))


def _equal_name(wanted: str, names: Collection[str]) -> str:
    """The name that is wanted, or the only one that Windows or macOS take for it; or nothing."""
    if wanted in names:
        return wanted
    close = [name for name in names if folded(name) == folded(wanted)]
    return close[0] if len(close) == 1 else ""
