"""Weighted sums of interpolated voxels as weighted sums of table rows, for deformable attention.

On CPUs `grid_sample` reads one channel after the other; an embedding bag reads all channels of a voxel at
once. For the tokens of TransDoDNet that takes half of the time (0.11 instead of 0.25 s on two cores).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional


def sum_sampled_points(
    values: Tensor, shapes: Sequence[Sequence[int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Interpolate levels at points between their voxels and add up by weight; there is no gradient.

    Outside of a level there is zero, as for `grid_sample` with align_corners=False. Eight voxels are read for
    a point, however many the levels have.

    Args:
        values: (B, N, width), the voxels of all levels, level by level, each in the order of its array.
        shapes: voxels of the levels along (D, H, W).
        locations: (B, Q, heads, levels, points, 3), fractions of a level in the order (x, y, z).
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, width): each head's sums over its own width / heads channels. NaN for a location that is NaN.
    """
    batch, voxels, width = values.shape
    heads = weights.shape[2]
    sizes = torch.tensor([tuple(shape) for shape in shapes], dtype=torch.int32)
    starts = list(accumulate((math.prod(shape) for shape in shapes[:-1]), initial=0))
    first = torch.arange(batch)[:, None] * voxels + torch.tensor(starts)
    head = torch.arange(heads)[:, None, None]
    rows = (first[:, None, None, :, None] * heads + head).int()  # (B, 1, heads, levels, 1)
    steps = heads * sizes[:, 1] * sizes[:, 2], heads * sizes[:, 2], torch.full_like(sizes[:, 0], heads)
    for axis, step in enumerate(steps):
        index, share = _neighbours(locations[..., 2 - axis], sizes[:, axis, None])
        sides = (2, *(1,) * axis, *share.shape[1:])
        rows = rows + (index * step[:, None]).view(sides)  # each axis in front of those before it
        weights = weights * share.view(sides)
    corners = (part.flatten(0, 2).movedim(0, 3).flatten(0, 2).flatten(1) for part in (rows, weights))
    table = values.reshape(-1, width // heads)
    bags, per_sample_weights = corners
    sums = functional.embedding_bag(bags, table, mode="sum", per_sample_weights=per_sample_weights)
    return sums.view(batch, -1, width)


def _neighbours(fractions: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis the voxels below and above (2, …), clipped to the level, and their shares: 0 outside."""
    position = fractions * sizes - 0.5
    below = position.floor()
    index = torch.stack([below, below + 1])
    share = torch.stack([1 - (position - below), position - below])
    inside = index.nan_to_num().clamp(min=0).minimum(sizes - 1)
    return inside.int(), share * (inside == index)
