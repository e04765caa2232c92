"""The plain U-Net of nnU-Net: convolution units, strided convolutions down, transposed convolutions up.

Isensee et al.: nnU-Net, Nature Methods 2021 (version 1: Generic_UNet, version 2: PlainConvUNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .encoder_decoder import EncoderDecoder
from .layers.instance_norm_blocks import ONES, THREES, TWOS, Triple, as_triples, convolution_stage

MULTITALENT_WIDTHS = (30, 60, 120, 240, 320, 320)
MULTITALENT_TASK_CHANNELS = (2, 1, 2, 2, 1, 1, 13, 8, 6, 4, 1, 2, 4)


class UNet(EncoderDecoder):
    """The defaults are MultiTalent's U-Net (29,319,560 parameters; Ulrich et al., MICCAI 2023, section 2.2).

    nnU-Net version 2 has a bias in transposed convolutions and heads, and sizes from its plans.

    Args:
        task_channels: number of output channels of each task, in their order.
        in_channels: image channels.
        widths: channels of the stages, from full resolution to the bottleneck.
        kernel_sizes: of the stages, each (D, H, W); a decoder step has that of its skip's stage.
        strides: of the stages, each (D, H, W).
        depths: convolution units of the stages.
        decoder_depths: convolution units of the decoder steps, coarsest first.
        upsampling_bias: whether transposed convolutions have one.
        head_bias: whether the heads have one.
    """

    def __init__(
        self,
        task_channels: Sequence[int] = MULTITALENT_TASK_CHANNELS,
        in_channels: int = 1,
        widths: Sequence[int] = MULTITALENT_WIDTHS,
        kernel_sizes: Sequence[Sequence[int]] = (THREES,) * 6,
        strides: Sequence[Sequence[int]] = (ONES, *(TWOS,) * 4, (1, 2, 2)),
        depths: Sequence[int] = (2,) * 6,
        decoder_depths: Sequence[int] = (2,) * 5,
        upsampling_bias: bool = False,
        head_bias: bool = False,
    ) -> None:
        kernels, steps = as_triples(kernel_sizes), as_triples(strides)
        encoder = [
            convolution_stage(*channels, kernel, step, depth=depth, bias=True)
            for channels, kernel, step, depth in zip(
                pairwise((in_channels, *widths)), kernels, steps, depths, strict=True
            )
        ]
        super().__init__(
            encoder,
            transposed_convolutions(widths, steps, upsampling_bias),
            convolution_decoder(widths, kernels, decoder_depths, bias=True),
            widths=widths,
            strides=steps,
            task_channels=task_channels,
            head_bias=head_bias,
        )


def transposed_convolutions(
    widths: Sequence[int], strides: Sequence[Triple], bias: bool
) -> list[nn.ConvTranspose3d]:
    """Up-sampling of the decoder steps, coarsest first; the kernels are as large as the strides."""
    steps = zip(pairwise(widths), strides[1:], strict=True)
    return [nn.ConvTranspose3d(below, above, stride, stride, bias=bias) for (above, below), stride in steps][
        ::-1
    ]


def convolution_decoder(
    widths: Sequence[int], kernel_sizes: Sequence[Triple], depths: Sequence[int], bias: bool
) -> list[nn.Sequential]:
    """The decoder steps, coarsest first, each on the up-sampled map concatenated with its skip."""
    steps = zip(widths[-2::-1], kernel_sizes[-2::-1], depths, strict=True)
    return [
        convolution_stage(2 * width, width, kernel, depth=depth, bias=bias) for width, kernel, depth in steps
    ]
