"""The clean-up that nnU-Net version 2 chose for a model, as steps of the manifest.

After a cross-validation nnUNetv2_find_best_configuration tries what keeping only the largest component does:
of all foreground, then of each label or region. What helps is written to postprocessing.pkl as a list of
functions and a list of their arguments, and to postprocessing.json by name. There is one such function. Its
neighbourhood is that of skimage.measure.label: voxels that share a face, an edge or a corner.

Isensee et al.: nnU-Net, Nature Methods 2021; https://github.com/MIC-DKFZ/nnUNet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..manifest import PostprocessingStep, Task
from ..packages.nnunet_files import postprocessing_files
from .nnunet_plans import Plan
from .restricted_pickle import read_plain_pickle

MODULE = "nnunetv2.postprocessing.remove_connected_components"
KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
MOST_LABELS = 1_000  # and steps; more would only keep the computer busy
LARGEST_LABEL = 65_535  # of a label map


def chosen_postprocessing(
    checkpoints: Sequence[Path], plan: Plan, task: Task
) -> tuple[PostprocessingStep, ...]:
    """Read the clean-up that nnU-Net chose for these folds.

    Args:
        checkpoints: of one model, in the order of their folds.
        plan: of the model.
        task: that the plan gives.

    Returns:
        The steps of the task; none where nnU-Net has not looked for any, or none helped.

    Raises:
        InputError: the file is damaged, means harm, or asks for what is not known; the message names it.
    """
    file, pickled = postprocessing_files(checkpoints)
    described = _described(file)
    if described is None and pickled.is_file():
        file, described = pickled, read_plain_pickle(pickled, {(MODULE, KEEP_LARGEST)})
    if described is None and not file.is_file():
        return ()
    try:
        unions = [_union(function, arguments) for function, arguments in _calls(described)]
        return tuple(chain.from_iterable(_steps(union, plan, task) for union in unions))
    except InputError as error:
        raise InputError(
            f"{file} is refused: {error}; take that file away to import the model without it."
        ) from None


def _described(file: Path) -> tuple[Any, Any] | None:
    """The names of functions and their arguments in postprocessing.json; None unless both can be read."""
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        return contents["postprocessing_fns"], contents["postprocessing_kwargs"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _calls(described: Any) -> list[tuple[Any, Any]]:
    """Functions, by name, with the arguments of each."""
    lists = described if isinstance(described, list | tuple) else ()
    if [type(part) for part in lists] != [list, list] or len(lists[0]) != len(lists[1]):
        raise InputError("it holds no list of functions with a list of their arguments")
    if len(lists[0]) > MOST_LABELS:
        raise InputError(f"it holds more than {MOST_LABELS} steps")
    return list(zip(*lists, strict=True))


def _union(function: Any, arguments: Any) -> set[int]:
    """The labels of which, taken as one, a call keeps the largest component."""
    if not isinstance(function, str) or function != KEEP_LARGEST:
        name = repr(function[:80]) if isinstance(function, str) else "without a name"
        raise InputError(f"it asks for the function {name}, and only {KEEP_LARGEST} is known")
    given: Mapping[Any, Any] = arguments if isinstance(arguments, dict) else {}
    wrong = given.keys() - {"labels_or_regions", "background_label"}
    background = given.get("background_label", 0)
    if wrong or "labels_or_regions" not in given or not _is_label(background) or background != 0:
        raise InputError(
            f"it gives {KEEP_LARGEST} other arguments than labels_or_regions and a background of 0"
        )
    parts = _as_list(given["labels_or_regions"])
    labels = list(islice(chain.from_iterable(map(_as_list, parts)), MOST_LABELS + 1))
    if len(labels) > MOST_LABELS or not all(map(_is_label, labels)):
        raise InputError("its labels_or_regions are no label, region, or list of these")
    return {int(label) for label in labels}


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _is_label(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and 0 <= int(value) <= LARGEST_LABEL


def _steps(union: set[int], plan: Plan, task: Task) -> list[PostprocessingStep]:
    """One step, or none where no structure of the task has any of these labels in nnU-Net's label map."""
    values = plan.map_values(task)
    unknown = sorted(union - plan.label_values - set(values.values()))
    if unknown:
        raise InputError(f"it names the label {unknown[0]}, which the model does not have")
    structures = [structure for structure, value in values.items() if value in union]
    if not structures:
        return []
    first, *others = structures
    return [PostprocessingStep("keep_largest_of_union", first, others=tuple(others), connectivity=26)]
