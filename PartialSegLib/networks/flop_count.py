"""How much arithmetic a call takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Call the function once and count; a multiply-add is two FLOPs.

    What counts are convolutions, products of matrices and attention, as is usual; everything else is little.

    Args:
        function: a network in evaluation mode, or a method of one.
        inputs: what it is called with.
    """
    with torch.inference_mode(), _plain_attention(), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


def _plain_attention() -> AbstractContextManager[None]:
    """Attention by those of its ways that consist of products, which PyTorch counts on every device."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # PyTorch 2.2
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    return sdpa_kernel(SDPBackend.MATH)
