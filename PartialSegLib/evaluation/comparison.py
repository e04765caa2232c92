"""How well segmentations agree with their references, structure by structure, in one case or in many.

Organs of `ORGANS_WITH_TUMOR` are compared with their tumours, also where a voxel has one label only, and a
whole organ with both sides together, where one of both has only the sides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..masks.boxes import EMPTY_BOX, box_around, widened
from ..segmentation import Key, Segmentation
from ..segmentation_files.label_names import comparable_set
from .comparable_masks import comparable_masks, grid_of, mask_within, not_compared, placed_on
from .metrics import TOLERANCE_MM, dice
from .scores import Score
from .surface_distance import surface_distances

logger = logging.getLogger(__name__)


def evaluate(
    prediction: Segmentation,
    reference: Segmentation,
    structures: Iterable[str] | None = None,
    *,
    tolerance_mm: float = TOLERANCE_MM,
    case: str = "",
) -> list[Score]:
    """Compare two segmentations of one image, structure by structure.

    A mask is compared with the reference of the same task and structure, else with the only one of that
    structure, by the names of `comparable_names`: "Left Kidney" and "kidney_left" are one, and so are
    "liver_tumor" and, beside a liver, "cancer"; "kidney" is compared with left and right kidney together. A
    reference whose axes are flipped or swapped is turned; what it ignores is left out of both.

    Args:
        prediction: what a model found.
        reference: what is true.
        structures: ids to compare, several in one text separated by commas; None for those that both have.
        tolerance_mm: for the normalized surface distance.
        case: name put into the scores.

    Returns:
        One score per mask of the prediction, in its order.

    Raises:
        InputError: different grids, a structure that one of them lacks, or nothing in common.
    """
    wanted = _wanted(structures)
    return _scores(*comparable_masks(prediction, reference, wanted), wanted, tolerance_mm, case)


def _scores(
    prediction: Segmentation,
    reference: Segmentation,
    structures: Iterable[str] | None,
    tolerance_mm: float,
    case: str,
) -> list[Score]:
    """What `evaluate` returns, of segmentations that are comparable."""
    grid, other = grid_of(prediction), grid_of(reference)
    if not grid.same_geometry(other):
        placed = placed_on(reference, grid)
        if placed is None:
            raise InputError(
                f"{case or 'The prediction'} and its reference lie on different grids ({prediction.shape} "
                f"and {reference.shape} voxels, or another affine); evaluate on the grid of the image."
            )
        reference = placed
    is_scored = None if reference.ignored is None else ~reference.ignored.filled(reference.shape)
    voxel_ml = grid.voxel_volume / 1000
    scores = []
    for key, reference_key in _matching_keys(prediction, reference, structures):
        masks = prediction.packed(key), reference.packed(reference_key)
        around = box_around(masks[0].box, masks[1].box)
        box = widened(around, (1, 1, 1), reference.shape)  # whether a mask's neighbours are scored counts
        a, b = (mask_within(box, mask) for mask in masks)
        is_labelled = None if is_scored is None else is_scored[box]
        if is_labelled is not None:
            a, b = a & is_labelled, b & is_labelled
        surfaces = surface_distances(a, b, grid.spacing, is_labelled)
        score = Score(
            *(case, *key),
            dice=dice(a, b),
            nsd=surfaces.fraction_within(tolerance_mm),
            hausdorff95_mm=surfaces.percentile(0.95),
            prediction_ml=np.count_nonzero(a) * voxel_ml,
            reference_ml=np.count_nonzero(b) * voxel_ml,
            tolerance_mm=tolerance_mm,
        )
        scores.append(score)
    return scores


def _scored_ml(reference: Segmentation, key: Key) -> float:
    """Volume of a mask without what the reference ignores."""
    if reference.ignored is None:
        return reference.volume_ml(key)
    packed = reference.packed(key)
    scored = packed.unpack() & ~reference.ignored.filled(reference.shape)[packed.box]
    return float(np.count_nonzero(scored) * grid_of(reference).voxel_volume / 1000)


class Comparison:
    """Scores of several cases; a structure that one prediction has and another lacks is empty in the latter.

    Args:
        structures: ids to compare, as in `evaluate`; None for all that predictions and references have.
        tolerance_mm: for the normalized surface distance.
        absent_is_empty: what a reference does not have is empty there; else it is not scored.
    """

    def __init__(
        self,
        structures: Iterable[str] | None = None,
        tolerance_mm: float = TOLERANCE_MM,
        absent_is_empty: bool = False,
    ) -> None:
        self._structures = _wanted(structures)
        self._tolerance_mm = tolerance_mm
        self._absent_is_empty = absent_is_empty
        self._scores: dict[str, list[Score]] = {}
        self._lacking_ml: dict[str, dict[str, float]] = {}
        self._predicted: dict[Key, None] = {}
        self._expected: set[str] = set()
        self._available: set[str] = set()
        self._without: dict[str, list[str]] = {}
        self._unscored: dict[str, list[str]] = {}

    def add(self, case: str, prediction: Segmentation, reference: Segmentation) -> None:
        """Score a case.

        Raises:
            InputError: different grids.
        """
        prediction, reference = comparable_masks(prediction, reference, self._structures)
        if self._absent_is_empty:
            found = {structure for _, structure in prediction}
            _add_empty(reference, found if self._structures is None else self._structures)
        volumes = {key[1]: _scored_ml(reference, key) for key in reference}
        wanted = set(volumes) if self._structures is None else self._structures & set(volumes)
        self._available |= set(volumes)
        for name in (self._structures or set()) - set(volumes):
            self._without.setdefault(name, []).append(case)
        common = wanted & {structure for _, structure in prediction}
        measured = _scores(prediction, reference, common, self._tolerance_mm, case) if common else []
        self._scores[case] = measured
        if self._structures is None:
            for name in {key[1] for key in prediction if prediction.voxel_count(key)} - wanted:
                self._unscored.setdefault(name, []).append(case)
        self._lacking_ml[case] = {name: volumes[name] for name in sorted(not_compared(wanted, common))}
        self._predicted |= dict.fromkeys(prediction)
        self._expected |= wanted

    def scores(self) -> list[Score]:
        """All scores, case by case; warns of what no prediction has, or not the reference of a case.

        Raises:
            InputError: no prediction has a structure that shall be compared, or any of the references'.
        """
        predicted = {structure for _, structure in self._predicted}
        if missing := (self._structures or set()) - predicted:
            raise InputError(f"No prediction has {_listed(missing)}; there is {_listed(predicted)}.")
        if missing := (self._structures or set()) - self._available:
            raise InputError(f"No reference has {_listed(missing)}; there is {_listed(self._available)}.")
        if not predicted & self._expected:
            raise _nothing_to_compare(predicted, self._expected)
        unknown = {name for lacking in self._lacking_ml.values() for name in lacking if lacking[name]}
        if unknown := unknown - predicted:
            logger.warning("No prediction has %s; left out.", _listed(unknown))
        if self._unscored:
            logger.warning(
                "Predicted but not in the reference, so not scored: %s.", _by_cases(self._unscored)
            )
        if self._without:
            logger.warning("Not in every reference, and not scored there: %s.", _by_cases(self._without))
        scores = [score for case, found in self._scores.items() for score in (*found, *self._missed(case))]
        if not self._absent_is_empty and (empty := _never_in_reference(scores)):
            logger.warning("No reference holds anything of %s; look what its labels mean.", _listed(empty))
        return scores

    def _missed(self, case: str) -> Iterator[Score]:
        """Scores of the empty masks that stand for what a prediction lacks."""
        lacking_ml = self._lacking_ml[case]
        if self._absent_is_empty:
            scored = {score.structure for score in self._scores[case]}
            lacking_ml = dict.fromkeys(sorted(not_compared(self._expected, scored)), 0.0) | lacking_ml
        for name, volume_ml in lacking_ml.items():
            agreement, distance = (0.0, math.inf) if volume_ml else (1.0, 0.0)
            for key in self._predicted:
                if key[1] == name:
                    yield Score(
                        *(case, *key),
                        dice=agreement,
                        nsd=agreement,
                        hausdorff95_mm=distance,
                        prediction_ml=0.0,
                        reference_ml=volume_ml,
                        tolerance_mm=self._tolerance_mm,
                    )


def _never_in_reference(scores: Sequence[Score]) -> set[str]:
    """Structures that predictions hold, and of which no reference holds a voxel."""
    predicted = {score.structure for score in scores if score.prediction_ml}
    return predicted - {score.structure for score in scores if score.reference_ml}


def _by_cases(cases_of: Mapping[str, list[str]]) -> str:
    """Structures, in how many cases each is concerned, and the first of these."""
    return ", ".join(
        f"{name} ({len(cases)} {'case' if len(cases) == 1 else 'cases'}, first: {cases[0]})"
        if cases[0]
        else name
        for name, cases in sorted(cases_of.items())
    )


def _wanted(structures: Iterable[str] | None) -> set[str] | None:
    """The names of `comparable_set` for structures that may be separated by commas."""
    if structures is None:
        return None
    return comparable_set(name.strip() for text in structures for name in text.split(",") if name.strip())


def _add_empty(reference: Segmentation, structures: Iterable[str]) -> None:
    """Add an empty mask of each structure that a segmentation lacks."""
    for name in sorted(set(structures) - {structure for _, structure in reference}):
        reference.add("", name, EMPTY_BOX, np.zeros((0, 0, 0), bool))


def _matching_keys(
    prediction: Segmentation, reference: Segmentation, structures: Iterable[str] | None
) -> list[tuple[Key, Key]]:
    """Pairs of (task, structure), of the prediction and of the reference."""
    available = [{structure for _, structure in s} for s in (prediction, reference)]
    wanted = available[0] & available[1] if structures is None else comparable_set(structures)
    for name, have in zip(("prediction", "reference"), available, strict=True):
        _check_has(name, wanted, have)
    if not wanted:
        raise _nothing_to_compare(*available)
    return [(key, _counterpart(key, reference)) for key in prediction if key[1] in wanted]


def _check_has(name: str, wanted: set[str], have: set[str]) -> None:
    if missing := wanted - have:
        raise InputError(f"The {name} lacks {_listed(missing)}; it has {_listed(have)}.")


def _nothing_to_compare(predicted: Iterable[str], expected: Iterable[str]) -> InputError:
    return InputError(
        f"There is nothing to compare: predicted are {_listed(predicted)}, the reference has "
        f"{_listed(expected)}; name the labels (NAME.labels.csv, dataset.json, --labels for those of the "
        "reference, --prediction-labels for those of the prediction)."
    )


def _counterpart(key: Key, reference: Segmentation) -> Key:
    candidates = [other for other in reference if other[1] == key[1]]
    if key in candidates:
        return key
    if len(candidates) > 1:
        tasks = ", ".join(task for task, _ in candidates)
        raise InputError(
            f"The reference has {key[1]} of several tasks ({tasks}) but not of {key[0]}; keep one."
        )
    return candidates[0]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
