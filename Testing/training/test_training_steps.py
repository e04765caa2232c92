"""What one step of training changes, against arithmetic written out: rates, clipping, averages, levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import tiny_config

from PartialSegLib.training.cases import Cases, SyntheticCases
from PartialSegLib.training.label_bits import to_bits
from PartialSegLib.training.loop.phased_run import StepResult
from PartialSegLib.training.loop.workers import ALONE
from PartialSegLib.training.losses import Prediction, dice_and_cross_entropy
from PartialSegLib.training.run import Run
from PartialSegLib.training.train import make_manifest

PLAIN = {"iterations": 9, "learning_rate": 0.1, "decay": "constant", "momentum": 0.0, "weight_decay": 0.0}
LEVELS: dict[str, Any] = {
    "network": "UNet",
    "network_arguments": {
        "task_channels": [2, 2, 2], "widths": [4, 4, 4], "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "depths": [1, 1, 1], "decoder_depths": [1, 1],
    },
}  # fmt: skip


def run_and_cases(**changes: Any) -> tuple[Run, list[Cases]]:
    """A run at its first step, and a liver in a phantom."""
    config = tiny_config("nowhere", **changes)
    manifest = make_manifest(config)
    run = Run(config, manifest.network.arguments, ALONE)
    return run, [SyntheticCases(config, manifest.tasks, run.network.num_structures, 1)[0]]


def weights_of(run: Run) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in run.network.state_dict().items()}


def first_step(**phase: Any) -> tuple[dict[str, Tensor], StepResult]:
    """By how much the first step of a phase changes each weight."""
    run, cases = run_and_cases(phases=[{**PLAIN, **phase}], ema_decay=0.0)
    before = weights_of(run)
    result = run.take_step(cases)
    return {name: weight - before[name] for name, weight in weights_of(run).items()}, result


def test_the_gradient_is_clipped_to_its_largest_norm() -> None:
    free, result = first_step()
    length = torch.cat([change.flatten() for change in free.values()]).norm().item()
    assert length == pytest.approx(0.1 * result.norm, rel=1e-4)
    clip = result.norm / 4
    clipped, again = first_step(gradient_clip=clip)
    assert again.norm == result.norm
    for name, change in clipped.items():
        torch.testing.assert_close(change, free[name] / 4, rtol=1e-3, atol=1e-6)
    larger, _ = first_step(gradient_clip=2 * result.norm)
    assert all(torch.equal(change, free[name]) for name, change in larger.items())


def test_factors_change_the_learning_rate_of_the_parameters_they_name() -> None:
    free, _ = first_step()
    slower, _ = first_step(factors={"controller.": 0.25})
    assert free["controller.weight"].any()
    for name, change in slower.items():
        expected = free[name] * (0.25 if name.startswith("controller.") else 1)
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-6)


def test_the_averaged_weights_forget_the_start_and_then_change_by_their_decay() -> None:
    """The decay rises from 1/10 by step / (9 + step), up to the one that is given."""
    run, cases = run_and_cases(phases=[PLAIN], ema_decay=0.15)
    average = weights_of(run)
    for decay in (0.1, 0.15, 0.15):
        run.take_step(cases)
        for name, weight in weights_of(run).items():
            average[name] = decay * average[name] + (1 - decay) * weight
    assert not torch.equal(average["stem.weight"], run.network.state_dict()["stem.weight"])
    for name, weight in run.weights.items():
        torch.testing.assert_close(weight, average[name])
    plain, cases = run_and_cases(phases=[PLAIN], ema_decay=0.0)
    plain.take_step(cases)
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(plain.weights[name], weight)


def test_the_weight_of_a_structure_reaches_its_channel() -> None:
    weights = {"colon_tumor": 5.0, "spleen": 3.0}  # channels 1 and 0 of the tasks that are left
    run, (cases,) = run_and_cases(
        loss={"structure_weights": weights}, only_tasks=["colon", "spleen"], synthetic={"cases_per_image": 2}
    )
    features = run.network.forward_features(cases.image[None])
    losses = []
    for number, task in enumerate(cases.tasks.tolist()):
        logits = run.network.forward_head(features, task)[0].flatten(1)
        case = Prediction(task, logits, cases.target[number].flatten(1), cases.annotated[number])
        losses.append((5, 3)[task] * dice_and_cross_entropy([case], run.config.loss, ALONE))
    torch.testing.assert_close(run.training_step([cases], 0), (losses[0] + losses[1]) / 2)


def test_levels_are_supervised_by_their_weights() -> None:
    """With labels of every other voxel at the second one, which has half the size."""
    run, (cases,) = run_and_cases(**LEVELS, loss={"deep_supervision": [2, 1]})
    task = int(cases.tasks[0])
    levels = run.network.forward_levels(cases.image[None])
    losses = []
    for level, target in enumerate((cases.target[0], cases.target[0, :, 1::2, 1::2, 1::2])):
        logits = run.network.forward_level_head(levels[level], task, level)[0]
        assert logits.shape == target.shape
        case = Prediction(task, logits.flatten(1), target.flatten(1), cases.annotated[0])
        losses.append(dice_and_cross_entropy([case], run.config.loss, ALONE))
    assert abs(losses[0] - losses[1]) > 0.01
    found = run.training_step([cases], 0)
    torch.testing.assert_close(found, (2 * losses[0] + losses[1]) / 3)
    run.training_step.config = replace(run.config, loss=replace(run.config.loss, deep_supervision=(0, 1)))
    torch.testing.assert_close(run.training_step([cases], 0), losses[1])


def test_voxels_that_are_ignored_change_neither_loss_nor_gradient_at_any_level() -> None:
    run, (cases,) = run_and_cases(**LEVELS, loss={"deep_supervision": [2, 1]})
    ignored = torch.zeros(cases.image.shape[1:], dtype=torch.bool)
    ignored[:7] = True
    results = []
    for target in (cases.target, cases.target ^ ignored, ~cases.target):
        changed = replace(cases, bits=to_bits(target), ignored=ignored)
        run.network.zero_grad()
        loss = run.training_step([changed], 0)
        loss.backward()
        gradients = {name: weight.grad for name, weight in run.network.named_parameters()}
        results.append((loss.item(), {name: g.clone() for name, g in gradients.items() if g is not None}))
    (loss, gradients), (same_loss, same_gradients), (other_loss, _) = results
    assert loss == same_loss != other_loss
    assert all(torch.equal(gradient, same_gradients[name]) for name, gradient in gradients.items())
    assert any(gradient.any() for gradient in gradients.values())
