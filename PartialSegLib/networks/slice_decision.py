"""The decision network of slice selection: every slice is seen on its own, then all of them in their order.

The first part is Med-DANet's reduced ShuffleNetV2 (Wang et al., ECCV 2022, section 3.2). The second part is
ours: where a slice lies in the body is easier to say from what was seen above and below it, so dilated
convolutions run along the slices. They cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .decision_network import DecisionNetwork


class SliceDecision(nn.Module):
    """Judges all slices of an image at once, for each task.

    Args:
        in_channels: of a slice: it and some of its neighbours.
        num_tasks: what is decided about each slice.
        input_size: height and width of the slices, 32 pixels or more.
        width: what is remembered of each slice.
        dilations: of the residual convolutions along the slices, of 5 slices each.
        slice_arguments: further arguments of the `DecisionNetwork` that sees the slices.

    Raises:
        ValueError: `input_size` is less than 32.
    """

    def __init__(
        self,
        in_channels: int,
        num_tasks: int,
        input_size: int = 64,
        width: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
        slice_arguments: dict[str, int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        arguments = slice_arguments or {}
        self.slices = DecisionNetwork(in_channels, width, input_size, **arguments)  # type: ignore[arg-type]
        self.along = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 5, padding=2 * step, dilation=step))
            for step in dilations
        )
        self.classifier = nn.Conv1d(width, num_tasks, 1)
        # random_ and uniform_ on the meta device would import PyTorch's compiler, which takes seconds
        with torch.no_grad():
            for layer in [*(block[1] for block in self.along), self.classifier]:
                layer.weight.copy_(torch.randn_like(layer.weight) * (layer.weight[0].numel() ** -0.5))
                layer.bias.zero_()

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B, S, num_tasks) of images (B, S, in_channels, input_size, input_size), slices in order."""
        x = self.slices(slices.flatten(0, 1)).unflatten(0, slices.shape[:2]).transpose(1, 2)
        for block in self.along:
            x = x + block(x)
        return self.classifier(torch.relu(x)).transpose(1, 2)
