"""Which case a patch is from, and where in it the patch lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Literal

import numpy as np

from ..preparation.case_store import LabelValue, PreparedCase, Size

CaseSampling = Literal["uniform", "sqrt"]
Place = Literal["dodnet", "voxel"]
Padding = Literal["end", "both sides"]

DODNET_MARGIN = 32  # voxels around the box of the foreground


def case_probabilities(data_sets: Sequence[str], rule: CaseSampling) -> np.ndarray:
    """How often each case is drawn.

    "uniform" as in DoDNet; with "sqrt" the cases of a data set of n have probabilities proportional to
    1 / sqrt(n), so that the data set has one proportional to sqrt(n) (MultiTalent, section 2.2).

    Args:
        data_sets: for each case the name of its data set.
        rule: one of the two.

    Returns:
        Probabilities (number of cases), with sum 1.
    """
    cases = Counter(data_sets)
    weights = np.array([1.0 if rule == "uniform" else cases[name] ** -0.5 for name in data_sets])
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities


def cases_in_turn(keys: Sequence[tuple[int, str]], length: int, rng: np.random.Generator) -> list[int]:
    """Choose cases so that tasks take turns, and within a task its data sets.

    Args:
        keys: for each case the index of its task and the name of its data set.
        length: how many to choose.
        rng: draws the order of the cases of a data set; none comes twice before all have come.

    Returns:
        Numbers of the chosen cases.
    """
    by_task: dict[int, dict[str, list[int]]] = {}
    for number in rng.permutation(len(keys)).tolist():
        task, data_set = keys[number]
        by_task.setdefault(task, {}).setdefault(data_set, []).append(number)
    tasks = [cycle([cycle(cases) for cases in by_task[task].values()]) for task in sorted(by_task)]
    return [next(next(data_sets)) for data_sets in islice(cycle(tasks), length)]


def choose_start(
    case: PreparedCase,
    structures: Sequence[Sequence[int]],
    size: Size,
    place: Place,
    foreground: float,
    padding: Padding,
    rng: np.random.Generator,
) -> Size:
    """Choose where the part of a case that becomes a patch begins.

    With the probability `foreground`, and if the case has any of the structures, it lies by these:

    * "dodnet": evenly within their box, grown first to the size of the part, then by 32 voxels on each side,
      within the image (DoDNet's code, with probability 0.8; its paper does not say);
    * "voxel": around a random voxel of a random structure that the case has (nnU-Net: one patch of
      two, one of four; TransDoDNet's code with 0.5).

    Else it lies anywhere. It leaves the image only along axes on which the image is shorter.

    Args:
        case: which is cropped.
        structures: for each structure its values in the label map.
        size: voxels (z, y, x) of the part.
        place: one of the two.
        foreground: probability.
        padding: where missing voxels lie, see `Inference`.
        rng: everything is drawn from it.

    Returns:
        The first voxel (z, y, x); negative where missing voxels lie before the image.
    """
    shape, extent = np.array(case.summary.shape), np.array(size)
    missing = np.maximum(extent - shape, 0)
    lowest = -(missing // 2) if padding == "both sides" else np.zeros(3, int)
    highest = lowest + np.maximum(shape - extent, 0)
    by_value = {value.value: value for value in case.summary.values}
    present = [[by_value[v] for v in values if v in by_value] for values in structures]
    present = [values for values in present if values]
    if not present or rng.random() >= foreground:
        start = rng.integers(lowest, highest + 1)
    elif place == "voxel":
        start = np.clip(_random_voxel(case, present, rng) - extent // 2, lowest, highest)
    else:
        low, high = _starts_near_foreground([v for values in present for v in values], extent)
        low, high = np.clip(low, lowest, highest), np.clip(high, lowest, highest)
        start = rng.integers(low, high + 1)
    z, y, x = (int(first) for first in start)
    return z, y, x


def _starts_near_foreground(
    values: Sequence[LabelValue], extent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last start (3) of parts within the box of DoDNet, the image's borders not yet considered."""
    low, high = np.min([v.low for v in values], axis=0), np.max([v.high for v in values], axis=0)
    lacking = np.maximum(extent - (high - low), 0)
    low = low - lacking // 2 - DODNET_MARGIN
    high = high + (lacking - lacking // 2) + DODNET_MARGIN
    return low, high - extent


def _random_voxel(
    case: PreparedCase, structures: Sequence[Sequence[LabelValue]], rng: np.random.Generator
) -> np.ndarray:
    """A voxel (3) of a random structure, each structure with the same probability."""
    values = structures[int(rng.integers(len(structures)))]
    counts = np.array([value.voxels for value in values], float)
    value = values[int(rng.choice(len(values), p=counts / counts.sum()))]
    voxels = case.voxels_of(value.value)
    voxel: np.ndarray = voxels[int(rng.integers(len(voxels)))]
    return voxel
