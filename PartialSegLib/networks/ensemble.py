"""Several networks of one architecture whose logits are averaged, such as the folds of a cross-validation.

Isensee et al.: nnU-Net, Nature Methods 2021: the networks of the five folds are used together. Its code
blends the logits of each over all patches and then takes their mean; the mean is taken of each patch here,
which is the same, because blending is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from .partial_label_network import PartialLabelNetwork, require_choice
from .single_networks import SINGLE_NETWORKS


class MemberFeatures(tuple[Any, ...]):
    """The features of each member, in their order; built from its items like a named tuple."""

    def __new__(cls, *features: Any) -> MemberFeatures:
        """From the features one by one."""
        return super().__new__(cls, features)


class Ensemble(PartialLabelNetwork):
    """Arithmetic, weights and kept features are those of one network times the number of members.

    Args:
        architecture: of the members, a key of `SINGLE_NETWORKS`.
        members: how many there are.
        arguments: of each member's constructor.

    Raises:
        ValueError: no such architecture, or no members.
    """

    def __init__(self, architecture: str, members: int, **arguments: Any) -> None:
        super().__init__()
        require_choice("architecture", architecture, list(SINGLE_NETWORKS))
        if members < 1:
            raise ValueError(f"members is {members}, not 1 or more")
        build = SINGLE_NETWORKS[architecture]
        self.members = nn.ModuleList(build(**arguments) for _ in range(members))
        first = self.networks[0]
        self.num_tasks = first.num_tasks
        self.num_structures = first.num_structures
        self.feature_channels = sum(network.feature_channels for network in self.networks)
        self.patch_multiple = first.patch_multiple
        self.can_be_exported = first.can_be_exported
        self.convolves_in_head = first.convolves_in_head

    @property
    def networks(self) -> list[PartialLabelNetwork]:
        """The members."""
        return cast(list[PartialLabelNetwork], list(self.members))

    def forward_features(self, patch: Tensor) -> MemberFeatures:
        """Features of patch (B, C, D, H, W) from each member."""
        return MemberFeatures(*(network.forward_features(patch) for network in self.networks))

    def forward_head(self, features: MemberFeatures, task_index: int) -> Tensor:
        """Mean of the members' logits (B, K, D, H, W) of one task."""
        return _mean(network.forward_head(given, task_index) for network, given in self._pairs(features))

    def forward_heads(self, features: MemberFeatures, task_indices: Sequence[int]) -> Iterator[Tensor]:
        """Mean of the members' logits of several tasks, one task after the other."""
        of_members = [
            iter(network.forward_heads(given, task_indices)) for network, given in self._pairs(features)
        ]
        for _ in task_indices:
            yield _mean(next(logits) for logits in of_members)

    def forward_levels(self, patch: Tensor) -> list[MemberFeatures]:
        """The members' features of each level that training supervises, finest first."""
        levels = zip(*(network.forward_levels(patch) for network in self.networks), strict=True)
        return [MemberFeatures(*features) for features in levels]

    def forward_level_head(self, features: MemberFeatures, task_index: int, level: int) -> Tensor:
        """Mean of the members' logits (B, K, d, h, w) of one task at one level, 0 the finest."""
        return _mean(
            network.forward_level_head(given, task_index, level) for network, given in self._pairs(features)
        )

    def decisions(self, features: MemberFeatures) -> Tensor | None:
        """What each member decided about a patch (members, …); None for those that decide nothing."""
        decided = [network.decisions(given) for network, given in self._pairs(features)]
        return None if decided[0] is None else torch.stack(cast(list[Tensor], decided))

    def describe_decisions(self, decisions: Sequence[Tensor]) -> dict[str, Any]:
        """The descriptions of the members, as a list in the field "members"."""
        described = [
            network.describe_decisions([decided[number] for decided in decisions])
            for number, network in enumerate(self.networks)
        ]
        return {"members": described}

    def initialize_head(self, logit: float) -> None:
        """Let the untrained heads of all members give about this logit everywhere."""
        for network in self.networks:
            network.initialize_head(logit)

    def to(self, *arguments: Any, **keywords: Any) -> Self:
        """As of every module; each member takes the layout that suits it."""
        for network in self.networks:
            network.to(*arguments, **keywords)
        return self

    def fold_weights(self) -> None:
        """Prepare the weights of all members for inference."""
        for network in self.networks:
            network.fold_weights()

    def _pairs(self, features: MemberFeatures) -> Iterator[tuple[PartialLabelNetwork, Any]]:
        """Each member with its features."""
        return zip(self.networks, features, strict=True)


def _mean(logits: Iterable[Tensor]) -> Tensor:
    """Mean of tensors of one shape, added up one by one: all of them at once may take gigabytes."""
    each = iter(logits)
    total, count = next(each), 1
    for tensor in each:
        total, count = total + tensor, count + 1
    return total / count
