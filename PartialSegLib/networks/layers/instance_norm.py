"""Instance normalisation that leaves channels-last images as they are."""

from __future__ import annotations

from torch import Tensor, nn

from .group_norm import can_normalize, normalize


class InstanceNorm3d(nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d` with weight and bias: same function, same parameters.

    On CPUs PyTorch 2.13 brings a channels-last image to channels first, and the next convolution back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Give each channel of each image (B, C, D, H, W) zero mean and unit variance, scale and shift."""
        if can_normalize(x):
            return normalize(x, self.num_features, self.weight, self.bias, self.eps)
        return super().forward(x)
