"""Building blocks of the networks: weight-standardised convolution and pre-activation residual block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .convolution import Conv3d
from .group_norm import GroupNorm

VARIANCE_FLOOR = 1e-12  # inside the square root, as in the official DoDNet


def standardize_weight(weight: Tensor) -> Tensor:
    """Give every output filter zero mean and unit (unbiased) variance.

    Weight standardisation (Qiao et al. 2019) as DoDNet uses it: no learned gain, no fan-in scaling.

    Args:
        weight: (C_out, C_in, kD, kH, kW).
    """
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3, 4), keepdim=True)
    return (weight - mean) / torch.sqrt(variance + VARIANCE_FLOOR)


class WeightStandardizedConv3d(Conv3d):
    """3-D convolution without bias whose filters are standardised in every forward pass.

    `fold` standardises them once and for all, for inference.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.folded = False

    def fold(self) -> None:
        """Store the standardised filters: same function, but the state_dict no longer holds the raw ones."""
        if not self.folded:
            with torch.no_grad():
                self.weight.copy_(standardize_weight(self.weight))
            self.folded = True

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C_in, D, H, W)."""
        weight = self.weight if self.folded else standardize_weight(self.weight)
        return self._conv_forward(x, weight, None)


def norm_relu(channels: int, groups: int) -> list[nn.Module]:
    """Group normalisation followed by a ReLU, the pre-activation of every convolution."""
    return [GroupNorm(groups, channels), nn.ReLU(inplace=True)]


def projection(in_channels: int, out_channels: int, groups: int, stride: int = 1) -> nn.Sequential:
    """Norm-ReLU-1x1x1 convolution to another width or size."""
    return nn.Sequential(
        *norm_relu(in_channels, groups), WeightStandardizedConv3d(in_channels, out_channels, 1, stride)
    )


class PreActivationBlock(nn.Module):
    """Two norm-ReLU-convolution units and a shortcut that takes the raw input (He et al. 2016, v2).

    The shortcut is the identity, or norm-ReLU-1x1x1 convolution where stride or width change.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 16) -> None:
        super().__init__()
        self.unit1 = nn.Sequential(
            *norm_relu(in_channels, groups), WeightStandardizedConv3d(in_channels, out_channels, 3, stride)
        )
        self.unit2 = nn.Sequential(
            *norm_relu(out_channels, groups), WeightStandardizedConv3d(out_channels, out_channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = projection(in_channels, out_channels, groups, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C_in, D, H, W) to (B, C_out, D/stride, H/stride, W/stride)."""
        return self.unit2(self.unit1(x)).add_(self.shortcut(x))


def upsample_add(x: Tensor, skip: Tensor) -> Tensor:
    """Trilinear up-sampling of x to twice its size plus the skip connection, both (B, C, D, H, W)."""
    return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False).add_(skip)
