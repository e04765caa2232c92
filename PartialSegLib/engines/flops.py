"""Arithmetic of one patch: what all tasks share, and what each task adds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..networks import PartialLabelNetwork
from ..networks.flop_count import count_flops


@dataclass(frozen=True)
class PatchFlops:
    """Floating-point operations (FLOPs) of one patch; a multiply-add is two of them.

    Attributes:
        features: of `forward_features`, once for all tasks.
        heads: of `forward_head`, for each task in their order.
    """

    features: int
    heads: tuple[int, ...]

    @property
    def total(self) -> int:
        """For all tasks."""
        return self.features + sum(self.heads)


def count_patch_flops(
    network: PartialLabelNetwork, patch_size: Sequence[int], num_tasks: int, in_channels: int = 1
) -> PatchFlops:
    """Count what one patch takes, without computing it: the "meta" device knows shapes only.

    Convolutions, matrix products and attention count, as is the convention; interpolation, sampling,
    normalisation and activations do not. Official figures count what the official code computes at once: one
    task for DoDNet, all tasks for TransDoDNet, and with the heads of deep supervision for MultiTalent and
    STU-Net.

    Args:
        network: stays as it is.
        patch_size: voxels along (z, y, x), multiples of the network's `patch_multiple`.
        num_tasks: how many of the network's tasks are counted, from the first.
        in_channels: image channels.
    """
    network = copy.deepcopy(network).to("meta").requires_grad_(False).eval()
    patch = torch.empty(1, in_channels, *patch_size, device="meta")
    with torch.inference_mode():
        features = network.forward_features(patch)
    return PatchFlops(
        count_flops(network.forward_features, patch),
        tuple(count_flops(network.forward_head, features, task) for task in range(num_tasks)),
    )
