"""STU-Net: a residual U-Net of four sizes, up-sampled by nearest neighbours.

Huang et al.: STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale
Supervised Pre-training, arXiv 2304.06716; for partially labelled data: Huang et al., FLARE 2023, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .encoder_decoder import EncoderDecoder
from .layers.convolution import Conv3d
from .layers.instance_norm_blocks import ONES, THREES, TWOS, ResidualBlock, Triple, as_triples, residual_stage

STUNET_SIZES = {
    "small": {"base_width": 16, "depth": 1},
    "base": {"base_width": 32, "depth": 1},
    "large": {"base_width": 64, "depth": 2},
    "huge": {"base_width": 96, "depth": 3},
}
"""Arguments of `STUNet` for the published sizes."""

WIDTH_FACTORS = (1, 2, 4, 8, 16, 16)
FLARE23_STRIDES = (ONES, (1, 2, 2), TWOS, TWOS, TWOS, (1, 2, 2))


class STUNet(EncoderDecoder):
    """The defaults are the base network of FLARE23 (58,172,939 parameters).

    Args:
        task_channels: number of output channels of each task, in their order; background, 13 organs and
            tumour are one task of 15 channels under a softmax.
        in_channels: image channels.
        base_width: channels at full resolution; the stages have 1, 2, 4, 8, 16 and 16 times as many.
        depth: residual blocks of every stage and decoder step.
        strides: of the six stages, each (D, H, W).
    """

    def __init__(
        self,
        task_channels: Sequence[int] = (15,),
        in_channels: int = 1,
        base_width: int = 32,
        depth: int = 1,
        strides: Sequence[Sequence[int]] = FLARE23_STRIDES,
    ) -> None:
        widths = [base_width * factor for factor in WIDTH_FACTORS]
        steps = as_triples(strides)
        encoder = [
            _stage(before, width, step, depth)
            for (before, width), step in zip(pairwise((in_channels, *widths)), steps, strict=True)
        ]
        upsampling = [
            _nearest_neighbor_upsampling(below, above, step)
            for (above, below), step in zip(pairwise(widths), steps[1:], strict=True)
        ]
        decoder = [_stage(2 * width, width, ONES, depth) for width in widths[-2::-1]]
        super().__init__(
            encoder,
            upsampling[::-1],
            decoder,
            widths=widths,
            strides=steps,
            task_channels=task_channels,
        )


def _stage(in_channels: int, out_channels: int, stride: Triple, depth: int) -> nn.Sequential:
    """Residual blocks; the first has a convolution for a shortcut even where nothing changes."""
    shortcut = Conv3d(in_channels, out_channels, 1, stride)
    first = ResidualBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
    return residual_stage(first, out_channels, THREES, depth, bias=True)


def _nearest_neighbor_upsampling(in_channels: int, out_channels: int, scale: Triple) -> nn.Sequential:
    """Up-sampling and a 1x1x1 convolution, which commute: in this order the convolution has less to do."""
    return nn.Sequential(Conv3d(in_channels, out_channels, 1), nn.Upsample(scale_factor=scale))
