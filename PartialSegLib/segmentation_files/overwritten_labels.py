"""What a label map lost where masks overlap, given back to them by the volumes in its table."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

from ..segmentation import Key
from ..structures import ORGANS_WITH_TUMOR, structure_or_tissue
from .label_tables import Values, table_path, volumes_of_table

_ROUNDING_ML = 0.001
_LOST_SHARE = 0.01
"""Of a mask, more than which is told to be overwritten."""

logger = logging.getLogger(__name__)


def given_back(path: Path, values: Values, label_ml: Mapping[float, float]) -> Values:
    """Add to each mask the labels that were written over it; warn of what cannot be given back.

    Args:
        path: The label map, with its table beside it.
        values: The labels of each mask, in the order of writing.
        label_ml: The volume of each label in the map, ml.
    """
    order = list(values)  # that of writing
    written_ml = volumes_of_table(table_path(path))
    result, lost = {}, []
    for place, key in enumerate(order):
        later = {other: values[other] for other in order[place + 1 :]}
        result[key] = own = _own_values(key, values, later, label_ml, written_ml.get(key))
        missing_ml = written_ml.get(key, 0.0) - sum(label_ml[number] for number in own)
        later_ml = sum(label_ml[number] for number in {*itertools.chain(*later.values())} - {*own})
        if max(_ROUNDING_ML, _LOST_SHARE * written_ml.get(key, 0.0)) < missing_ml < later_ml + _ROUNDING_ML:
            lost.append(f"{missing_ml:.3g} ml of {key[1]} ({key[0]})")
    if lost:
        logger.warning(
            "%s: %s were overwritten in this label map; evaluate a .seg.nrrd or a folder of masks instead.",
            *(path, ", ".join(lost)),
        )
    return result


def _own_values(
    key: Key, values: Values, later: Values, label_ml: Mapping[float, float], written_ml: float | None
) -> tuple[int, ...]:
    """The labels of a mask: its own and what brings it to its volume in the table.

    Labels that were written over the mask are added: structures inside the organ, tumours first, while they
    bring the volume closer to the table's; the same structure of another task only where it accounts for all
    that is missing. Where the table has no volume, or the map was edited and has more, an organ gets the
    tumour of its own task.
    """
    task, structure = key[0], structure_or_tissue(key[1])
    own = dict.fromkeys(values[key])
    tumor = f"{key[1]}_tumor" if key[1] in ORGANS_WITH_TUMOR else ""
    if written_ml is None or sum(label_ml[number] for number in own) > written_ml + _ROUNDING_ML:
        return tuple(own | dict.fromkeys(values.get((task, tumor), ())))
    tumors = sorted((other for other in values if other[1] == tumor), key=lambda other: other[0] != task)
    for other in dict.fromkeys([*tumors, *later]):
        added = [number for number in values[other] if number not in own]
        missing_ml = written_ml - sum(label_ml[number] for number in own)
        excess_ml = sum(label_ml[number] for number in added) - missing_ml
        region = structure_or_tissue(other[1]).region
        is_inside = structure.region is None and region == structure.type
        is_namesake = other[1] == key[1]
        if (is_inside and abs(excess_ml) < missing_ml) or (is_namesake and abs(excess_ml) < _ROUNDING_ML):
            own |= dict.fromkeys(added)
    return tuple(own)
