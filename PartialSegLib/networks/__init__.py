"""The networks: tensors in, tensors out. They know shapes and task indices, no files and no names of anatomy."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from .dodnet import DoDNet

__all__ = ["NETWORKS", "DoDNet", "PartialLabelNetwork"]


class PartialLabelNetwork(Protocol):
    """What every network offers: an expensive part without the task, and a cheap part for one task."""

    def forward_features(self, patch: Tensor) -> Any:
        """Task-free features of patch (B, C, D, H, W): a tensor or a named tuple of tensors."""

    def forward_head(self, features: Any, task_index: int) -> Tensor:
        """Logits (B, K, D, H, W) of one task from the features."""


NETWORKS: dict[str, type[nn.Module]] = {"DoDNet": DoDNet}
