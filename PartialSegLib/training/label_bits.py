"""Labels with eight voxels to a byte, as data workers send them and a GPU receives them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def to_bits(masks: Tensor) -> Tensor:
    """Masks (..., D, H, W) bool on the CPU as bytes (..., ceil(D * H * W / 8)), the first voxel lowest."""
    flat = masks.flatten(-3).numpy()
    return torch.from_numpy(np.packbits(flat, axis=-1, bitorder="little"))


def from_bits(bits: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (..., D, H, W) bool of a size (D, H, W), on the device of their bytes (..., B)."""
    flags = _flags_by_numpy(bits) if bits.device.type == "cpu" else flags_by_shifts(bits)
    return flags[..., : prod(size)].unflatten(-1, list(size))


def _flags_by_numpy(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, bitorder="little").view(bool))


def flags_by_shifts(bits: Tensor) -> Tensor:
    """The bits (..., 8 B) bool of bytes (..., B), on any device."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[..., None] >> places).bitwise_and_(1).bool().flatten(-2)
