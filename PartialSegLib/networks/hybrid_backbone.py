"""The convolutional part of TransDoDNet's hybrid backbone: a 3-D ResNet and the steps of the decoder.

Post-activation residual blocks (He et al. 2016, v1) with instance normalisation (TransDoDNet, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers.convolution import Conv3d
from .layers.instance_norm import InstanceNorm3d

EXPANSION = 4  # of a bottleneck's last convolution
STEM_STRIDE = (1, 2, 2)


def convolution_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int | tuple[int, int, int] = 1
) -> list[nn.Module]:
    """A convolution without bias and an instance normalisation."""
    padding = kernel_size // 2
    convolution = Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    return [convolution, InstanceNorm3d(out_channels)]


def activation(negative_slope: float) -> nn.Module:
    """A ReLU for slope 0, else a leaky one."""
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


class Bottleneck(nn.Module):
    """Convolutions 1x1x1, 3x3x3 (with the stride) and 1x1x1, the last one widening four times.

    Args:
        in_channels: of the input.
        planes: channels between the convolutions; the output has four times as many.
        stride: along every axis.
        negative_slope: of the activations.
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1, negative_slope: float = 0.0) -> None:
        super().__init__()
        out_channels = EXPANSION * planes
        self.unit1 = nn.Sequential(*convolution_norm(in_channels, planes), activation(negative_slope))
        self.unit2 = nn.Sequential(*convolution_norm(planes, planes, 3, stride), activation(negative_slope))
        self.unit3 = nn.Sequential(*convolution_norm(planes, out_channels))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(*convolution_norm(in_channels, out_channels, 1, stride))
        self.activation = activation(negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C_in, D, H, W) to (B, 4 * planes, D/stride, H/stride, W/stride)."""
        return self.activation(self.unit3(self.unit2(self.unit1(x))) + self.shortcut(x))


class ResidualEncoder(nn.Module):
    """Two convolutions that halve H and W, then stages of bottlenecks that halve every axis.

    Args:
        in_channels: of the image.
        stem_width: channels of the first two convolutions.
        planes: of the stages' bottlenecks.
        depths: bottlenecks of each stage; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        negative_slope: of the activations.
    """

    def __init__(
        self,
        in_channels: int = 1,
        stem_width: int = 32,
        planes: Sequence[int] = (64, 128, 256, 320),
        depths: Sequence[int] = (3, 4, 6, 3),
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *convolution_norm(in_channels, stem_width, 3, STEM_STRIDE),
            activation(negative_slope),
            *convolution_norm(stem_width, stem_width, 3),
            activation(negative_slope),
        )
        self.widths = [stem_width, *(EXPANSION * stage_planes for stage_planes in planes)]
        self.stages = nn.ModuleList()
        for before, after, stage_planes, depth in zip(
            self.widths, self.widths[1:], planes, depths, strict=False
        ):
            first = Bottleneck(before, stage_planes, 2, negative_slope)
            rest = (Bottleneck(after, stage_planes, 1, negative_slope) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(first, *rest))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode x (B, C, D, H, W): outputs of the stem (D, H/2, W/2) and of each stage, fine to coarse."""
        outputs = [self.stem(x)]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs


class DecoderStep(nn.Module):
    """Transposed convolution to twice the size, plus the projected skip connection, and a residual block.

    Args:
        in_channels: of the coarser features.
        out_channels: of the result.
        skip_channels: of the encoder's output of that size.
        negative_slope: of the activations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, skip_channels: int, negative_slope: float = 0.0
    ) -> None:
        super().__init__()
        self.upsampling = nn.ConvTranspose3d(in_channels, out_channels, 2, 2, bias=False)
        self.skip = nn.Sequential(*convolution_norm(skip_channels, out_channels), activation(negative_slope))
        self.block = nn.Sequential(
            *convolution_norm(out_channels, out_channels, 3),
            activation(negative_slope),
            *convolution_norm(out_channels, out_channels, 3),
        )
        self.activation = activation(negative_slope)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Combine x (B, C_in, D/2, H/2, W/2) and skip (B, C_skip, D, H, W) to (B, C_out, D, H, W)."""
        x = self.upsampling(x) + self.skip(skip)
        return self.activation(self.block(x) + x)
