"""The choice for each patch: a fine model looks at it, or the result of a coarse one is enough.

Wang et al.: Med-DANet, ECCV 2022, equation 4: a decision network learns for each slice whether to skip it or
which network of a bank segments it, from the Dice and the FLOPs of each network. Here nothing is learnt: a
patch is skipped when it touches nothing that a coarse model marked; of the others a fine model visits those
with the most voxels of which the coarse model is uncertain, and how many of them is the user's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from ..masks.boxes import Box
from .sliding_window import Patch


def choose_patches(patches: Sequence[Patch], uncertain: np.ndarray, effort: float) -> list[Patch]:
    """Choose patches until they cover a share of the uncertain voxels.

    Each time the patch is taken that covers the most of those not yet covered; of equals the first. The order
    does not depend on the share, so what a lower share chooses is part of what a higher one does. Since gains
    only shrink, a gain that is still the highest after it was counted again needs no other to be counted
    (lazy greedy: Minoux 1978). Voxels are counted once, in the cells between the faces of all patches.

    Args:
        patches: the candidates, in ascending order of their start.
        uncertain: (D, H, W) bool; what no patch holds does not count.
        effort: the share, in [0, 1].

    Returns:
        The chosen patches, in the order of `patches`; none for 0 or where nothing is uncertain.
    """
    counts, places = _count_by_cell(patches, uncertain)
    total = int(counts.sum())
    gains = [(-int(counts[place].sum()), number) for number, place in enumerate(places)]
    heapify(gains)
    chosen: list[int] = []
    covered = 0
    while total and covered / total < effort:
        before, number = heappop(gains)
        gain = int(counts[places[number]].sum())
        if gain < -before:
            heappush(gains, (-gain, number))
            continue
        chosen.append(number)
        covered += gain
        counts[places[number]] = 0
    return [patches[number] for number in sorted(chosen)]


def covered_voxels(patches: Sequence[Patch], shape: Sequence[int]) -> np.ndarray:
    """The voxels (D, H, W) of an image that patches hold."""
    covered = np.zeros(tuple(shape), bool)
    for patch in patches:
        covered[patch.slices] = True
    return covered


def _count_by_cell(patches: Sequence[Patch], uncertain: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Uncertain voxels in each cell between the faces of all patches, and the cells of each patch."""
    if not patches:
        return np.zeros((0, 0, 0), np.int32), []
    faces = [
        np.unique([face for patch in patches for face in (patch.slices[axis].start, patch.slices[axis].stop)])
        for axis in range(3)
    ]
    counts = uncertain.view(np.uint8)
    for axis in (2, 1, 0):  # the axis whose voxels lie side by side first: that is five times faster
        within = [slice(None)] * 3
        within[axis] = slice(faces[axis][0], faces[axis][-1])
        starts = faces[axis][:-1] - faces[axis][0]
        counts = np.add.reduceat(counts[tuple(within)], starts, axis=axis, dtype=np.int32)
    places = [_cells(patch, faces) for patch in patches]
    held = np.zeros(counts.shape, bool)
    for place in places:
        held[place] = True
    counts[~held] = 0
    return counts, places


def _cells(patch: Patch, faces: Sequence[np.ndarray]) -> Box:
    z, y, x = (
        slice(*np.searchsorted(along, (extent.start, extent.stop)).tolist())
        for along, extent in zip(faces, patch.slices, strict=True)
    )
    return z, y, x
