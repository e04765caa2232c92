"""Med-DANet's model bank: each slice is treated as the decision network says, and that is reported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from PartialSegLib.networks.meddanet import MedDANet
from PartialSegLib.networks.slice_bank import Candidate, CaseReport, SliceBank
from PartialSegLib.networks.transbts2d import TransBTS2d
from PartialSegLib.networks.unet2d import UNet2d


class DecisionByMark(nn.Module):
    """Chooses what the first pixel of a slice says."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self.choices = choices

    def forward(self, slices: Tensor) -> Tensor:
        return nn.functional.one_hot(slices[:, 0, 0, 0].long(), self.choices).float()


class Constant(nn.Module):
    """Gives one class everywhere and remembers how many slices came at a time."""

    def __init__(self, number: int, classes: int = 4) -> None:
        super().__init__()
        self.number, self.classes = number, classes
        self.batches: list[int] = []

    def forward(self, slices: Tensor) -> Tensor:
        self.batches.append(len(slices))
        scores = slices.new_zeros(len(slices), self.classes, *slices.shape[2:])
        scores[:, self.number] = 1
        return scores


def marked_slices(choices: list[int], size: int = 4) -> Tensor:
    torch.manual_seed(0)
    slices = torch.randn(len(choices), 1, size, size)
    slices[:, 0, 0, 0] = torch.tensor(choices)
    return slices


def bank_of_constants(batch_size: int = 16) -> tuple[SliceBank, list[Constant]]:
    networks = [Constant(number) for number in (1, 2, 3)]
    candidates = [Candidate(f"M{n.number}", n, flops=10.0**n.number) for n in networks]
    return SliceBank(DecisionByMark(4), 1.0, candidates, num_classes=4, batch_size=batch_size), networks


CHOICES = [0, 3, 1, 1, 0, 3, 1, 0, 0, 1]


def test_every_slice_is_segmented_by_its_own_network() -> None:
    bank, networks = bank_of_constants(batch_size=3)
    result = bank(marked_slices(CHOICES))

    labels = result.scores.argmax(dim=1)
    assert labels.flatten(1).unique(dim=1).flatten().tolist() == CHOICES
    assert [network.batches for network in networks] == [[3, 1], [], [2]]


def test_a_skipped_slice_is_background() -> None:
    bank, networks = bank_of_constants()
    scores, report = bank(marked_slices([0, 0]))
    assert scores[:, 0].eq(1).all()
    assert not scores[:, 1:].any()
    assert report.case_flops == 2
    assert [network.batches for network in networks] == [[], [], []]


def test_choices_and_cost_are_reported() -> None:
    report = bank_of_constants()[0](marked_slices(CHOICES)).report
    assert report.options == ("skip", "M1", "M2", "M3")
    assert report.choices == tuple(CHOICES)
    assert report.slice_flops == tuple({0: 1.0, 1: 11.0, 3: 1001.0}[choice] for choice in CHOICES)
    assert report.ratios == {"skip": 0.4, "M1": 0.4, "M2": 0.0, "M3": 0.2}
    assert sum(report.ratios.values()) == pytest.approx(1)
    assert report.case_flops == 4 * 1 + 4 * 11 + 2 * 1001
    assert report.mean_slice_flops == report.case_flops / 10


def test_ratios_of_thirds_sum_to_one() -> None:
    report = CaseReport(("skip", "M1", "M2"), (0, 1, 2), (1.0, 2.0, 3.0))
    assert sum(report.ratios.values()) == pytest.approx(1, abs=1e-15)


def one_by_one(bank: SliceBank, slices: Tensor) -> Tensor:
    return torch.cat([bank(slices[i : i + 1]).scores for i in range(len(slices))])


MIXED = [2, 1, 0, 1, 2, 1, 1, 2, 0, 2]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_in_batches_exactly_as_one_by_one(batch_size: int) -> None:
    """With whole numbers, whose sums are exact in any order."""
    torch.manual_seed(0)
    candidates = [Candidate(name, nn.Conv2d(1, 3, 3, padding=1), 1.0) for name in "AB"]
    for candidate in candidates:
        for parameter in candidate.network.parameters():
            parameter.data = torch.randint(-9, 9, parameter.shape).float()
    bank = SliceBank(DecisionByMark(3), 0.0, candidates, num_classes=3, batch_size=batch_size)
    slices = marked_slices(MIXED, size=8).round()
    assert torch.equal(bank(slices).scores, one_by_one(bank, slices))


@pytest.mark.parametrize("batch_size", [3, 16])
def test_real_networks_in_batches_as_one_by_one(batch_size: int) -> None:
    torch.manual_seed(0)
    networks = [
        UNet2d(1, 3, base_width=4),
        TransBTS2d(1, 3, num_layers=1, input_size=32, base_width=4, width=16, hidden_width=32),
    ]
    candidates = [Candidate(name, network, 1.0) for name, network in zip("AB", networks, strict=True)]
    bank = SliceBank(DecisionByMark(3), 0.0, candidates, num_classes=3, batch_size=batch_size).eval()
    slices = marked_slices(MIXED, size=32)
    with torch.inference_mode():
        assert torch.allclose(bank(slices).scores, one_by_one(bank, slices), atol=1e-5)


def test_the_bank_of_the_paper() -> None:
    torch.manual_seed(0)
    bank = MedDANet(input_size=64).eval().bank
    assert bank.options == ("skip", "M1", "M2", "M3", "M4")
    assert list(bank.flops) == sorted(bank.flops)
    assert not any(module.training for module in bank.modules())
    with torch.inference_mode():
        scores, report = bank(torch.randn(2, 1, 64, 64))
    assert scores.shape == (2, 2, 64, 64)
    assert len(report.choices) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"candidates": [Candidate("M1", Constant(1), 1.0)] * 2}, "skip, M1, M1 need names that differ"),
        ({"candidates": [Candidate("skip", Constant(1), 1.0)]}, "skip, skip need names that differ"),
    ],
)
def test_options_have_names_of_their_own(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SliceBank(DecisionByMark(2), 1.0, num_classes=4, **arguments)


def test_networks_that_do_not_fit_are_refused() -> None:
    candidates = [Candidate("M1", Constant(1, classes=3), 1.0)]
    bank = SliceBank(DecisionByMark(2), 1.0, candidates, num_classes=4)
    with pytest.raises(ValueError, match=r"candidate M1 has shape \(1, 3, 4, 4\), not \(1, 4, 4, 4\)"):
        bank(marked_slices([1]))
    with pytest.raises(ValueError, match="no slices"):
        bank(torch.zeros(0, 1, 4, 4))
    with pytest.raises(ValueError, match=r"has 5 choices for 2 options"):
        SliceBank(DecisionByMark(5), 1.0, candidates, num_classes=4)(marked_slices([1]))
