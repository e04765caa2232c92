"""How much arithmetic a call takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Call the function once and count; a multiply-add is two FLOPs.

    What counts are convolutions, products of matrices and attention, as is usual; everything else is little.

    Args:
        function: a network in evaluation mode, or a method of one.
        inputs: what it is called with.
    """
    # Of the ways to compute attention only this one consists of products that PyTorch counts on every device.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), plain_attention, FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()
