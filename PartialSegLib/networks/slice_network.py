"""Networks of slices as networks of volumes: the slices of a patch go through one by one.

Slices do not know of each other, so patches one slice deep compute no slice twice, whatever their overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from .partial_label_network import PartialLabelNetwork


class SliceNetwork(PartialLabelNetwork):
    """Chooses for each slice how much work it deserves; a task is a softmax over its channels.

    Features are a named tuple whose first entries are `logits` (B, channels of all tasks, D, H, W), so that
    heads have nothing left to compute, and `choices` (B, D). They are computed in float32, so that choices,
    and with them the cost, are the same in every precision.

    Args:
        task_channels: number of output channels of each task with its background, in their order.
        size: height and width of the slices.

    Attributes:
        task_starts: first channel of each task, and the end of the last one.
    """

    can_be_exported = False  # what runs depends on the image

    def __init__(self, task_channels: Sequence[int], size: int) -> None:
        super().__init__()
        self.num_tasks = len(task_channels)
        self.num_structures = max(task_channels)
        self.feature_channels = sum(task_channels)
        self.patch_multiple = (1, size, size)
        self.task_starts = (0, *accumulate(task_channels))

    def forward_head(self, features: Any, task_index: int) -> Tensor:
        """Logits (B, channels of the task, D, H, W), float32."""
        start, end = self.task_starts[task_index : task_index + 2]
        logits: Tensor = features.logits[:, start:end]
        return logits.float()

    def to(self, *arguments: Any, **keywords: Any) -> Self:
        """As of every module; the layout `channels_last_3d` becomes that of images with an axis less."""
        if keywords.get("memory_format") == torch.channels_last_3d:
            keywords["memory_format"] = torch.channels_last
        return super().to(*arguments, **keywords)


def slices_of(patch: Tensor) -> Tensor:
    """The slices (B * D, C, H, W) of patch (B, C, D, H, W)."""
    return patch.transpose(1, 2).flatten(0, 1)


def by_patch(values: Tensor, patch: Tensor) -> Tensor:
    """What belongs to the slices of a patch, (B * D, …), as (B, D, …)."""
    return values.unflatten(0, (len(patch), patch.shape[2]))
