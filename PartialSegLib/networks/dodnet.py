"""DoDNet: one encoder-decoder for all tasks, and a head whose kernels are generated for the task asked for.

Zhang, Xie, Xia, Shen: DoDNet: Learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021. Everything up to the features is free of the task, so it is computed once per image
(Figure 2c).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from .layers.blocks import norm_relu
from .layers.dynamic_head import apply_dynamic_head, dynamic_head_widths, num_head_parameters
from .partial_label_network import require_choice
from .pre_activation_network import (
    DODNET_DEPTHS,
    DODNET_GROUPS,
    DODNET_WIDTHS,
    PreActivationDecoder,
    PreActivationNetwork,
)

Conditioning = Literal["image and task", "task", "image"]
"""What the generated kernels depend on."""

START_GAINS = {"image": 0.3, "task": 6.0}  # of the controller's columns, see `initialize_head`


class DoDNetFeatures(NamedTuple):
    """What all tasks share.

    Attributes:
        decoder: (B, head_widths[0], D, H, W).
        pooled: the bottleneck (B, widths[-2], 1, 1, 1).
    """

    decoder: Tensor
    pooled: Tensor


class DoDNet(PreActivationNetwork):
    """DoDNet with weight standardisation; the defaults are the official network (17,329,528 parameters).

    Input size: multiples of 2^(number of stages - 1) voxels on each axis, 16 for the official one.

    The paper compares dynamic heads of 2 to 4 layers (Table 3), of 4, 8 or 16 channels (Table 4), and the
    three kinds of conditioning (Table 5: Dice 71.67, 71.26 and 51.80 for image and task, task, image).

    Args:
        num_tasks: length of the one-hot task encoding.
        in_channels: image channels.
        widths: channels of the stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        head_widths: channels before and between the layers of the dynamic head, as many as it has layers.
        num_structures: output channels of the head (organ, tumour).
        groups: groups of every group normalisation.
        conditioning: what the controller sees: "image and task" officially; from the "task" alone the heads
            are the same for every image, and the pooled features stay unread; from the "image" alone they are
            the same for all tasks.

    Raises:
        ValueError: an unknown conditioning, or a dynamic head without layers or channels.
    """

    def __init__(
        self,
        num_tasks: int = 7,
        in_channels: int = 1,
        widths: Sequence[int] = DODNET_WIDTHS,
        depths: Sequence[int] = DODNET_DEPTHS,
        head_widths: Sequence[int] = (8, 8, 8),
        num_structures: int = 2,
        groups: int = DODNET_GROUPS,
        conditioning: Conditioning = "image and task",
    ) -> None:
        require_choice("conditioning", conditioning, get_args(Conditioning))
        super().__init__(num_tasks, num_structures, in_channels, widths, depths, groups)
        self.head_widths = dynamic_head_widths(head_widths, num_structures)
        self.feature_channels = self.head_widths[0]
        channels = {"image": widths[-2], "task": num_tasks}
        self.conditions = {name: channels[name] for name in conditioning.split(" and ")}
        self.pooling = nn.Sequential(*norm_relu(widths[-2], groups), nn.AdaptiveAvgPool3d(1))
        self.decoder = PreActivationDecoder(widths, groups)
        self.projection = nn.Sequential(
            *norm_relu(widths[0], groups), nn.Conv3d(widths[0], self.feature_channels, 1)
        )
        self.controller = nn.Conv3d(sum(self.conditions.values()), num_head_parameters(self.head_widths), 1)

    def initialize_head(self, logit: float) -> None:
        """Start an untrained head from heads that differ by task, all giving about this logit everywhere.

        With PyTorch's defaults (the official start) the generated kernels hardly depend on the task and swing
        with the image; a short training then ends with background everywhere.
        """
        outputs = self.num_structures
        with torch.no_grad():
            weight, bias = (self.controller.get_parameter(name) for name in ("weight", "bias"))
            columns = weight.split(list(self.conditions.values()), dim=1)
            for name, part in zip(self.conditions, columns, strict=True):
                part *= START_GAINS[name]
            weight[-outputs:] = 0
            bias[-outputs:] = logit

    def forward_features(self, patch: Tensor) -> DoDNetFeatures:
        """Encode and decode patch (B, C, D, H, W) without knowing the task."""
        *skips, x = self.encode(patch)
        pooled = self.pooling(x)
        return DoDNetFeatures(self.projection(self.decoder(x, skips)), pooled)

    def head_parameters(self, features: DoDNetFeatures, task_index: int) -> Tensor:
        """Parameters (B, P) generated from the pooled features and the one-hot task (equation 6).

        With another conditioning the controller sees only one of the two.
        """
        pooled = features.pooled.to(self.controller.weight.dtype)
        task = pooled.new_zeros(pooled.shape[0], self.num_tasks, 1, 1, 1)
        task[:, task_index] = 1
        seen = {"image": pooled, "task": task}
        return self.controller(torch.cat([seen[name] for name in self.conditions], dim=1)).flatten(1)

    def forward_head(self, features: DoDNetFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W) of one task; channel 0 is the organ, channel 1 the tumour."""
        parameters = self.head_parameters(features, task_index)
        return apply_dynamic_head(features.decoder, parameters, self.head_widths)

    def forward_heads(self, features: DoDNetFeatures, task_indices: Sequence[int]) -> Iterable[Tensor]:
        """Logits (1, num_structures, D, H, W) of several tasks of one image, which read its features once."""
        parameters = torch.cat([self.head_parameters(features, index) for index in task_indices])
        return apply_dynamic_head(features.decoder, parameters, self.head_widths).split(1)
