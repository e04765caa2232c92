"""Masks of the input grid put together: a coarse model's in one region, a fine model's elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .restoration import Restored
from .segmentation import Box
from .structures import structure_or_tissue


def combine_masks(fine: Restored, coarse: Restored, region: Restored) -> Restored:
    """One mask inside a region, another one outside.

    Args:
        fine: box of the input grid (z, y, x), and the mask within it.
        coarse: the same of the mask that holds inside the region.
        region: the same of the region.

    Returns:
        A box, and the mask within it.
    """
    inside = _common(coarse[0], region[0])
    box = _around(fine[0], inside)
    mask = np.zeros([extent.stop - extent.start for extent in box], bool)
    mask[_within(box, fine[0])] = fine[1]
    shared = _common(box, region[0])
    mask[_within(box, shared)] &= ~region[1][_within(region[0], shared)]
    there = region[1][_within(region[0], inside)]
    mask[_within(box, inside)] |= there & coarse[1][_within(coarse[0], inside)]
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
        for other_box, other in result.values():
            shared = _common(box, other_box)
            mask[_within(box, shared)] &= ~other[_within(other_box, shared)]
        result[structure] = box, mask
    return result


def _common(first: Box, second: Box) -> Box:
    """What two boxes share; of no voxels at the start of the first where that is nothing."""
    starts = [max(a.start, b.start) for a, b in zip(first, second, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(first, second, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        starts = stops = [extent.start for extent in first]
    z, y, x = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    return z, y, x


def _around(first: Box, second: Box) -> Box:
    """The smallest box around two; an empty one does not count."""
    if _is_empty(first) or _is_empty(second):
        return second if _is_empty(first) else first
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return z, y, x


def _is_empty(box: Box) -> bool:
    return any(extent.start >= extent.stop for extent in box)


def _within(outer: Box, inner: Box) -> Box:
    """A box as an index into the one that holds it; an empty one may lie anywhere."""
    if _is_empty(inner):
        return slice(0, 0), slice(0, 0), slice(0, 0)
    z, y, x = (
        slice(extent.start - around.start, extent.stop - around.start)
        for extent, around in zip(inner, outer, strict=True)
    )
    return z, y, x
