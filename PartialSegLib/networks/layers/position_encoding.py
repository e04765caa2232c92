"""Fixed sine and cosine encodings of the positions of a volume's voxels (TransDoDNet, section 3.3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURE = 10000.0
SPAN = 2 * math.pi


def volume_position_encoding(shape: Sequence[int], width: int, device: torch.device | None = None) -> Tensor:
    """Encodings of the three axes side by side, a third of the channels each (equation 8).

    Args:
        shape: voxels along (D, H, W).
        width: channels, a multiple of 3.
        device: where the encoding is needed.

    Returns:
        (D, H, W, width) in float32, whatever the precision of the network: so the official code has it.
    """
    encodings = []
    for axis, size in enumerate(shape):
        encoding = _axis_encoding(size, width // 3, device)
        along = [1, 1, 1, width // 3]
        along[axis] = size
        encodings.append(encoding.view(along).expand(*shape, -1))
    return torch.cat(encodings, dim=-1)


def _axis_encoding(size: int, channels: int, device: torch.device | None) -> Tensor:
    """Sines in the even channels and cosines in the odd ones (size, channels), after equation 7.

    Other than in the paper, three channels in a row share a frequency instead of two, and positions count
    from 1 and are scaled to the interval from 0 to 2 pi; checkpoints depend on both.
    """
    position = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * SPAN
    channel = torch.arange(channels, dtype=torch.float32, device=device)
    period = TEMPERATURE ** (3 * torch.div(channel, 3, rounding_mode="floor") / channels)
    angle = position[:, None] / period
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
