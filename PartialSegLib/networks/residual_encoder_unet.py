"""The U-Net with a residual encoder: nnU-Net version 1's FabiansUNet and version 2's ResidualEncoderUNet.

Isensee et al.: nnU-Net Revisited, MICCAI 2024; MultiTalent uses version 1's (Ulrich et al., MICCAI 2023,
section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .encoder_decoder import EncoderDecoder
from .layers.instance_norm_blocks import (
    ONES,
    THREES,
    TWOS,
    ResidualBlock,
    Triple,
    as_triples,
    convolution_unit,
    residual_stage,
)
from .unet import (
    MULTITALENT_TASK_CHANNELS,
    MULTITALENT_WIDTHS,
    convolution_decoder,
    transposed_convolutions,
)


class ResidualEncoderUNet(EncoderDecoder):
    """The defaults are MultiTalent's network (69,335,475 parameters).

    nnU-Net version 2 has biases, pooled shortcuts and a stem with the kernel of the first stage.

    Args:
        task_channels: number of output channels of each task, in their order.
        in_channels: image channels.
        widths: channels of the stages, from full resolution to the bottleneck.
        kernel_sizes: of the stages, each (D, H, W); a decoder step has that of its skip's stage.
        strides: of the stages, each (D, H, W).
        depths: residual blocks of the stages.
        decoder_depths: convolution units of the decoder steps, coarsest first.
        stem_kernel_size: of the convolution before the first stage, (D, H, W).
        bias: whether convolutions have one; heads always do, shortcuts never.
        pooled_shortcuts: a shortcut down is average pooling, followed by a convolution only where the width
            changes; otherwise it is one strided convolution.
    """

    def __init__(
        self,
        task_channels: Sequence[int] = MULTITALENT_TASK_CHANNELS,
        in_channels: int = 1,
        widths: Sequence[int] = MULTITALENT_WIDTHS,
        kernel_sizes: Sequence[Sequence[int]] = ((1, 3, 3), *(THREES,) * 5),
        strides: Sequence[Sequence[int]] = (ONES, (1, 2, 2), *(TWOS,) * 4),
        depths: Sequence[int] = (1, 2, 3, 4, 4, 4),
        decoder_depths: Sequence[int] = (1,) * 5,
        stem_kernel_size: Sequence[int] = THREES,
        bias: bool = False,
        pooled_shortcuts: bool = False,
    ) -> None:
        kernels, steps = as_triples(kernel_sizes), as_triples(strides)
        shortcut_of = pooled_shortcut if pooled_shortcuts else strided_shortcut
        encoder = []
        for (before, width), kernel, step, depth in zip(
            pairwise((widths[0], *widths)), kernels, steps, depths, strict=True
        ):
            shortcut = shortcut_of(before, width, step)
            first = ResidualBlock(before, width, kernel, step, bias=bias, shortcut=shortcut)
            encoder.append(residual_stage(first, width, kernel, depth, bias))
        (stem_kernel,) = as_triples([stem_kernel_size])
        super().__init__(
            encoder,
            transposed_convolutions(widths, steps, bias),
            convolution_decoder(widths, kernels, decoder_depths, bias),
            widths=widths,
            strides=steps,
            task_channels=task_channels,
            stem=convolution_unit(in_channels, widths[0], stem_kernel, bias=bias),
        )


def strided_shortcut(in_channels: int, out_channels: int, stride: Triple) -> nn.Sequential:
    """Version 1: a strided 1x1x1 convolution and a normalisation where size or width change, else nothing."""
    if stride == ONES and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(_projection(in_channels, out_channels, stride))


def pooled_shortcut(in_channels: int, out_channels: int, stride: Triple) -> nn.Sequential:
    """Version 2: average pooling where the size changes, then a 1x1x1 convolution where the width changes."""
    shortcut = nn.Sequential()
    if stride != ONES:
        shortcut.append(nn.AvgPool3d(stride, stride))
    if in_channels != out_channels:
        shortcut.append(_projection(in_channels, out_channels, ONES))
    return shortcut


def _projection(in_channels: int, out_channels: int, stride: Triple) -> nn.Sequential:
    return convolution_unit(in_channels, out_channels, ONES, stride, bias=False, activation=False)
