"""Which cases are for training, validation, test and nothing: by lists and names, or drawn by a seed."""

from __future__ import annotations

import codecs
import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np

from ...errors import InputError
from ...files.file_names import expanded
from ...sentences import first_few
from ...volume import image_stem
from ..collection import Case

Split = Literal["training", "validation", "test"]

FOLDS = 5
TEST_STREAM, FOLD_STREAM = 0, 1

logger = logging.getLogger(__name__)


def with_test_cases(cases: tuple[Case, ...], count: int, seed: int) -> tuple[Case, ...]:
    """Move some cases of one data set, drawn at random, to the test split and all others to training.

    The draw depends on the seed, the data set's name and the names of its cases, on nothing else.

    Args:
        cases: of one data set.
        count: of test cases.
        seed: 0 or more.

    Raises:
        InputError: the seed is negative.
    """
    drawn = {case.name for case in _shuffled(cases, seed, TEST_STREAM)[:count]}
    return tuple(
        dataclasses.replace(case, split="test" if case.name in drawn else "training") for case in cases
    )


def with_validation_fold(cases: tuple[Case, ...], fold: int, seed: int) -> tuple[Case, ...]:
    """Move one of five folds of the labelled training cases of each data set to the validation split.

    The five folds of a seed have no case in common and hold all labelled training cases together.

    Args:
        cases: of any data sets.
        fold: 0 to 4.
        seed: 0 or more.

    Raises:
        InputError: there is no such fold, or the seed is negative.
    """
    if not 0 <= fold < FOLDS:
        raise InputError(f"There is no fold {fold}; choose one from 0 to {FOLDS - 1}.")
    of_data_set: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.split == "training" and case.label is not None:
            of_data_set[case.data_set].append(case)
    held_out = {
        case.name
        for group in of_data_set.values()
        for case in _shuffled(group, seed, FOLD_STREAM)[fold::FOLDS]
    }
    return tuple(
        dataclasses.replace(case, split="validation") if case.name in held_out else case for case in cases
    )


def with_listed_splits(
    cases: tuple[Case, ...], lists: Mapping[Split, Path], may_lack: Collection[str] = ()
) -> tuple[Case, ...]:
    """Split cases as files say, each of which lists the cases of one split.

    A line names one case: by its name in the collection, or by its image with or without folders and suffix;
    further words of a line are passed over, as the label maps in DoDNet's lists.

    Args:
        cases: every one must be in one of the lists.
        lists: file for each split.
        may_lack: names of cases that need not be in a list, since they are left out later.

    Raises:
        InputError: a file cannot be read, a line names no case or several, or a case is in no list or in two.
    """
    names = _names_of(cases)
    chosen: dict[str, Split] = {}
    for split, path in lists.items():
        for line in _lines(path):
            name = _required(line, names, path)
            if chosen.setdefault(name, split) != split:
                raise InputError(f"{name} is in the lists of two splits; keep it in one.")
    left = [case.name for case in cases if case.name not in chosen and case.name not in may_lack]
    if left:
        raise InputError(f"{len(left)} cases are in no list, the first is {left[0]}; list every case once.")
    return tuple(dataclasses.replace(case, split=chosen.get(case.name, case.split)) for case in cases)


def with_nnunet_fold(cases: tuple[Case, ...], path: Path, fold: int) -> tuple[Case, ...]:
    """Split the labelled training cases as one of the folds that nnU-Net has written.

    Those that are in neither part of the fold are left out, as nnU-Net does, and a warning says so.

    Args:
        cases: of any data sets; those for testing, and those without labels, stay as they are.
        path: nnU-Net's splits_final.json, a list of folds {"train": [name, …], "val": [name, …]}.
        fold: number of the fold, from 0 on.

    Raises:
        InputError: the file is no such list or has no such fold, a name is of no case or of several, or one
            is in both parts of the fold.
    """
    folds = _nnunet_folds(path)
    if not 0 <= fold < len(folds):
        raise InputError(f"{path} has no fold {fold}; choose one from 0 to {len(folds) - 1}.")
    names = _names_of(cases)
    training, validation = ({_required(name, names, path) for name in part} for part in folds[fold])
    if both := sorted(training & validation):
        raise InputError(f"{path}: {both[0]} is in both parts of fold {fold}; keep it in one.")
    left_out = {
        case.name
        for case in cases
        if case.split == "training" and case.label is not None and case.name not in training | validation
    }
    if left_out:
        some = first_few(sorted(left_out), 3)
        logger.warning("%s: labelled cases that fold %d does not name are left out: %s.", path, fold, some)
    return tuple(
        dataclasses.replace(case, split="validation") if case.name in validation else case
        for case in cases
        if case.name not in left_out
    )


def named_cases(cases: tuple[Case, ...], given: Sequence[str]) -> set[str]:
    """The names in the collection of cases that the user excludes.

    Args:
        cases: of any data sets.
        given: each names one case, as a line of a list does; see `with_listed_splits`.

    Raises:
        InputError: a name is of no case or of several.
    """
    names = _names_of(cases)
    return {_required(name, names, "--exclude") for name in given}


def _shuffled(cases: Sequence[Case], seed: int, stream: int) -> list[Case]:
    if seed < 0:
        raise InputError(f"A seed is 0 or a whole number above it, not {seed}.")
    ordered = sorted(cases, key=lambda case: case.name)
    if not ordered:
        return []
    generator = np.random.default_rng([seed, crc32(ordered[0].data_set.encode()), stream])
    return [ordered[index] for index in generator.permutation(len(ordered))]


def _names_of(cases: tuple[Case, ...]) -> dict[str, list[str]]:
    """All ways to name a case, with the names of the cases that are meant."""
    names: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        own = case.name.removeprefix(f"{case.data_set}-")
        for name in {case.name, own, image_stem(Path(case.image)), *Path(case.image).parts[-2:-1]}:
            names[name].append(case.name)
    return names


def _named(line: str, names: Mapping[str, list[str]]) -> str | None:
    """The one case that is meant by the line, its file's name or its folder's."""
    for name in (line, image_stem(Path(line)), Path(line).parent.name):
        if len(names.get(name, ())) == 1:
            return names[name][0]
    return None


def _required(line: str, names: Mapping[str, list[str]], where: Path | str) -> str:
    """The one case that is meant; the sentence on a fault says where the name was given."""
    name = _named(line, names)
    if name is None:
        raise InputError(
            f"{where}: '{line}' does not name one case; give the case's name in the collection, which "
            "is its data set's and its file's, as in lits-0."
        )
    return name


def _nnunet_folds(path: Path) -> list[tuple[list[str], list[str]]]:
    """Training and validation cases of each fold."""
    try:
        contents = json.loads(expanded(path).read_text(encoding="utf-8-sig"))
        folds = [(fold["train"], fold["val"]) for fold in contents]
    except OSError as error:
        raise InputError(f"{path}: the folds cannot be read ({error.strerror}); check the path.") from None
    except (ValueError, TypeError, KeyError):
        folds = []
    if not folds or not all(_are_names(part) for fold in folds for part in fold):
        raise InputError(
            f'{path}: expected a list of folds {{"train": [names], "val": [names]}}, as in the '
            "splits_final.json that nnU-Net leaves beside the preprocessed cases."
        )
    return folds


def _are_names(part: object) -> bool:
    return isinstance(part, list) and all(isinstance(name, str) for name in part)


def _lines(path: Path) -> list[str]:
    try:
        contents = expanded(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the list cannot be read ({error.strerror}); check the path.") from None
    is_utf16 = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # so ">" of PowerShell 5
    try:
        lines = contents.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: the list is no text in UTF-8; save it as UTF-8.") from None
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
