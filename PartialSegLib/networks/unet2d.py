"""The modified 2-D U-Net of Med-DANet, whole and in parts, which 2-D TransBTS and version 2 share.

Wang et al.: Med-DANet, ECCV 2022, section 4.1: candidates M1 and M2 are a "modified 2D UNet" with 12 and 16
base channels. The paper does not say how it is modified. The official code of version 2 has a U-Net of base
16 with pre-activation blocks, whose cost agrees with that of M2 in Table 3, so it is taken to be M2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTH_FACTORS = (1, 2, 4, 8)
DEPTHS = (1, 2, 2, 4)
DROPOUT = 0.2


class PreActivationBlock2d(nn.Module):
    """Two units of batch normalisation, ReLU and 3x3 convolution, added to the input (He et al. 2016, v2).

    Args:
        channels: of input and output.
        bias: whether the convolutions have one.
    """

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.unit1 = _pre_activation_unit(channels, bias)
        self.unit2 = _pre_activation_unit(channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to the same shape."""
        return self.unit2(self.unit1(x)) + x


class UNetEncoder2d(nn.Module):
    """A convolution, then stages of pre-activation blocks with strided convolutions between them; no biases.

    Args:
        in_channels: image channels.
        base_width: channels at full resolution; the stages have 1, 2, 4 and 8 times as many.
        depths: blocks of the stages.
        dropout: share of the first convolution's outputs that training leaves out.
    """

    def __init__(
        self, in_channels: int, base_width: int, depths: Sequence[int] = DEPTHS, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.widths = [base_width * factor for factor in WIDTH_FACTORS]
        self.stem = nn.Conv2d(in_channels, base_width, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.stages = nn.ModuleList(
            nn.Sequential(*(PreActivationBlock2d(width, bias=False) for _ in range(depth)))
            for width, depth in zip(self.widths, depths, strict=True)
        )
        self.downsampling = nn.ModuleList(
            nn.Conv2d(above, below, 3, 2, 1, bias=False) for above, below in pairwise(self.widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Outputs (B, width, H / 2^s, W / 2^s) of the stages s from x (B, in_channels, H, W)."""
        x = self.dropout(self.stem(x))
        outputs = [self.stages[0](x)]
        for downsample, stage in zip(self.downsampling, self.stages[1:], strict=True):
            outputs.append(stage(downsample(outputs[-1])))
        return outputs


class UpsamplingStep2d(nn.Module):
    """1x1 convolution, transposed convolution, concatenation behind the skip, 1x1 convolution.

    Args:
        in_channels: of the coarser map.
        out_channels: of the skip and the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 1)
        self.upsampling = nn.ConvTranspose2d(out_channels, out_channels, 2, 2)
        self.fusion = nn.Conv2d(2 * out_channels, out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Combine x (B, in_channels, H/2, W/2) and skip (B, out_channels, H, W) to the shape of the skip."""
        return self.fusion(torch.cat([skip, self.upsampling(self.reduction(x))], dim=1))


class UNetDecoder2d(nn.Module):
    """Up-sampling steps with a pre-activation block between each two; the last block belongs to the head.

    Args:
        widths: channels of the encoder's stages, fine to coarse.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        steps = [UpsamplingStep2d(below, above) for above, below in pairwise(widths)]
        self.steps = nn.ModuleList(reversed(steps))
        self.blocks = nn.ModuleList(PreActivationBlock2d(width, bias=True) for width in widths[-2:0:-1])

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Features (B, widths[0], H, W) from the outputs of the encoder's stages, fine to coarse."""
        *skips, x = outputs
        x = self.steps[0](x, skips.pop())
        for block, step in zip(self.blocks, self.steps[1:], strict=True):
            x = step(block(x), skips.pop())
        return x


def segmentation_head(width: int, num_classes: int) -> nn.Sequential:
    """A pre-activation block and a 1x1 convolution: (B, width, H, W) to logits (B, num_classes, H, W)."""
    return nn.Sequential(PreActivationBlock2d(width, bias=True), nn.Conv2d(width, num_classes, 1))


class UNet2d(nn.Module):
    """Candidates M1 (`base_width` 12) and M2 (16) of Med-DANet's model bank.

    A slice of 128 x 128 pixels takes 0.57 (M1) and 1.02 (M2) thousand million multiply-adds. Table 3 of the
    paper has 0.61 and 1.07 as FLOPs per inference; 0.60 and 1.05 come out if transposed convolutions are
    counted on their output, four times too much. Height and width are multiples of 8.

    Args:
        in_channels: image channels.
        num_classes: output channels, the first of them background.
        base_width: channels at full resolution.
        dropout: see `UNetEncoder2d`.
    """

    def __init__(
        self, in_channels: int = 4, num_classes: int = 4, base_width: int = 16, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.encoder = UNetEncoder2d(in_channels, base_width, dropout=dropout)
        self.decoder = UNetDecoder2d(self.encoder.widths)
        self.head = segmentation_head(base_width, num_classes)

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of slices (B, in_channels, H, W)."""
        return self.head(self.decoder(self.encoder(slices)))


def _pre_activation_unit(channels: int, bias: bool) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution)
