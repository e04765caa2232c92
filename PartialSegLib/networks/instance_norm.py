"""Instance normalisation that leaves channels-last images as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .convolution import is_left_to_pytorch
from .group_norm import normalize


class InstanceNorm3d(nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d` with weight and bias: same function, same parameters.

    On CPUs PyTorch 2.13 brings a channels-last image to channels first, and the next convolution back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Give each channel of each image (B, C, D, H, W) zero mean and unit variance, scale and shift."""
        is_left = (
            torch.is_grad_enabled() or x.device.type != "cpu" or x.is_contiguous() or is_left_to_pytorch()
        )
        if is_left:
            return super().forward(x)
        return normalize(x, self.num_features, self.weight, self.bias, self.eps)
