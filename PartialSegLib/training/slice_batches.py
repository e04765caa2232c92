"""Batches of slices for the decision network: parts of scans, varied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..slice_selection import neighbor_indices
from .slice_cases import TrunkSlices


def draw_batch(
    images: Sequence[TrunkSlices],
    offsets: Sequence[int],
    batch_size: int,
    length: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Random parts of scans, each as if there were no slices beyond it.

    Args:
        images: what to draw from.
        offsets: of the channels from the judged slice.
        batch_size: number of parts.
        length: slices of a part, at most; no more than the shortest image has.
        rng: random generator.

    Returns:
        Slices with their neighbours (B, S, C, N, N) float32, and 1 for each task that needs them, else 0,
        (B, S, T) float32.
    """
    length = min(length, *(len(image.squares) for image in images))
    squares, needed = [], []
    for _ in range(batch_size):
        image = images[int(rng.integers(len(images)))]
        first = int(rng.integers(len(image.squares) - length + 1))
        squares.append(image.squares[first : first + length].float())
        needed.append(image.needed[first : first + length])
    slices = augmented(torch.stack(squares), rng)[:, neighbor_indices(length, offsets)]
    return slices, torch.from_numpy(np.array(needed, np.float32))


def augmented(slices: Tensor, rng: np.random.Generator) -> Tensor:
    """Scans (B, S, N, N) turned, scaled, moved, brighter or darker, each as a whole; never mirrored."""
    count = len(slices)
    angle, scale = rng.uniform(-0.15, 0.15, count), rng.uniform(0.8, 1.2, (count, 2))
    cosine, sine = np.cos(angle), np.sin(angle)
    shift = rng.uniform(-0.12, 0.12, (count, 2))
    rows = [[cosine * scale[:, 0], -sine, shift[:, 0]], [sine, cosine * scale[:, 1], shift[:, 1]]]
    matrices = torch.from_numpy(np.array(rows, np.float32)).permute(2, 0, 1)
    grid = functional.affine_grid(matrices, list(slices.shape), align_corners=False)
    moved = functional.grid_sample(slices, grid, padding_mode="border", align_corners=False)
    gain, offset = rng.uniform(0.85, 1.15, count), rng.normal(0, 0.15, count)
    noise = torch.from_numpy(rng.normal(0, 0.08, slices.shape).astype(np.float32))
    return moved * _column(gain) + _column(offset) + noise


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]
