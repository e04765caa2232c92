"""What every network for partially labelled data offers to inference and training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn


class PartialLabelNetwork(nn.Module):
    """An expensive part that does not know the task, and a cheap part for one task.

    Attributes:
        num_tasks: tasks that `forward_head` knows.
        num_structures: channels of each head.
        feature_channels: channels of the full-resolution features that the heads read.
        patch_multiple: a patch has a multiple of so many voxels along (z, y, x).
        can_be_exported: whether other engines than PyTorch know all operations of the features.
        convolves_in_head: whether the head does so much that it too runs in the lower precision.
    """

    num_tasks: int
    num_structures: int
    feature_channels: int
    patch_multiple: tuple[int, int, int]
    can_be_exported = True
    convolves_in_head = False

    def forward_features(self, patch: Tensor) -> Any:
        """Task-free features of patch (B, C, D, H, W): a tensor or a named tuple of tensors."""
        raise NotImplementedError

    def forward_head(self, features: Any, task_index: int) -> Tensor:
        """Logits (B, K, D, H, W) of one task from the features, which may have been stored as float16."""
        raise NotImplementedError

    def forward_heads(self, features: Any, task_indices: Sequence[int]) -> Iterable[Tensor]:
        """`forward_head` of several tasks, one after the other unless a network can do better."""
        return (self.forward_head(features, index) for index in task_indices)

    def forward_levels(self, patch: Tensor) -> list[Any]:
        """The features that training supervises, finest first: deep supervision has further, coarser ones."""
        return [self.forward_features(patch)]

    def forward_level_head(self, features: Any, task_index: int, level: int) -> Tensor:
        """Logits (B, K, d, h, w) of one task from the features of one level, 0 the finest."""
        return self.forward_head(features, task_index)

    def decisions(self, features: Any) -> Tensor | None:
        """What the network decided about a patch, for the report; None for those that decide nothing."""
        return None

    def describe_decisions(self, decisions: Sequence[Tensor]) -> dict[str, Any]:
        """Plain JSON for the report, from the decisions about all patches of an image."""
        return {}

    def fold_weights(self) -> None:
        """Prepare for inference what is the same for every patch; here there is nothing to prepare."""

    def initialize_head(self, logit: float) -> None:
        """Let the untrained heads give about this logit everywhere."""
        raise NotImplementedError

    def forward(self, patch: Tensor, task_index: int) -> Tensor:
        """`forward_head` of `forward_features`."""
        return self.forward_head(self.forward_features(patch), task_index)


def require_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument of a network that is not one of the choices.

    Raises:
        ValueError: naming the argument, its value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(repr, choices))}")
