"""Med-DANet as a network of the session: volumes go slice by slice through a model bank.

Wang et al.: Med-DANet, ECCV 2022, sections 3.1 to 3.3; the bank and what the paper leaves open are in
`slice_bank`. Its slices have one size, H = W = `input_size`: with windows of that size that slide over larger
slices this is the paper's setting 1, with whole slices its setting 2 (Table 3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .decision_network import DecisionNetwork
from .flop_count import count_flops
from .partial_label_network import require_choice
from .slice_bank import Candidate, CaseReport, SliceBank
from .slice_network import SliceNetwork, by_patch, slices_of
from .transbts2d import TransBTS2d
from .unet2d import UNet2d

FLOPS_PER_MULTIPLY_ADD = 2
SURE_LOGIT = 20.0  # of background where a slice is skipped: its softmax is 1 up to 1e-8

MED_DANET_CANDIDATES: tuple[dict[str, Any], ...] = (
    {"name": "M1", "architecture": "UNet2d", "base_width": 12},
    {"name": "M2", "architecture": "UNet2d", "base_width": 16},
    {"name": "M3", "architecture": "TransBTS2d", "num_layers": 1},
    {"name": "M4", "architecture": "TransBTS2d", "num_layers": 4},
)
"""The paper's model bank (section 4.1), as `MedDANet` takes it."""


class SliceLogits(NamedTuple):
    """What all tasks share.

    Attributes:
        logits: (B, channels of all tasks, D, H, W).
        choices: (B, D), for each slice 0 if it was skipped, i if the i-th candidate segmented it.
    """

    logits: Tensor
    choices: Tensor


class MedDANet(SliceNetwork):
    """The defaults are the paper's bank for CT and two classes; for BraTS it has four image channels.

    A task is a softmax over its channels, background first. A slice is skipped for all tasks or for none;
    then background gets the logit 20 and everything else 0.

    Args:
        task_channels: number of output channels of each task with its background, in their order.
        in_channels: image channels.
        input_size: height and width of patches, a multiple of 8, at least 32. Where it is no multiple of 32
            the decision network does not see all of a slice, see `DecisionNetwork`.
        candidates: of the model bank, cheapest first; each has a name, an architecture (UNet2d or TransBTS2d)
            and further arguments of it.
        decision_arguments: of `DecisionNetwork`, such as its widths.

    Raises:
        ValueError: an unknown architecture, or a size or names that are not as they should be.
    """

    def __init__(
        self,
        task_channels: Sequence[int] = (2,),
        in_channels: int = 1,
        input_size: int = 128,
        candidates: Sequence[Mapping[str, Any]] = MED_DANET_CANDIDATES,
        decision_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task_channels, input_size)
        slice_of_zeros = torch.empty(1, in_channels, input_size, input_size, device="meta")
        built = [_build(spec, in_channels, self.feature_channels, input_size) for spec in candidates]
        decision_network = DecisionNetwork(
            in_channels, len(built) + 1, input_size, **(decision_arguments or {})
        )
        self.bank = SliceBank(
            decision_network,
            _flops(decision_network, slice_of_zeros),
            [Candidate(name, network, _flops(network, slice_of_zeros)) for name, network in built],
            self.feature_channels,
        )

    def forward_features(self, patch: Tensor) -> SliceLogits:
        """Choose for the slices of patch (B, C, D, input_size, input_size), and segment them for all tasks.

        On the "meta" device, where arithmetic is counted without an image, nothing can be chosen: every slice
        takes the costliest candidate, so the count is an upper bound.

        Raises:
            ValueError: the patch has another height or width.
        """
        slices = slices_of(patch)
        if patch.is_meta:
            choices = self.bank.choose(slices)
            costliest = max(range(len(self.bank.networks)), key=self.bank.flops[1:].__getitem__)
            logits = self.bank.networks[costliest](slices)
        else:
            with torch.autocast(patch.device.type, enabled=False):
                logits, report = self.bank(slices)
            choices = torch.tensor(report.choices, device=patch.device)
            self._be_sure_of_background(logits, choices == 0)
        return SliceLogits(by_patch(logits, patch).transpose(1, 2), by_patch(choices, patch))

    def initialize_head(self, logit: float) -> None:
        """Let the untrained candidates start from about this logit everywhere."""
        for network in self.bank.networks:
            head = network.get_submodule("head")[-1]  # type: ignore[index] # a Sequential
            nn.init.normal_(head.weight, std=1e-2)
            nn.init.constant_(head.bias, logit)

    @property
    def multiply_adds(self) -> tuple[float, ...]:
        """Of each option for one slice, skip first, in thousand millions: the paper's "FLOPs (G)".

        Those of the decision network are part of each; skip has nothing else.
        """
        return tuple(flops / FLOPS_PER_MULTIPLY_ADD / 1e9 for flops in self.bank.flops)

    def choice_report(self, choices: Iterable[Tensor]) -> CaseReport:
        """What was chosen for the slices of a case, and what it cost (Figures 5 and 6, Table 3).

        Args:
            choices: those of the features of all patches, also after they were stored as float16; a slice of
                several windows counts once for each, as the paper's cost of a slice does.
        """
        chosen = torch.cat([patch.flatten() for patch in choices]).int().tolist()
        return CaseReport(self.bank.options, tuple(chosen), tuple(self.bank.flops[i] for i in chosen))

    def decisions(self, features: SliceLogits) -> Tensor:
        """The choices (B, D) for the slices of a patch."""
        return features.choices

    def describe_decisions(self, decisions: Sequence[Tensor]) -> dict[str, Any]:
        """Share of the slices for each choice, and FLOPs in thousand millions, see `CaseReport`."""
        return self.choice_report(decisions).describe()

    def _be_sure_of_background(self, logits: Tensor, skipped: Tensor) -> None:
        """Set logits (S, channels, H, W) where slices (S,) are skipped."""
        logits[skipped] = 0
        for background in self.task_starts[:-1]:
            logits[skipped, background] = SURE_LOGIT


def _build(
    spec: Mapping[str, Any], in_channels: int, num_classes: int, input_size: int
) -> tuple[str, nn.Module]:
    """Name and network of a candidate.

    Raises:
        ValueError: its name or architecture is missing or unknown.
    """
    arguments = dict(spec)
    name, architecture = arguments.pop("name", None), arguments.pop("architecture", None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"the candidate {dict(spec)} has no name")
    require_choice(f"the architecture of {name}", architecture, ("UNet2d", "TransBTS2d"))
    if architecture == "UNet2d":
        return name, UNet2d(in_channels, num_classes, **arguments)
    return name, TransBTS2d(in_channels, num_classes, input_size=input_size, **arguments)


def _flops(network: nn.Module, slice_of_zeros: Tensor) -> int:
    """FLOPs for one slice, counted on the "meta" device."""
    return count_flops(copy.deepcopy(network).to("meta").eval(), slice_of_zeros)
