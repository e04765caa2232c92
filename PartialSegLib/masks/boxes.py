"""Boxes of voxels: part of a volume (z, y, x), as slices with explicit starts and stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Box: TypeAlias = tuple[slice, slice, slice]
"""The part of a volume (z, y, x) that a cropped mask fills."""

EMPTY_BOX: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


def box_shape(box: Box) -> tuple[int, int, int]:
    """Voxels (z, y, x) of a box."""
    z, y, x = (extent.stop - extent.start for extent in box)
    return z, y, x


def is_empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(extent.start >= extent.stop for extent in box)


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around the set voxels of a boolean mask (z, y, x); `EMPTY_BOX` if there are none."""
    spans = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hits):
            return EMPTY_BOX
        spans.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return spans[0], spans[1], spans[2]


def common_box(first: Box, second: Box) -> Box:
    """What two boxes share; of no voxels at the start of the first where that is nothing."""
    starts = [max(a.start, b.start) for a, b in zip(first, second, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(first, second, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        starts = stops = [extent.start for extent in first]
    z, y, x = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    return z, y, x


def box_around(first: Box, second: Box) -> Box:
    """The smallest box around two; an empty one does not count."""
    if is_empty(first) or is_empty(second):
        return second if is_empty(first) else first
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return z, y, x


def widened(box: Box, margins: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with a margin (z, y, x) on both sides of each axis, as far as a volume of that shape reaches."""
    z, y, x = (
        slice(max(0, extent.start - margin), min(size, extent.stop + margin))
        for extent, margin, size in zip(box, margins, shape, strict=True)
    )
    return z, y, x


def index_within(outer: Box, inner: Box) -> Box:
    """A box as an index into the one that holds it; an empty one may lie anywhere."""
    if is_empty(inner):
        return EMPTY_BOX
    z, y, x = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return z, y, x


def placed_in(outer: Box, inner: Sequence[slice]) -> Box:
    """The box that an index into another one stands for: the way back from `index_within`."""
    z, y, x = (slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))
    return z, y, x
