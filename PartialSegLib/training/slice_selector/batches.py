"""Batches of slices for the decision network: slices of shortened scans, varied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .trunks import TrunkSlices

_CUT_PROBABILITY = 0.03  # that the scan ends at the next slice: after 33 slices on average


def draw_batch(
    images: Sequence[TrunkSlices], offsets: Sequence[int], batch_size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random slices with their neighbours, each as if the scan ended somewhere above and below.

    Args:
        images: what to draw from.
        offsets: of the channels from the judged slice.
        batch_size: number of slices.
        rng: random generator.

    Returns:
        Slices (B, C, N, N) float32, and 1 for each task that needs them, else 0, (B, T) float32.
    """
    slices, needed = [], []
    for _ in range(batch_size):
        image = images[int(rng.integers(len(images)))]
        last = len(image.squares) - 1
        index = int(rng.integers(last + 1))
        below, above = (int(count) for count in rng.geometric(_CUT_PROBABILITY, 2))
        channels = np.clip(index + np.array(offsets), max(0, index - below), min(last, index + above))
        slices.append(image.squares[torch.from_numpy(channels)].float())
        needed.append(image.needed[index])
    return augmented(torch.stack(slices), rng), torch.from_numpy(np.array(needed, np.float32))


def augmented(slices: Tensor, rng: np.random.Generator) -> Tensor:
    """Slices (B, C, N, N) turned, scaled, moved, brighter or darker, each as a whole; never mirrored."""
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
