"""Which pseudo-labels to distrust: two predictions disagree, or a volume is none that labelled cases have.

Two criteria that can be checked without a truth. The winners of FLARE22, on whom the pseudo-labelling of
FLARE23 builds (Huang et al., FLARE23, section 1: "pseudo-labeling and label-filtering techniques"), also left
out cases on which models disagree; the paper on FLARE23 itself uses all.
"""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import InputError
from ...evaluation import dice
from ...segmentation import Key, Segmentation
from ...volume import Volume, read_volume
from ..collection import Case, Collection
from .record import StructureRecord


@dataclass(frozen=True)
class ReliabilityLimits:
    """Limits that a case must keep to; the whole case is left out where one of its pseudo-labels does not.

    Attributes:
        disagreement: for each structure the largest 1 − Dice, 0 to 1, between the two predictions.
        volume_ml: for each structure the smallest and the largest volume, ml.
    """

    disagreement: Mapping[str, float] = field(default_factory=dict)
    volume_ml: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse limits that are no shares."""
        for structure, limit in self.disagreement.items():
            if not 0 <= limit <= 1:
                raise InputError(
                    f"The largest disagreement of {structure} is a share from 0 to 1, not {limit}; change it."
                )


def disagreement(first: Segmentation, key: Key, second: Segmentation, other: Key) -> float:
    """Return 1 − Dice of two predictions of a structure in one image; 0 where neither found anything."""
    return 1 - dice(first[key], second[other])


def doubts(structures: Mapping[str, StructureRecord], limits: ReliabilityLimits) -> tuple[str, ...]:
    """Say which pseudo-labels of a case exceed which limit, one text for each; none for original labels."""
    found = []
    for name, record in structures.items():
        if record.origin == "original":
            continue
        limit = limits.disagreement.get(name)
        if limit is not None and record.disagreement is not None and record.disagreement > limit:
            found.append(f"{name}: the predictions disagree by {record.disagreement:.3f}, above {limit:g}")
        low, high = limits.volume_ml.get(name, (0, np.inf))
        if not low <= record.volume_ml <= high:
            found.append(f"{name}: {record.volume_ml:.1f} ml, not {low:.1f} to {high:.1f} ml")
    return tuple(found)


def labelled_cases(
    collection: Collection, structures: Iterable[str], earlier: Mapping[str, Container[str]]
) -> dict[str, list[Case]]:
    """The training cases that each structure is annotated in; structures without any are left out.

    Args:
        collection: of labelled and other cases.
        structures: ids.
        earlier: by the name of a case, structures predicted by a model of an earlier stage; they do not
            count.

    Raises:
        InputError: no case is labelled for any of them.
    """
    cases = {
        structure: [
            case
            for case in collection.split("training")
            if case.label
            and structure in collection.data_sets[case.data_set].structures
            and structure not in earlier.get(case.name, ())
        ]
        for structure in structures
    }
    if not any(cases.values()):
        raise InputError(
            f"No training case is labelled for {', '.join(cases)}, so their volumes have no percentiles; "
            "leave the limits on volumes out."
        )
    return {structure: labelled for structure, labelled in cases.items() if labelled}


def check_percentiles(percentiles: Sequence[float]) -> None:
    """Refuse percentiles in the wrong order or outside 0 to 100.

    Raises:
        InputError: they are.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"Percentiles are two numbers from 0 to 100, as 1 and 99, not {low:g} and {high:g}.")


def volume_limits(
    collection: Collection, references: Mapping[str, Sequence[Case]], percentiles: Sequence[float]
) -> dict[str, tuple[float, float]]:
    """Percentiles of the volumes that structures have in labelled cases.

    Args:
        collection: that the cases are of; label maps are read one by one.
        references: from `labelled_cases`.
        percentiles: lower and upper, 0 to 100.

    Returns:
        For each structure the lowest and the highest volume, ml.

    Raises:
        InputError: wrong percentiles, or a label map cannot be read.
    """
    check_percentiles(percentiles)
    wanted: dict[Case, list[str]] = {}
    for structure, cases in references.items():
        for case in cases:
            wanted.setdefault(case, []).append(structure)
    volumes: dict[str, list[float]] = {structure: [] for structure in references}
    for case, structures in wanted.items():
        labels = read_volume(collection.path(case.label or ""))
        for structure in structures:
            values = collection.data_sets[case.data_set].structures[structure]
            volumes[structure].append(_volume_ml(labels, values))
    limits = {structure: np.percentile(known, percentiles) for structure, known in volumes.items()}
    return {
        structure: (round(float(low), 3), round(float(high), 3)) for structure, (low, high) in limits.items()
    }


def _volume_ml(labels: Volume, values: Iterable[int]) -> float:
    voxels = sum(int(np.count_nonzero(np.isin(plane, list(values)))) for plane in labels.array)
    return voxels * labels.voxel_volume / 1000
