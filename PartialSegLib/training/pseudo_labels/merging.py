"""Label maps filled up with predicted structures; original labels win.

After Huang et al., "Exploiting Pseudo-Labeling and nnU-Netv2 Inference Acceleration for Abdominal Multi-Organ
and Pan-Cancer Segmentation" (FLARE23), section 2.2: predicted organs augment the labels of cases annotated
for tumours, and "in the event of annotation conflicts, the original labels are preserved". There a voxel has
one label. Here it may have several, since organs include their tumours; so a merged label map has a value of
its own for each combination of an original value and added structures. Original values keep their numbers.
Hence the value of a voxel says which of its structures are original and which are pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...masks.boxes import Box
from ...structures import structure_or_tissue
from ..collection import DataSet
from .structure_relations import lies_within, may_share_voxels


class VoxelState(NamedTuple):
    """What is known of a voxel: its original value, and the added structures that follow from no other."""

    original: int
    added: frozenset[str]


@dataclass(frozen=True, eq=False)
class Merging:
    """How label maps of one data set take up predicted structures.

    Attributes:
        data_set: the rules of merged label maps.
        added: the predicted structures in the order in which they are added; later ones replace earlier ones
            where both cannot be.
        states: all that a voxel can be; the first is background.
        values: (states), the value of each state in merged label maps, of the type of their voxels.
        following: (added, states), the number of the state once a structure is added.
        conflicting: (added, states) bool; where original labels rule a structure out.
        members: (structures of the data set, states) bool; which voxels belong to which structure.
    """

    data_set: DataSet
    added: tuple[str, ...]
    states: tuple[VoxelState, ...]
    values: np.ndarray
    following: np.ndarray
    conflicting: np.ndarray
    members: np.ndarray


class MergedLabels(NamedTuple):
    """A merged label map.

    Attributes:
        labels: (z, y, x), whole numbers; uint8 where they fit, else uint16 or larger.
        voxels: of each structure of the data set.
        conflicts: for each added structure the predicted voxels that original labels rule out.
    """

    labels: np.ndarray
    voxels: dict[str, int]
    conflicts: dict[str, int]


def plan_merging(data_set: DataSet, added: Sequence[str]) -> Merging:
    """Work out the label values that merged label maps of a data set need; the same for all its cases.

    A predicted structure is taken up where no original label rules it out. Ruled out are: voxels of an
    annotated structure that it cannot share (`may_share_voxels`), voxels outside an annotated structure in
    which it lies by definition (`lies_within`: liver tumours outside an annotated liver), and ignored
    voxels. An added organ includes the tumours of it that were drawn originally, wherever they are. Where two
    added structures cannot be both, lesions replace parts of organs, and these organs; else the later one of
    the list stays. Values that the data set does not list mean nothing in it and are background afterwards.

    Args:
        data_set: the original rules; without structures for cases that have no label map.
        added: predicted structures, none of which is annotated.

    Returns:
        Its data set has the name, task, source and licence of the given one.

    Raises:
        InputError: a structure is annotated already, given twice, or can lie nowhere.
    """
    for number, structure in enumerate(added):
        if structure in data_set.structures or structure in added[:number]:
            raise InputError(
                f"{structure} cannot be added to the data set {data_set.name}, which has it; leave it out."
            )
    order = tuple(sorted(added, key=lambda id: structure_or_tissue(id).overlap_rank))
    listed = {value for values in data_set.structures.values() for value in values} - set(data_set.ignore)
    originals = [0, *sorted(listed), *sorted(set(data_set.ignore) - {0})]
    states = [VoxelState(value, frozenset()) for value in originals]
    following: list[list[int]] = []
    for state in states:  # grows on the way
        reached = [_after(state, structure, data_set) for structure in order]
        states += dict.fromkeys(other for other in reached if other not in states)
        following.append([states.index(other) for other in reached])
    values = [*originals, *range(max(originals) + 1, max(originals) + 1 + len(states) - len(originals))]
    members = {
        structure: [_belongs(state, structure, data_set) for state in states]
        for structure in [*data_set.structures, *added]
    }
    return Merging(
        replace(data_set, structures=_rules(members, values, data_set)),
        order,
        tuple(states),
        np.array(values, _smallest_type(values)),
        np.array(following, np.min_scalar_type(len(states) - 1)).reshape(len(states), len(order)).T,
        np.array([[_is_conflict(state, structure, data_set) for state in states] for structure in order]),
        np.array(list(members.values())),
    )


def merge_labels(
    merging: Merging,
    labels: np.ndarray | None,
    masks: Mapping[str, tuple[Box, np.ndarray]],
    shape: tuple[int, int, int],
) -> MergedLabels:
    """Add predicted masks to a label map.

    Args:
        merging: from `plan_merging`.
        labels: the original label map (z, y, x); None for a case that has none.
        masks: of each added structure, where it lies in the image and the boolean mask in that box (z, y, x).
        shape: of the image (z, y, x).
    """
    states = np.zeros(shape, merging.following.dtype)
    if labels is not None:
        originals = [state.original for state in merging.states if not state.added]
        for plane, given in zip(states, labels, strict=True):
            for number, value in enumerate(originals):
                plane[given == value] = number
    conflicts = {}
    for number, structure in enumerate(merging.added):
        box, mask = masks[structure]
        before = states[box][mask]
        conflicts[structure] = int(np.count_nonzero(merging.conflicting[number][before]))
        states[box][mask] = merging.following[number][before]
    merged = np.empty(shape, merging.values.dtype)
    counts = np.zeros(len(merging.states), np.int64)
    for plane, numbers in zip(merged, states, strict=True):  # an index array costs eight bytes for each voxel
        plane[...] = merging.values[numbers]
        counts += np.bincount(numbers.ravel(), minlength=len(counts))
    sums = (int(counts[row].sum()) for row in merging.members)
    return MergedLabels(merged, dict(zip(merging.data_set.structures, sums, strict=True)), conflicts)


def _after(state: VoxelState, structure: str, data_set: DataSet) -> VoxelState:
    """The state of a voxel once a predicted structure is added to it."""
    present = [*_annotated(state, data_set), *state.added]
    if not _is_allowed(state, structure, data_set) or any(lies_within(other, structure) for other in present):
        return state
    kept = [
        other
        for other in state.added
        if may_share_voxels(other, structure) and not lies_within(structure, other)
    ]
    return VoxelState(state.original, frozenset([*kept, structure]))


def _belongs(state: VoxelState, structure: str, data_set: DataSet) -> bool:
    if structure in data_set.structures:
        return state.original in data_set.structures[structure]
    present = [*_annotated(state, data_set), *state.added]
    return structure in state.added or any(lies_within(other, structure) for other in present)


def _is_conflict(state: VoxelState, structure: str, data_set: DataSet) -> bool:
    return state.original not in data_set.ignore and not _is_allowed(state, structure, data_set)


def _is_allowed(state: VoxelState, structure: str, data_set: DataSet) -> bool:
    """Whether the original label of a voxel lets a predicted structure be there."""
    if state.original in data_set.ignore:
        return False
    present = _annotated(state, data_set)
    outside = [other for other in data_set.structures if other not in present]
    return all(may_share_voxels(other, structure) for other in present) and not any(
        lies_within(structure, other) for other in outside
    )


def _annotated(state: VoxelState, data_set: DataSet) -> list[str]:
    if state.original in data_set.ignore:
        return []
    return [structure for structure, values in data_set.structures.items() if state.original in values]


def _rules(
    members: Mapping[str, Sequence[bool]], values: Sequence[int], data_set: DataSet
) -> dict[str, tuple[int, ...]]:
    """Label values of each structure."""
    rules = {}
    for structure, belongs in members.items():
        rules[structure] = tuple(value for value, inside in zip(values, belongs, strict=True) if inside)
        if not rules[structure]:
            raise InputError(
                f"{structure} can lie nowhere beside the annotated structures of the data set "
                f"{data_set.name} ({', '.join(data_set.structures)}); leave it out."
            )
    return rules


def _smallest_type(values: Sequence[int]) -> np.dtype:
    low, high = min(values), max(values)
    types = (np.uint8, np.uint16, np.int32)
    fitting = [kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
    if not fitting:
        raise InputError(f"Label values from {low} to {high} do not fit a label map; number them anew.")
    return np.dtype(fitting[0])
