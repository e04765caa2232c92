"""Slice selection: a small 2-D network says which axial slices a task needs, before anything is encoded.

Wang et al.: Med-DANet, ECCV 2022, section 3.2: a decision network chooses for every slice among skipping it
and several networks. Here it is the skip alone, decided for each task: one sigmoid for each task takes the
place of the softmax over the choices, and the thresholds are chosen for recall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from ..decision_spec import DecisionSpec
from ..manifest import AXIS_OF_LETTER, Preprocessing
from ..pytorch.tensor_arrays import array_of
from .sliding_window import Patch, positions_along_axis

FAST_CONTEXT_MM = 24.0  # around a slab of kept slices, inside its patches
_SLICES_AT_ONCE = 64


def axial_axis(preprocessing: Preprocessing) -> int:
    """The axis (0, 1 or 2) of the network's grid that runs from the feet to the head."""
    return [AXIS_OF_LETTER[letter] for letter in preprocessing.orientation].index(2)


def reduce_slices(image: Tensor, axis: int, size: int) -> Tensor:
    """The axial slices of an image, averaged down to squares.

    Args:
        image: (D, H, W), scaled as the network sees it.
        axis: the axial axis of the image.
        size: height and width of the squares in pixels.

    Returns:
        (S, size, size), one for each index along the axial axis.
    """
    return functional.adaptive_avg_pool2d(image.movedim(axis, 0)[:, None], size)[:, 0]


def neighbor_indices(count: int, offsets: Sequence[int]) -> Tensor:
    """For each slice the indices (S, C) of its channels; beyond the image the outermost slice is repeated."""
    return (torch.arange(count)[:, None] + torch.tensor(offsets)).clamp_(0, count - 1)


def slice_scores(network: nn.Module, squares: Tensor, spec: DecisionSpec) -> np.ndarray:
    """Ask the decision network about the slices of an image.

    Args:
        network: in evaluation mode, on the CPU; maps (B, C, size, size) to logits (B, T).
        squares: (S, size, size), from `reduce_slices`.
        spec: how slices are seen, and which of them are judged.

    Returns:
        Scores (T, S), float32 in (0, 1).
    """
    squares, numbers = squares.cpu(), np.arange(len(squares))
    indices = neighbor_indices(len(squares), spec.offsets)[:: spec.every]
    with torch.inference_mode():
        parts = [squares[part] for part in indices.split(_SLICES_AT_ONCE)]
        # depthwise convolutions are almost twice as fast with the channels last
        logits = [network(part.contiguous(memory_format=torch.channels_last)) for part in parts]
    judged = array_of(torch.cat(logits).sigmoid().T)
    below = numbers // spec.every
    above = np.minimum(-(-numbers // spec.every), len(indices) - 1)
    return np.maximum(judged[:, below], judged[:, above])


def keep_slices(scores: np.ndarray, spec: DecisionSpec) -> np.ndarray:
    """Which slices (T, S) are kept: those that score enough, and `dilation` more on either side."""
    kept = scores >= np.array(spec.thresholds, np.float32)[:, None]
    return ndimage.maximum_filter1d(kept.astype(np.uint8), 2 * spec.dilation + 1, axis=1, mode="constant") > 0


def plan_on_slabs(
    patches: Sequence[Patch], kept: np.ndarray, axis: int, overlap: float, context: int
) -> list[Patch]:
    """Cover slabs of kept slices with as few patches as possible, instead of taking those of the whole image.

    Across the slices the patches stay where they are. Along the axial axis a slab that fits a patch with its
    context gets one: a patch of the whole image if one holds it, so that features can be shared, else one
    centred on the slab. Longer slabs are covered with the usual overlap. Where this saves nothing, the
    patches of the whole image that touch a kept slice are taken.

    Args:
        patches: of the whole image.
        kept: (S) bool, along the axial axis of the image that the patches cover.
        axis: that axis.
        overlap: shared fraction of neighbouring patches.
        context: slices around a slab that its patches shall hold as well.

    Returns:
        Patches in ascending order of their start.
    """
    size = patches[0].size[axis]
    given = sorted({patch.start[axis] for patch in patches})
    touching = [start for start in given if kept[start : start + size].any()]
    planned = {
        start
        for low, high in _slabs(kept, context)
        for start in _slab_starts(low, high, size, overlap, given)
    }
    starts = sorted(planned) if len(planned) < len(touching) else touching
    across = sorted({(*patch.start[:axis], *patch.start[axis + 1 :]) for patch in patches})
    moved = sorted((*first[:axis], start, *first[axis:]) for start in starts for first in across)
    return [Patch((z, y, x), patches[0].size) for z, y, x in moved]


def index_ranges(chosen: np.ndarray) -> list[list[int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [[int(first), int(end) - 1] for first, end in edges.reshape(-1, 2)]


def _slabs(kept: np.ndarray, context: int) -> list[tuple[int, int]]:
    """First slice and end of each slab with its context; slabs that meet become one."""
    widened = ndimage.maximum_filter1d(kept.astype(np.uint8), 2 * context + 1, mode="constant") > 0
    return [(first, last + 1) for first, last in index_ranges(widened)]


def _slab_starts(low: int, high: int, size: int, overlap: float, given: list[int]) -> list[int]:
    """Where patches begin that cover the slices from low up to high; `given` are those of the whole image."""
    if high - low > size:
        return [low + first for first in positions_along_axis(high - low, size, overlap, "even")]
    holding = [start for start in given if start <= low and high <= start + size]
    centered = min(max(0, (low + high - size) // 2), given[-1])
    return [min(holding, key=lambda start: (abs(start - centered), start))] if holding else [centered]
