"""Multi-Head: one encoder for all tasks and a decoder for each.

Chen, Ma, Zheng: Med3D: Transfer learning for 3D medical image analysis, arXiv 1904.00625, as a baseline of
DoDNet (Zhang et al., CVPR 2021, Figure 2b and section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers.blocks import projection
from .pre_activation_network import (
    DODNET_DEPTHS,
    DODNET_GROUPS,
    DODNET_WIDTHS,
    EncoderFeatures,
    PreActivationDecoder,
    PreActivationNetwork,
    SegmentationLayer,
)


class TaskDecoder(nn.Module):
    """The decoder and the last layer of one task.

    Args:
        widths: of the encoder's stages, from full resolution to the bottleneck.
        divisor: of the decoder's channels; the skip connections are projected to fewer channels, too.
        num_structures: logits.
        groups: groups of every group normalisation.
    """

    def __init__(self, widths: Sequence[int], divisor: int, num_structures: int, groups: int) -> None:
        super().__init__()
        narrow = [width // divisor for width in widths]
        self.skips = nn.ModuleList(
            projection(width, width // divisor, groups) if divisor > 1 else nn.Identity()
            for width in widths[:-1]
        )
        self.decoder = PreActivationDecoder(narrow, groups)
        self.head = SegmentationLayer(narrow[0], num_structures, groups)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, num_structures, D, H, W) from the maps of the encoder."""
        *skips, x = maps
        return self.head(self.decoder(x, [project(s) for project, s in zip(self.skips, skips, strict=True)]))


class MultiHeadNetwork(PreActivationNetwork):
    """Multi-Head with DoDNet's blocks; the defaults have 18,950,990 parameters (18.9 million in the paper).

    The features are the maps of the encoder: for the default widths 43 instead of DoDNet's 8 values for each
    voxel of a patch. Every further task costs a decoder, and a task that is added needs a new one.

    Of the decoders the paper says no more than that their channels "were halved due to GPU memory
    limitation". Here skip connections and bottleneck are projected to half their channels, the skip
    connections in each decoder; that gives the paper's number of parameters.

    Args:
        num_tasks: decoders.
        in_channels: image channels.
        widths: channels of the encoder's stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        num_structures: output channels of each decoder (organ, tumour).
        groups: groups of every group normalisation.
        decoder_divisor: the decoders have so many times fewer channels than DoDNet's; 1 makes them equal.
    """

    convolves_in_head = True

    def __init__(
        self,
        num_tasks: int = 7,
        in_channels: int = 1,
        widths: Sequence[int] = DODNET_WIDTHS,
        depths: Sequence[int] = DODNET_DEPTHS,
        num_structures: int = 2,
        groups: int = DODNET_GROUPS,
        decoder_divisor: int = 2,
    ) -> None:
        fused_width = widths[-2] // decoder_divisor
        super().__init__(num_tasks, num_structures, in_channels, widths, depths, groups, fused_width)
        self.feature_channels = widths[0]
        self.decoders = nn.ModuleList(
            TaskDecoder(widths, decoder_divisor, num_structures, groups) for _ in range(num_tasks)
        )

    def forward_features(self, patch: Tensor) -> EncoderFeatures:
        """Encode patch (B, C, D, H, W)."""
        return EncoderFeatures(*self.encode(patch))

    def forward_head(self, features: EncoderFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W) from the decoder of one task."""
        return self.decoders[task_index](self.to_weight_type(*features))
