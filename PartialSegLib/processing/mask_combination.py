"""Masks of the input grid put together: a coarse model's in one region, a fine model's elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..masks.boxes import box_around, box_shape, common_box, index_within
from ..structures import structure_or_tissue
from .restoration import Restored


def combine_masks(fine: Restored, coarse: Restored, region: Restored) -> Restored:
    """One mask inside a region, another one outside.

    Args:
        fine: box of the input grid (z, y, x), and the mask within it.
        coarse: the same of the mask that holds inside the region.
        region: the same of the region.

    Returns:
        A box, and the mask within it.
    """
    inside = common_box(coarse[0], region[0])
    box = box_around(fine[0], inside)
    mask = np.zeros(box_shape(box), bool)
    mask[index_within(box, fine[0])] = fine[1]
    clear_voxels((box, mask), region)
    there = region[1][index_within(region[0], inside)]
    mask[index_within(box, inside)] |= there & coarse[1][index_within(coarse[0], inside)]
    return box, mask


def without_overlap(masks: Mapping[str, Restored]) -> dict[str, Restored]:
    """Give each voxel to one structure: to the one that a label map would name.

    That is a lesion before a structure within an organ (a vessel), and that before an organ; of equals the
    last one.

    Args:
        masks: for each structure a box of the input grid (z, y, x), and the mask within it; left as they are.

    Returns:
        The same, without voxels that another structure has got.
    """
    result: dict[str, Restored] = {}
    for structure in reversed(sorted(masks, key=lambda id: structure_or_tissue(id).overlap_rank)):
        box, mask = masks[structure][0], masks[structure][1].copy()
        for other in result.values():
            clear_voxels((box, mask), other)
        result[structure] = box, mask
    return result


def unite_masks(masks: Sequence[Restored]) -> Restored:
    """The voxels of any of some masks.

    Args:
        masks: one or more: each a box of the input grid (z, y, x), and the mask within it.

    Returns:
        The smallest box around theirs, and the mask within it.
    """
    box = masks[0][0]
    for other, _ in masks[1:]:
        box = box_around(box, other)
    united = np.zeros(box_shape(box), bool)
    for inner, mask in masks:
        united[index_within(box, inner)] |= mask
    return box, united


def clear_voxels(found: Restored, region: Restored) -> None:
    """Remove the voxels of a region from a mask, in place.

    Args:
        found: a box of the input grid (z, y, x), and the mask within it, which changes.
        region: the same of the region.
    """
    shared = common_box(found[0], region[0])
    found[1][index_within(found[0], shared)] &= ~region[1][index_within(region[0], shared)]
