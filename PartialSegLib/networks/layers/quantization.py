"""Convolutions with kernels rounded to a number of bits, as Med-DANet version 2 has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALE_FLOOR = 1e-8  # added to the largest weight, so that kernels of zeros can be divided by it


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """Round a kernel of any shape to 2^bits - 1 equally spaced numbers, symmetric about zero.

    One scale for the whole kernel; its largest absolute value is the outermost number. Rounding has no
    gradient, so this is for inference.
    """
    steps = 2 ** (bits - 1) - 1
    largest = weight.abs().max() + SCALE_FLOOR
    return torch.round(weight * steps / largest) * largest / steps


def call_quantized(module: nn.Module, x: Tensor, bits: int) -> Tensor:
    """Call a module with the kernels of its convolutions rounded; biases and normalisations stay as they are.

    Args:
        module: any number of 2-D convolutions among its parts.
        x: its input.
        bits: for each weight.
    """
    kernels = {
        name: quantize_weight(weight, bits) for name, weight in module.named_parameters() if weight.ndim == 4
    }
    return torch.func.functional_call(module, kernels, (x,))
