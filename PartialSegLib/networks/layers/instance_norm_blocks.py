"""Building blocks of the nnU-Net family: convolution, instance normalisation and leaky ReLU, in this order.

Isensee et al.: nnU-Net, Nature Methods 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .convolution import Conv3d
from .instance_norm import InstanceNorm3d

NEGATIVE_SLOPE = 0.01

Triple = tuple[int, int, int]
"""One number for each axis (D, H, W)."""

ONES: Triple = (1, 1, 1)
TWOS: Triple = (2, 2, 2)
THREES: Triple = (3, 3, 3)


def as_triples(rows: Sequence[Sequence[int]]) -> list[Triple]:
    """Kernel sizes or strides as a manifest lists them, one row (D, H, W) for each stage.

    Raises:
        ValueError: a row has not three numbers.
    """
    return [(depth, height, width) for depth, height, width in rows]


def convolution_unit(
    in_channels: int,
    out_channels: int,
    kernel_size: Triple = THREES,
    stride: Triple = ONES,
    *,
    bias: bool = True,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution, instance normalisation and, unless `activation` is off, leaky ReLU.

    Maps (B, in_channels, D, H, W) to (B, out_channels, D/stride, H/stride, W/stride).
    """
    padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
    unit = nn.Sequential(
        Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=bias),
        InstanceNorm3d(out_channels),
    )
    return unit.append(nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)) if activation else unit


def convolution_stage(
    in_channels: int,
    out_channels: int,
    kernel_size: Triple,
    stride: Triple = ONES,
    *,
    depth: int,
    bias: bool,
) -> nn.Sequential:
    """`depth` convolution units; the first one changes size and width."""
    first = convolution_unit(in_channels, out_channels, kernel_size, stride, bias=bias)
    rest = (convolution_unit(out_channels, out_channels, kernel_size, bias=bias) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


class ResidualBlock(nn.Module):
    """Two convolution units and a shortcut, added before the last leaky ReLU (He et al. 2016, v1).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of both convolutions.
        stride: of the first convolution.
        bias: whether the convolutions have one.
        shortcut: maps the input to the shape of the output; None is the identity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple = THREES,
        stride: Triple = ONES,
        *,
        bias: bool = True,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.unit1 = convolution_unit(in_channels, out_channels, kernel_size, stride, bias=bias)
        self.unit2 = convolution_unit(out_channels, out_channels, kernel_size, bias=bias, activation=False)
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in_channels, D, H, W) to (B, out_channels, D/stride, H/stride, W/stride)."""
        return functional.leaky_relu(
            self.unit2(self.unit1(x)).add_(self.shortcut(x)), NEGATIVE_SLOPE, inplace=True
        )


def residual_stage(
    first: ResidualBlock, channels: int, kernel_size: Triple, depth: int, bias: bool
) -> nn.Sequential:
    """`depth` residual blocks; the first one changes size and width, the others keep both."""
    rest = (ResidualBlock(channels, channels, kernel_size, bias=bias) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)
