"""DoDNet's encoder and decoder, of which DoDNet and the networks it was compared with are built.

Zhang et al.: DoDNet, CVPR 2021, section 3.2. "To ensure a fair comparison, we used the same encoder-decoder
architecture for all methods" (section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers.blocks import PreActivationBlock, WeightStandardizedConv3d, norm_relu, projection, upsample_add
from .partial_label_network import PartialLabelNetwork

DODNET_WIDTHS = (32, 64, 128, 256, 256)
DODNET_DEPTHS = (1, 2, 2, 2, 2)
DODNET_GROUPS = 16


class EncoderFeatures(tuple[Tensor, ...]):
    """The maps of all encoder stages, as many as there are; built from its items like a named tuple.

    They go from full resolution (B, widths[0], D, H, W) to the fused bottleneck, each half as long as the one
    before along every axis.
    """

    def __new__(cls, *maps: Tensor) -> EncoderFeatures:
        """From the maps one by one."""
        return super().__new__(cls, maps)


class PreActivationNetwork(PartialLabelNetwork):
    """A network that begins with DoDNet's encoder.

    Input size: multiples of 2^(number of stages - 1) voxels on each axis.

    Args:
        num_tasks: that the network knows.
        num_structures: output channels for each task.
        in_channels: that the first convolution reads.
        widths: channels of the stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        groups: groups of every group normalisation.
        fused_width: channels of the fused bottleneck; None makes them those of the last skip connection.
    """

    def __init__(
        self,
        num_tasks: int,
        num_structures: int,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        groups: int,
        fused_width: int | None = None,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.num_structures = num_structures
        self.patch_multiple = (2 ** (len(widths) - 1),) * 3
        self.stem = WeightStandardizedConv3d(in_channels, widths[0])
        self.encoder = nn.ModuleList()
        for stage, depth in enumerate(depths):
            before = widths[max(stage - 1, 0)]
            first = PreActivationBlock(before, widths[stage], 1 if stage == 0 else 2, groups)
            rest = (PreActivationBlock(widths[stage], widths[stage], 1, groups) for _ in range(depth - 1))
            self.encoder.append(nn.Sequential(first, *rest))
        self.fusion = projection(widths[-1], fused_width or widths[-2], groups)

    def fold_weights(self) -> None:
        """Standardise all filters once, for inference; the function computed stays the same."""
        for module in self.modules():
            if isinstance(module, WeightStandardizedConv3d):
                module.fold()

    def initialize_head(self, logit: float) -> None:
        """Let all last layers start from about this logit everywhere."""
        for module in self.modules():
            if isinstance(module, SegmentationLayer):
                module.initialize(logit)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The maps of all stages of an image (B, C, D, H, W), as `EncoderFeatures` lists them."""
        x = self.stem(image)
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        maps.append(self.fusion(maps.pop()))
        return maps

    def to_weight_type(self, *stored: Tensor) -> list[Tensor]:
        """Features, which may have been stored as float16, in the type of the weights."""
        return [tensor.to(self.stem.weight.dtype) for tensor in stored]


class PreActivationDecoder(nn.ModuleList):
    """DoDNet's decoder: at each step up-sampling, the skip connection added, and a residual block.

    Args:
        widths: of the encoder's stages, from full resolution to the bottleneck.
        groups: groups of every group normalisation.
    """

    def __init__(self, widths: Sequence[int], groups: int) -> None:
        super().__init__(PreActivationBlock(*step, 1, groups) for step in decoder_steps(widths))

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """The map (B, widths[0], D, H, W) at full resolution.

        Args:
            x: the fused bottleneck (B, widths[-2], D/2^n, H/2^n, W/2^n).
            skips: maps of the other stages, full resolution first; emptied, so that memory is freed early.
        """
        for block in self:
            x = block(upsample_add(x, skips.pop()))
        return x


def decoder_steps(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Channels before and after the residual block of each decoder step, coarsest first."""
    return [(widths[stage], widths[max(stage - 1, 0)]) for stage in range(len(widths) - 2, -1, -1)]


class SegmentationLayer(nn.Sequential):
    """The last layer of a network without dynamic head: normalisation, ReLU and a 1x1x1 convolution.

    It reads all channels of the decoder; narrowing them to 8 first belongs to DoDNet's head (Table 4).

    Args:
        channels: of the decoder's map.
        num_structures: logits.
        groups: of the group normalisation.
    """

    def __init__(self, channels: int, num_structures: int, groups: int) -> None:
        super().__init__(*norm_relu(channels, groups), nn.Conv3d(channels, num_structures, 1))

    def initialize(self, logit: float) -> None:
        """Start from about this logit everywhere."""
        weight, bias = (self[-1].get_parameter(name) for name in ("weight", "bias"))
        nn.init.normal_(weight, std=1e-2)
        nn.init.constant_(bias, logit)


def append_channels(x: Tensor, values: Sequence[float]) -> Tensor:
    """The image x (B, C, D, H, W) and behind it one constant channel for each value (B, C + n, D, H, W).

    Channels stay last where they are: `torch.cat` of such an image and a constant puts them first, and all
    that follows is slower on a CPU.
    """
    channels = x.new_tensor(values).view(1, -1, 1, 1, 1)
    joined = torch.cat([x, channels.expand(len(x), -1, *x.shape[2:])], dim=1)
    is_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return joined.contiguous(memory_format=torch.channels_last_3d) if is_last else joined
