"""Multi-scale deformable attention in three dimensions, in plain PyTorch.

Zhu et al., Deformable DETR, ICLR 2021, extended to volumes by TransDoDNet (section 3.3.2, equations 10, 11):
a query looks at a few points of each level only, and generates the points and their weights itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .point_sampling import sum_sampled_points

Shape = Sequence[int]
"""Voxels of a level along (D, H, W)."""

OffsetScale = Literal["constant", "level"]
COARSEST_SCALE = 16  # of the coarsest level; twice as much for every finer one


class SamplingPoints(NamedTuple):
    """Where queries look, and how much each point counts: what attention pictures show.

    Attributes:
        locations: (B, queries, heads, levels, points, 3), fractions of the volume in the order (x, y, z) of
            `grid_sample`; outside 0 to 1 there is only zero to see.
        weights: (B, queries, heads, levels, points), of sum 1 over levels and points.
    """

    locations: Tensor
    weights: Tensor


class MultiScaleDeformableAttention(nn.Module):
    """Attention of queries to a few points of each level of a pyramid.

    Offsets are divided by constants, 64, 32 and 16 for three levels, whatever the size of the volume: the
    official code has them as an attribute that no checkpoint holds, so weights make sense with them only.

    Args:
        width: channels of queries and levels, a multiple of `num_heads`.
        num_levels: levels of the pyramid.
        num_heads: heads; each has its own points and width / num_heads channels.
        num_points: points per head and level.
        offset_scale: "constant" as above; "level" divides by (2W, 2W, 2H) of the level as a second copy of
            the module in the official repository does, which its package does not import.
    """

    def __init__(
        self,
        width: int,
        num_levels: int = 3,
        num_heads: int = 8,
        num_points: int = 4,
        offset_scale: OffsetScale = "constant",
    ) -> None:
        super().__init__()
        self.points_shape = (num_heads, num_levels, num_points)
        self.offset_scale = offset_scale
        self.offsets = nn.Linear(width, math.prod(self.points_shape) * 3)
        self.weights = nn.Linear(width, math.prod(self.points_shape))
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)

    def initialize(self, gain: float) -> None:
        """Xavier-normal matrices, this gain for the projections; every head starts in its own direction."""
        for layer, its_gain in (
            (self.offsets, 1.0),
            (self.weights, 1.0),
            (self.value_projection, gain),
            (self.output_projection, gain),
        ):
            nn.init.xavier_normal_(layer.weight, its_gain)
            nn.init.zeros_(layer.bias)
        heads, _, points = self.points_shape
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.sin() * angle.cos(), angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        bias = (direction[:, None, None] * steps).expand(*self.points_shape, 3)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Weighted sums of what the queries see.

        Args:
            query: (B, Q, width).
            reference: (B or 1, Q, 3), the queries' positions as fractions in the order (x, y, z).
            tokens: (B, N, width), the voxels of all levels, level by level, each in the order of its array.
            shapes: of the levels.

        Returns:
            (B, Q, width).
        """
        points = self.sampling_points(query, reference, shapes)
        return self.output_projection(self._sample(self.value_projection(tokens), shapes, points))

    def sampling_points(self, query: Tensor, reference: Tensor, shapes: Sequence[Shape]) -> SamplingPoints:
        """Points and weights of the queries; arguments as for `forward`."""
        offsets = self.offsets(query).unflatten(-1, (*self.points_shape, 3))
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))  # bfloat16 is too coarse
        locations = reference[:, :, None, None, None] + offsets / self._scales(shapes, offsets)
        weights = self.weights(query).unflatten(-1, (self.points_shape[0], -1)).softmax(-1)
        return SamplingPoints(locations, weights.unflatten(-1, self.points_shape[1:]))

    def _scales(self, shapes: Sequence[Shape], like: Tensor) -> Tensor:
        """Divisors of the offsets (levels, 1, 3)."""
        if self.offset_scale == "level":
            scales = [(2 * width, 2 * width, 2 * height) for _, height, width in shapes]
        else:
            finest = len(shapes) - 1
            scales = [(COARSEST_SCALE * 2 ** (finest - level),) * 3 for level in range(len(shapes))]
        return like.new_tensor(scales)[:, None]

    def _sample(self, values: Tensor, shapes: Sequence[Shape], points: SamplingPoints) -> Tensor:
        """Read the values (B, N, width) at the points and add them up by weight: (B, Q, width)."""
        batch, heads = values.shape[0], self.points_shape[0]
        if values.device.type == "cpu" and not torch.is_grad_enabled():
            return sum_sampled_points(values.to(points.locations.dtype), shapes, *points)
        values = values.unflatten(2, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, C, N)
        grids = (2 * points.locations - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, points, 3)
        weights = points.weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, 1, Q, levels, points)
        parts = values.to(grids.dtype).split([math.prod(shape) for shape in shapes], dim=2)
        total = grids.new_zeros(())
        for level, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            volume, grid = part.unflatten(2, tuple(shape)), grids[:, :, level, :, None]
            seen = functional.grid_sample(volume, grid, align_corners=False)  # (B * heads, C, Q, points, 1)
            total = total + (seen[..., 0] * weights[..., level, :]).sum(-1)
        return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)
