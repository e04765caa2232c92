"""From the network's grid back to the volume's: the mirror image of `preprocess`, one structure at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..masks.boxes import EMPTY_BOX, Box, is_empty
from ..pytorch.tensor_arrays import array_of
from .preprocessing import PreparedImage
from .resampling import Matrices, bounding_box, resample_by_slabs, used_columns, used_rows

Restored = tuple[Box, np.ndarray]
"""A box of the input grid (z, y, x), and the boolean mask within it."""


def restore(scores: Tensor, prepared: PreparedImage, threshold: float) -> Restored:
    """Bring scores back to the input grid and threshold them there.

    A restored score is a weighted mean of network scores, so it exceeds the threshold only where one of these
    does: that box is computed, slab by slab, and no more.

    Args:
        scores: (D, H, W), the shape of `prepared.tensor`; outside the crop they count as 0.
        prepared: what `preprocess` returned.
        threshold: at least 0.

    Returns:
        The box on the input grid (z, y, x) and the boolean mask `score > threshold` within it.
    """
    scores = scores.permute([axis.network_axis for axis in prepared.axes])
    to_input = weights_to_input(prepared, scores.device)
    box, source, matrices = way_back(to_input, bounding_box(scores > threshold))
    if is_empty(box):  # also where a speck lies between the voxels of a coarser input grid
        return EMPTY_BOX, np.zeros((0, 0, 0), bool)
    part = scores[source].float()
    mask = torch.empty([matrix.shape[0] for matrix in matrices], dtype=torch.bool)
    for planes, slab in resample_by_slabs(lambda rows: part[rows], matrices):
        mask[planes] = slab > threshold
    return box, array_of(mask)


def weights_to_input(prepared: PreparedImage, device: torch.device) -> Matrices:
    """Weights (input, network) along the axes of the input grid; what was cropped away has no column."""
    z, y, x = (axis.to_input(device)[:, prepared.crop[axis.network_axis]] for axis in prepared.axes)
    return z, y, x


def interpolation_reach(prepared: PreparedImage) -> tuple[int, int, int]:
    """Along each axis of the network's grid, how far apart voxels can be that make up one restored score."""
    reach = [0, 0, 0]
    for axis, weights in zip(prepared.axes, weights_to_input(prepared, torch.device("cpu")), strict=True):
        used = array_of(weights != 0)
        last = used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
        reach[axis.network_axis] = int((last - used.argmax(axis=1))[used.any(axis=1)].max(initial=0))
    return reach[0], reach[1], reach[2]


def way_back(to_input: Matrices, extent: Box) -> tuple[Box, Box, Matrices]:
    """How scores in an extent of the network grid, its axes in the input's order, return to the input grid.

    Args:
        to_input: weights (input, network) along each axis.
        extent: of network voxels.

    Returns:
        The box of the input grid that they reach, the box of network voxels that this box is interpolated
        from, and the weights between the two.
    """
    box, source, matrices = [], [], []
    for weights, columns in zip(to_input, extent, strict=True):
        rows = used_rows(weights[:, columns])
        needed = used_columns(weights[rows])
        box.append(rows)
        source.append(needed)
        matrices.append(weights[rows, needed].contiguous())
    return (
        (box[0], box[1], box[2]),
        (source[0], source[1], source[2]),
        (matrices[0], matrices[1], matrices[2]),
    )
