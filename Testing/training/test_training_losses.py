"""Losses of partially labelled cases: hand-computed values, and nothing of what is not annotated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from PartialSegLib.training.config import Loss
from PartialSegLib.training.loop.workers import ALONE, Workers
from PartialSegLib.training.losses import (
    LOSSES,
    Prediction,
    class_adaptive,
    dice_and_cross_entropy,
    softmax_dice_and_cross_entropy,
)


def prediction(
    logits: Tensor | Sequence[Sequence[float]],
    target: Tensor | Sequence[Sequence[float]],
    annotated: Sequence[bool] | None = None,
    task: int = 0,
    known: Tensor | None = None,
) -> Prediction:
    logits = torch.as_tensor(logits)
    known_channels = torch.tensor(annotated if annotated is not None else [True] * len(logits))
    return Prediction(task, logits, torch.as_tensor(target), known_channels, known)


@pytest.mark.parametrize("kind", LOSSES)
def test_unannotated_channels_change_neither_loss_nor_gradient(kind: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 64, requires_grad=True), torch.rand(3, 64) > 0.5
    annotated = [kind != "softmax", True, False]
    other = target.clone()
    other[2] = ~other[2]
    costs = [LOSSES[kind].compute([prediction(logits, t, annotated)], Loss(), ALONE) for t in (target, other)]
    assert torch.equal(*costs)
    (gradient,) = torch.autograd.grad(costs[0], logits)
    assert gradient[1].any()
    assert kind == "softmax" or not gradient[2].any()  # a softmax lowers what is no background


@pytest.mark.parametrize("kind", LOSSES)
def test_voxels_that_nobody_labelled_change_nothing(kind: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 64, requires_grad=True), torch.rand(3, 64) > 0.5
    known = torch.arange(64) < 40
    annotated = [kind != "softmax", True, True]
    loss = LOSSES[kind].compute([prediction(logits, target, annotated, known=known)], Loss(), ALONE)
    part = prediction(logits[:, :40], target[:, :40], annotated)
    assert loss.item() == pytest.approx(LOSSES[kind].compute([part], Loss(), ALONE).item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, 40:].any()


@pytest.mark.parametrize("kind", ["dice and cross-entropy", "class-adaptive"])
def test_nothing_annotated_costs_nothing(kind: str) -> None:
    logits = torch.randn(2, 8, requires_grad=True)
    loss = LOSSES[kind].compute([prediction(logits, torch.zeros(2, 8), [False, False])], Loss(), ALONE)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()  # type: ignore[union-attr]


def test_dice_and_cross_entropy_of_a_hand_computed_case() -> None:
    case = prediction([[0.0] * 4], [[1.0, 1.0, 1.0, 0.0]])  # probability 1/2 everywhere
    ours = dice_and_cross_entropy([case], Loss(), ALONE)
    assert ours.item() == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 3 + 1) + math.log(2))
    official = dice_and_cross_entropy([case], Loss(smooth_numerator=False), ALONE)
    assert official.item() == pytest.approx(1 - 3 / 6 + math.log(2))


def test_an_empty_target_costs_1_unless_the_numerator_is_smoothed() -> None:
    case = prediction([[-50.0] * 4], [[0.0] * 4])
    assert dice_and_cross_entropy([case], Loss(smooth_numerator=False), ALONE).item() == pytest.approx(1)
    assert dice_and_cross_entropy([case], Loss(), ALONE).item() == pytest.approx(0, abs=1e-6)


def test_the_average_is_over_cases_or_over_channels_first() -> None:
    organ_and_tumor = prediction([[0.0] * 4, [0.0] * 4], [[1.0] * 4, [0.0] * 4])
    organ = prediction([[0.0] * 4, [0.0] * 4], [[1.0] * 4, [0.0] * 4], [True, False])
    full, empty = 1 - 2 * 2 / (2 + 4 + 1), 1.0  # Dice losses of the two channels, denominator smoothed
    by_cases = Loss(smooth_numerator=False)
    by_channels = Loss(smooth_numerator=False, average="channels")
    cost = dice_and_cross_entropy([organ_and_tumor, organ], by_cases, ALONE).item() - math.log(2)
    assert cost == pytest.approx(((full + empty) / 2 + full) / 2)
    cost = dice_and_cross_entropy([organ_and_tumor, organ], by_channels, ALONE).item() - math.log(2)
    assert cost == pytest.approx((full + empty) / 2)


def test_a_structure_counts_by_its_weight() -> None:
    case = prediction([[0.5] * 4, [-1.0] * 4, [2.0] * 4], [[1.0] * 4] * 3, [True, False, True])
    each = [
        dice_and_cross_entropy([case._replace(annotated=torch.tensor(only))], Loss(), ALONE).item()
        for only in ([True, False, False], [False, False, True])
    ]
    weighted = dice_and_cross_entropy([case._replace(weights=torch.tensor([1.0, 7.0, 3.0]))], Loss(), ALONE)
    assert weighted.item() == pytest.approx((each[0] + 3 * each[1]) / 2)


def test_a_false_structure_costs_by_its_confidence_not_by_its_volume() -> None:
    def cost(logits: Tensor, target: Tensor) -> float:
        case = prediction(logits, target)
        plain = dice_and_cross_entropy([case], Loss(), ALONE)
        return float(dice_and_cross_entropy([case], Loss(background_weight=0.5), ALONE) - plain)

    logits = torch.full((1, 100), -40.0)
    logits[:, :25] = 2.0
    expected = 0.5 * math.log1p(math.exp(2.0))
    assert cost(logits, torch.zeros(1, 100)) == pytest.approx(expected, abs=1e-4)
    assert cost(logits, (logits > 0).float()) == pytest.approx(0, abs=1e-6)
    logits[:, :10] = -40.0
    assert cost(logits, torch.zeros(1, 100)) == pytest.approx(expected, abs=1e-4)


def test_a_soft_border_costs_a_large_structure_less_than_a_small_one() -> None:
    logits = torch.full((1, 100), -40.0)
    logits[:, :10] = 0.0  # half sure of ten voxels beside the structure
    for size in (10, 80):
        target = torch.zeros(1, 100)
        target[:, 10 : 10 + size] = 1.0
        case = prediction(logits.where(target == 0, 40.0), target)
        plain = dice_and_cross_entropy([case], Loss(), ALONE)
        cost = dice_and_cross_entropy([case], Loss(background_weight=1.0), ALONE) - plain
        assert cost.item() == pytest.approx(5 * math.log(2) / (5 + size), rel=1e-4)


def test_class_adaptive_loss_is_summed_over_classes_and_joint_over_the_batch() -> None:
    many = prediction([[0.0] * 4], [[1.0] * 4])
    few = prediction([[0.0] * 4], [[1.0, 0.0, 0.0, 0.0]])
    entropy = 2 * math.log(2)  # of two cases, equation 2
    joint = 2 * (2 + 0.5) / (2 + 4 + 2 + 1)
    assert class_adaptive([many, few], Loss(), ALONE).item() == pytest.approx(entropy - joint)
    each = 2 * 2 / (2 + 4) + 2 * 0.5 / (2 + 1)
    assert class_adaptive([many, few], Loss(joint_dice=False), ALONE).item() == pytest.approx(entropy - each)
    other_task = few._replace(task=1)
    assert class_adaptive([many, other_task], Loss(), ALONE).item() == pytest.approx(entropy - each)


def test_softmax_loss_of_a_hand_computed_case() -> None:
    case = prediction([[0.0, 0.0], [0.0, 0.0]], [[False, False], [True, False]], [False, True])
    dice = (2 * 0.5 + 1e-5) / (1 + 1 + 1e-5)
    assert softmax_dice_and_cross_entropy([case], Loss(), ALONE).item() == pytest.approx(math.log(2) - dice)


def test_unannotated_classes_of_a_softmax_count_as_background() -> None:
    logits = torch.tensor([[0.0], [0.0], [5.0]])  # one voxel; class 2 is not annotated here
    case = prediction(logits, [[False], [False], [True]], [False, True, False])
    weights = math.e**0, math.e**0, math.e**5
    expected = -math.log((weights[0] + weights[2]) / sum(weights))
    merged = softmax_dice_and_cross_entropy([case], Loss(), ALONE).item()
    dice_of_class_1 = 1e-5 / (weights[1] / sum(weights) + 1e-5)
    assert merged == pytest.approx(expected - dice_of_class_1, rel=1e-5)


def test_a_tumor_wins_over_the_organ_that_includes_it() -> None:
    sure_of_tumor = [[-20.0, 20.0], [20.0, -20.0], [-20.0, 20.0]]
    target = [[False, False], [True, True], [False, True]]  # the organ has both voxels
    logits = torch.tensor(sure_of_tumor)
    logits[0] = -40.0
    case = prediction(logits, target, [False, True, True])
    assert softmax_dice_and_cross_entropy([case], Loss(), ALONE).item() == pytest.approx(-1, abs=1e-4)


def test_the_joint_dice_of_a_softmax_is_of_the_cases_that_annotate_a_class() -> None:
    case = prediction([[0.0, 0.0], [0.0, 0.0]], [[False, False], [True, False]], [False, True])
    other = prediction([[0.0, 0.0], [0.0, 0.0]], [[False, False], [False, False]], [False, False])
    dice = (2 * 0.5 + 1e-5) / (1 + 1 + 1e-5)
    assert softmax_dice_and_cross_entropy([case, other], Loss(), ALONE).item() == pytest.approx(
        math.log(2) / 2 - dice
    )


def test_the_dice_of_a_softmax_may_be_the_mean_over_cases_and_the_classes_that_they_annotate() -> None:
    found = prediction([[0.0, 0.0], [0.0, 0.0]], [[False, False], [True, False]], [False, True])
    missed = prediction([[0.0, 0.0], [-90.0, 0.0]], [[False, False], [True, False]], [False, True])
    other = prediction([[0.0, 0.0], [0.0, 0.0]], [[False, False], [False, False]], [False, False])
    entropies = math.log(2), (90 + math.log(2)) / 2, 0.0
    dices = (2 * 0.5 + 1e-5) / (1 + 1 + 1e-5), 1e-5 / (0.5 + 1 + 1e-5)
    loss = softmax_dice_and_cross_entropy([found, missed, other], Loss(joint_dice=False), ALONE)
    assert loss.item() == pytest.approx(sum(entropies) / 3 - sum(dices) / 2)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_patch_of_which_nothing_is_labelled_costs_no_nan(kind: str) -> None:
    logits = torch.randn(2, 8, requires_grad=True)
    nothing = torch.zeros(8, dtype=torch.bool)
    case = prediction(logits, torch.zeros(2, 8) > 0, [kind != "softmax", True], known=nothing)
    (gradient,) = torch.autograd.grad(LOSSES[kind].compute([case], Loss(), ALONE), logits)
    assert not gradient.any()


class Twins(Workers):
    """Two processes with the same batch."""

    def __init__(self) -> None:
        super().__init__(size=2)

    def summed(self, tensor: Tensor) -> Tensor:
        return 2 * tensor

    def summed_by_key(self, rows: Mapping[Any, Tensor], zero: Tensor) -> list[Tensor]:
        return [2 * row for row in rows.values()]


@pytest.mark.parametrize("joint_dice", [True, False])
def test_a_summed_loss_is_that_of_both_processes_since_their_gradients_are_averaged(joint_dice: bool) -> None:
    case = prediction([[0.0] * 4], [[1.0] * 4])
    alone = class_adaptive([case], Loss(joint_dice=joint_dice), ALONE).item()
    dice = math.log(2) - alone
    together = class_adaptive([case], Loss(joint_dice=joint_dice), Twins()).item()
    assert together == pytest.approx(2 * math.log(2) - (dice if joint_dice else 2 * dice))
