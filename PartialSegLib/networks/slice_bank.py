"""Med-DANet's model bank: for each slice, skip it or segment it with one of several 2-D networks.

Wang et al.: Med-DANet, ECCV 2022, section 3 and equations 1 to 3. The decision network gives one of n + 1
choices for a slice; 0 is to skip it, i is the candidate M_i. There is no official code of it.

What the paper leaves open, and what is done here:
    * Slices of one choice are run together in batches. At inference no network mixes the slices of a batch:
      the result is that of running them one by one, up to PyTorch's rounding.
    * The segmentation map of a skipped slice is "all zeros" (section 3.3), that is background in every pixel:
      score 1 for class 0. (Version 2's official code gives it score 0 for all classes.)
    * Candidates may give logits or scores after an activation; what counts is that the largest is the class.
    * FLOPs of a slice include those of the decision network, also where it is skipped. A multiply-add is two
      FLOPs; the paper's figures of the candidates (Table 3) are multiply-adds, so they compare with half of
      ours. Its figure of the decision network (0.078 in Table 5) is not that of the official code: 0.004 for
      128 x 128 pixels, 0.015 for 240 x 240.
    * Neither the paper's sliding window of 128 x 128 pixels (its setting 1, 16 inferences for a slice of
      240 x 240) nor mirroring belongs to the bank: its slices are what one inference sees. In the session
      they are patches, blended as the manifest says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SKIP = "skip"
BACKGROUND = 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network of the bank.

    Attributes:
        name: for the report, such as "M1".
        network: maps slices (B, C, H, W) to scores or logits (B, num_classes, H, W), background first.
        flops: for one slice, see `count_flops`.
    """

    name: str
    network: nn.Module
    flops: float


@dataclass(frozen=True)
class CaseReport:
    """What was chosen for the slices of a case, and what it cost (the paper's Figures 5 and 6 and Table 3).

    Attributes:
        options: names of the choices, skip first.
        choices: index into `options` for each slice, at least one.
        slice_flops: for each slice, with those of the decision network.
    """

    options: tuple[str, ...]
    choices: tuple[int, ...]
    slice_flops: tuple[float, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """Fraction of the slices for which each option was chosen; they sum to one."""
        return {
            option: self.choices.count(number) / len(self.choices)
            for number, option in enumerate(self.options)
        }

    @property
    def case_flops(self) -> float:
        """FLOPs of all slices together."""
        return sum(self.slice_flops)

    @property
    def mean_slice_flops(self) -> float:
        """FLOPs of a slice on average."""
        return self.case_flops / len(self.slice_flops)

    def describe(self) -> dict[str, Any]:
        """Plain JSON: the share of every option, FLOPs in thousand millions, and each slice's option."""
        return {
            "choices": {option: round(share, 4) for option, share in self.ratios.items()},
            "case_gflops": round(self.case_flops / 1e9, 3),
            "mean_slice_gflops": round(self.mean_slice_flops / 1e9, 4),
            "slice_choices": [self.options[choice] for choice in self.choices],
        }


class BankSegmentation(NamedTuple):
    """What the bank makes of a case.

    Attributes:
        scores: (S, num_classes, H, W); the class of a pixel is the arg-max.
        report: choices and cost.
    """

    scores: Tensor
    report: CaseReport


class SliceBank(nn.Module):
    """A decision network and its candidates.

    Args:
        decision_network: maps slices (B, C, H, W) to logits (B, len(candidates) + 1), skip first.
        decision_flops: of the decision network for one slice.
        candidates: in the order of the choices.
        num_classes: channels of every candidate's output.
        batch_size: slices that go through a network at a time.

    Raises:
        ValueError: two candidates of one name, or one named "skip".
    """

    def __init__(
        self,
        decision_network: nn.Module,
        decision_flops: float,
        candidates: Sequence[Candidate],
        num_classes: int,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.options = (SKIP, *(candidate.name for candidate in candidates))
        if len(set(self.options)) < len(self.options):
            raise ValueError(f"The options {', '.join(self.options)} need names that differ.")
        self.decision_network = decision_network
        self.networks = nn.ModuleList(candidate.network for candidate in candidates)
        self.flops = tuple(
            decision_flops + more for more in (0.0, *(candidate.flops for candidate in candidates))
        )
        self.num_classes = num_classes
        self.batch_size = batch_size

    def forward(self, slices: Tensor) -> BankSegmentation:
        """Segment the slices (S, C, H, W) of a case, each as the decision network wants it.

        Raises:
            ValueError: there are no slices, or the shape that a network gives is not as it should be.
        """
        choices = self.choose(slices)
        scores = slices.new_zeros(len(slices), self.num_classes, *slices.shape[2:])
        scores[choices == 0, BACKGROUND] = 1
        for number, network in enumerate(self.networks, start=1):
            for indices in (choices == number).nonzero()[:, 0].split(self.batch_size):
                if len(indices):
                    output = self._checked(network(slices[indices]), scores[indices], number)
                    scores[indices] = output.to(scores.dtype)
        chosen = tuple(choices.tolist())
        report = CaseReport(self.options, chosen, tuple(self.flops[number] for number in chosen))
        return BankSegmentation(scores, report)

    def choose(self, slices: Tensor) -> Tensor:
        """The choice (S,) for each of slices (S, C, H, W): 0 is skip, i is the i-th candidate.

        Raises:
            ValueError: there are no slices, or the decision network has another number of choices.
        """
        if not len(slices):
            raise ValueError("There are no slices to segment.")
        logits = torch.cat([self.decision_network(batch) for batch in slices.split(self.batch_size)])
        if logits.shape != (len(slices), len(self.options)):
            raise ValueError(
                f"The decision network has {logits.shape[1]} choices for {len(self.options)} options."
            )
        return logits.argmax(dim=1)

    def _checked(self, output: Tensor, wanted: Tensor, number: int) -> Tensor:
        if output.shape != wanted.shape:
            shapes = f"{tuple(output.shape)}, not {tuple(wanted.shape)}"
            raise ValueError(f"The output of candidate {self.options[number]} has shape {shapes}.")
        return output
