"""What U-Nets with one head for all classes share: encoder, skip connections, decoder, heads.

MultiTalent (Ulrich et al., MICCAI 2023, section 2.2) gives every class of every data set its own channel, so
the tasks' heads are rows of one 1x1x1 convolution. A network with a softmax over all classes has one task.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .layers.dynamic_head import apply_dynamic_head
from .layers.instance_norm_blocks import Triple
from .partial_label_network import PartialLabelNetwork


class DecoderFeatures(NamedTuple):
    """What all tasks share.

    Attributes:
        decoder: what the decoder gives at full resolution (B, feature_channels, D, H, W).
    """

    decoder: Tensor


class SharedHeadNetwork(PartialLabelNetwork):
    """A network whose tasks' heads are rows of one 1x1x1 convolution.

    Args:
        task_channels: number of output channels of each task, in their order; `forward_head` counts the
            channels of each task from 0.
        feature_channels: channels that the convolution reads.
    """

    def __init__(self, task_channels: Sequence[int], feature_channels: int) -> None:
        super().__init__()
        self.num_tasks = len(task_channels)
        self.num_structures = max(task_channels)
        self.feature_channels = feature_channels
        self.task_ends = tuple(accumulate(task_channels))

    def head_convolutions(self) -> list[nn.Conv3d]:
        """The convolution is the last one; those of deep supervision come before it, coarsest first."""
        raise NotImplementedError

    def forward_head(self, features: DecoderFeatures, task_index: int) -> Tensor:
        """Logits (B, channels of the task, D, H, W) of one task, of the type of the weights.

        The head is a dynamic head of one layer with the same kernel for every sample, and runs in the same
        blocks.
        """
        return self.forward_level_head(features, task_index, level=0)

    def forward_level_head(self, features: DecoderFeatures, task_index: int, level: int) -> Tensor:
        """Logits (B, channels of the task, d, h, w) of one task at one level, 0 the finest."""
        start, end = (0, *self.task_ends)[task_index : task_index + 2]
        head = self.head_convolutions()[-1 - level]
        weight = head.weight[start:end]
        bias = weight.new_zeros(end - start) if head.bias is None else head.bias[start:end]
        parameters = torch.cat([weight.flatten(), bias]).expand(len(features.decoder), -1)
        return apply_dynamic_head(features.decoder, parameters, (head.in_channels, end - start))

    def initialize_head(self, logit: float) -> None:
        """Start the untrained heads from about this logit everywhere.

        Raises:
            ValueError: the heads have no bias to hold it.
        """
        for head in self.head_convolutions():
            if head.bias is None:
                raise ValueError("Heads without bias cannot start from a logit.")
            nn.init.normal_(head.weight, std=1e-2)
            nn.init.constant_(head.bias, logit)


class EncoderDecoder(SharedHeadNetwork):
    """A U-Net whose parts a subclass builds.

    The features are the last map of the decoder: the 1x1x1 convolution behind it is less than a hundredth of
    the arithmetic, MultiTalent's map has fewer channels (30) than its heads together (47), and a task pays
    for its own channels only.

    Input size: multiples of `patch_multiple` on each axis, with more than one voxel left at the bottleneck,
    because one voxel has no variance to normalise with.

    Args:
        encoder: one module for each stage; stage s maps widths[s - 1] channels to widths[s].
        upsampling: one module for each decoder step, coarsest first; maps to size and width of the skip.
        decoder: one module for each step; maps the up-sampled channels, then those of the skip, to its width.
        widths: channels of the stages, from full resolution to the bottleneck.
        strides: of the stages; the first one works at full resolution.
        task_channels: number of output channels of each task, in their order.
        head_bias: whether the heads have one.
        stem: what comes before the first stage, if anything.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        upsampling: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        *,
        widths: Sequence[int],
        strides: Sequence[Triple],
        task_channels: Sequence[int],
        head_bias: bool = True,
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__(task_channels, widths[0])
        self.strides = tuple(strides)
        self.patch_multiple = cast(Triple, tuple(math.prod(axis) for axis in zip(*strides, strict=True)))
        self.stem = nn.Identity() if stem is None else stem
        self.encoder = nn.ModuleList(encoder)
        self.upsampling = nn.ModuleList(upsampling)
        self.decoder = nn.ModuleList(decoder)
        self.heads = nn.ModuleList(
            nn.Conv3d(width, self.task_ends[-1], 1, bias=head_bias) for width in reversed(widths[:-1])
        )

    def forward_features(self, patch: Tensor) -> DecoderFeatures:
        """Encode and decode patch (B, C, D, H, W) without knowing the task."""
        return DecoderFeatures(deque(self.decoder_maps(patch), maxlen=1).pop())

    def forward_levels(self, patch: Tensor) -> list[DecoderFeatures]:
        """The map after each decoder step, finest first: deep supervision trains a head on each."""
        return [DecoderFeatures(level) for level in self.decoder_maps(patch)][::-1]

    def head_convolutions(self) -> list[nn.Conv3d]:
        """Those that deep supervision trains, coarsest first; the last one is the network's."""
        return cast(list[nn.Conv3d], list(self.heads))

    def decoder_maps(self, patch: Tensor) -> Iterator[Tensor]:
        """The map (B, width, d, h, w) after each decoder step, coarsest first, as `heads` read them.

        Deep supervision trains all heads, and official checkpoints hold them; inference needs the last one.
        """
        x = self.stem(patch)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for upsample, stage in zip(self.upsampling, self.decoder, strict=True):
            x = stage(torch.cat([upsample(x), skips.pop()], dim=1))
            yield x
