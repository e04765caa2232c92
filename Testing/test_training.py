"""Training: loss over annotated channels only, data a function of the seed, runs resume, packages load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import PartialSegLib
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Task
from PartialSegLib.phantom import Tissue
from PartialSegLib.training import TrainingConfig, read_config, train
from PartialSegLib.training.__main__ import main
from PartialSegLib.training.atlas import with_varied_organs
from PartialSegLib.training.cases import SyntheticCases, deform_atlas, task_labels
from PartialSegLib.training.losses import partial_label_loss
from PartialSegLib.training.run import start_run
from PartialSegLib.training.tissue_head import TissueHead, sample_voxels
from PartialSegLib.training.train import learning_rate, make_manifest

TASKS = [
    {"name": "liver", "structures": {"liver": 0, "liver_tumor": 1}},
    {"name": "colon", "structures": {"colon_tumor": 1}},
    {"name": "spleen", "structures": {"spleen": 0}},
]
PACKAGE = {"name": "tiny", "version": "0.0.1", "title": "Tiny", "license": "Apache-2.0", "tasks": TASKS}

# torch 2.13's bfloat16 convolution on CPUs has a wrong weight gradient where an image is 2 voxels deep
NO_STAGE_2_DEEP = (48, 16, 16)


def tiny_config(output: Path, **changes: object) -> TrainingConfig:
    values = {
        "output": str(output), "package": PACKAGE, "patch_size": (16, 16, 16), "spacing": (12.0, 14.0, 14.0),
        "network_arguments": {"widths": (8, 8, 8, 8, 8), "depths": (1, 1, 1, 1, 1), "groups": 4},
        "batch_size": 1, "iterations": 6, "checkpoint_every": 3, "workers": 0, "ema_decay": 0.9,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})  # type: ignore[arg-type]


def losses_of(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


def test_unannotated_channels_change_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    target = torch.rand(2, 2, 4, 4, 4) > 0.5
    annotated = torch.tensor([[True, False], [True, True]])
    loss = partial_label_loss(logits, target, annotated)
    (gradient,) = torch.autograd.grad(loss, logits)
    other = target.clone()
    other[0, 1] = ~other[0, 1]
    assert torch.equal(loss, partial_label_loss(logits, other, annotated))
    assert not gradient[0, 1].any()
    assert gradient[0, 0].any()


def test_nothing_annotated_costs_nothing() -> None:
    logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    loss = partial_label_loss(logits, torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()  # type: ignore[union-attr]


def test_loss_of_a_hand_computed_case() -> None:
    logits = torch.full((1, 1, 1, 2, 2), 0.0)  # probability 1/2 everywhere
    target = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 2, 2)
    dice = 1 - (2 * 1.5 + 1) / (2 + 3 + 1)
    expected = dice + math.log(2)
    assert partial_label_loss(logits, target, torch.ones(1, 1, dtype=torch.bool)) == pytest.approx(
        expected, abs=1e-6
    )


def test_a_false_structure_costs_by_its_confidence_not_by_its_volume() -> None:
    annotated = torch.ones(1, 1, dtype=torch.bool)

    def cost(logits: torch.Tensor, target: torch.Tensor) -> float:
        plain = partial_label_loss(logits, target, annotated)
        return float(partial_label_loss(logits, target, annotated, background_weight=0.5) - plain)

    logits = torch.full((1, 1, 1, 5, 20), -40.0)
    logits[..., :5] = 2.0  # 25 of 100 voxels
    expected = 0.5 * math.log1p(math.exp(2.0))
    assert cost(logits, torch.zeros(1, 1, 1, 5, 20)) == pytest.approx(expected, abs=1e-4)
    assert cost(logits, (logits > 0).float()) == pytest.approx(0, abs=1e-6)
    logits[..., :2] = -40.0  # 15 voxels
    assert cost(logits, torch.zeros(1, 1, 1, 5, 20)) == pytest.approx(expected, abs=1e-4)


def test_each_case_is_labelled_for_its_task_only() -> None:
    tissues = np.array([[[Tissue.LIVER, Tissue.LIVER_TUMOR, Tissue.SPLEEN, Tissue.COLON_TUMOR]]], np.uint8)
    target, annotated = task_labels(tissues, Task("liver", {"liver": 0, "liver_tumor": 1}), 2)
    assert target.flatten(1).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert annotated.tolist() == [True, True]
    target, annotated = task_labels(tissues, Task("colon", {"colon_tumor": 1}), 2)
    assert target[1].flatten().tolist() == [False, False, False, True]
    assert annotated.tolist() == [False, True]


def test_cases_are_a_function_of_seed_and_index(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    tasks = make_manifest(config).tasks
    first, second = SyntheticCases(config, tasks)[4], SyntheticCases(config, tasks)[4]
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.image, SyntheticCases(config, tasks)[5].image)
    assert len(first.tasks) == 1


def test_voxels_are_sampled_by_the_square_root_of_a_tissue_s_volume() -> None:
    tissues = np.full((10, 10, 10), Tissue.FAT, np.uint8)
    tissues.ravel()[::40] = Tissue.SPLEEN  # 25 voxels
    voxels = sample_voxels(tissues, 400, np.random.default_rng(0))
    share = (tissues.ravel()[voxels] == Tissue.SPLEEN).mean()
    assert share == pytest.approx(5 / (5 + math.sqrt(975)), abs=0.01)
    assert len(voxels) == pytest.approx(400, abs=2)


def test_the_tissue_head_reads_the_features_of_the_sampled_voxels() -> None:
    torch.manual_seed(0)
    head = TissueHead(3)
    features = torch.randn(1, 3, 2, 3, 4, requires_grad=True)
    voxels = torch.tensor([5, 23])
    loss = head.loss(features, voxels, torch.tensor([int(Tissue.LIVER), int(Tissue.BONE)]))
    rows = features[0].flatten(1)[:, voxels].T
    chosen = head(rows).log_softmax(1)[[0, 1], [Tissue.LIVER, Tissue.BONE]]
    assert loss.item() == pytest.approx(float(-chosen.mean().detach()), abs=1e-5)
    loss.backward()
    assert features.grad is not None
    assert features.grad[0].abs().sum(0).flatten().nonzero().flatten().tolist() == [5, 23]


def test_the_first_steps_train_the_tissue_head_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, iterations=2, tissue_weight=1.0, tissue_iterations=2, ema_decay=0.0)
    before = start_run(config, make_manifest(config).network.arguments, "cpu").network.state_dict()
    after = PartialSegLib.load_model(train(config)).network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name].half().float())}
    assert "stem.weight" in changed
    assert not any(name.startswith("controller.") for name in changed)


def test_the_atlas_is_deformed_onto_the_grid_of_the_patch() -> None:
    atlas = np.full((60, 120, 120), Tissue.AIR, np.uint8)
    atlas[10:50, 20:100, 20:100] = Tissue.VISCERAL_FAT
    for number, organ in enumerate((Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY_CORTEX, Tissue.PANCREAS)):
        atlas[15:45, 30 + 15 * number : 40 + 15 * number, 40:80] = organ
    rng = np.random.default_rng(2)
    axes = [np.arange(-10, 10) * 8.0, np.arange(-12, 12) * 8.0, np.arange(-12, 12) * 8.0]
    tissues = deform_atlas(atlas, axes, rng)
    assert tissues.shape == (20, 24, 24)
    assert {Tissue.LIVER, Tissue.SPLEEN, Tissue.FAT} <= set(np.unique(tissues))
    assert set(np.unique(with_varied_organs(atlas, rng))) == set(np.unique(atlas))


def test_learning_rate_warms_up_and_decays_with_power_0_9(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, iterations=100, learning_rate=0.1, warm_up=9)
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 50) == pytest.approx(0.1 * 0.5**0.9)


def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = {"tissue_weight": 0.5, "tissue_iterations": 2, "tissue_voxels": 200}
    train(tiny_config(whole, **settings))
    with pytest.raises(InputError, match="stop here"):
        _stop_after(tiny_config(parts, **settings), 5)
    train(tiny_config(parts, **settings))
    curve = losses_of(parts)
    assert curve[:5] + curve[7:] == losses_of(whole)
    assert curve[3:5] == curve[5:7]  # steps 4 and 5 ran twice
    weights = [(folder / "package" / "weights.safetensors").read_bytes() for folder in (whole, parts)]
    assert weights[0] == weights[1]


def _stop_after(config: TrainingConfig, steps: int) -> None:
    """Train with a data set that fails after some steps, as a killed run would."""
    original = SyntheticCases.__getitem__

    def failing(self: SyntheticCases, index: int) -> object:
        if index >= steps:
            raise InputError("stop here")
        return original(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyntheticCases, "__getitem__", failing)
        train(config)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_package_of_a_run_segments(tmp_path: Path, optimizer: str) -> None:
    config = tiny_config(
        tmp_path, patch_size=NO_STAGE_2_DEEP, iterations=2, optimizer=optimizer, mixed_precision=True
    )
    volume = PartialSegLib.Volume(
        np.zeros((20, 30, 30), np.int16), np.diag([12.0, 14.0, 14.0, 1.0])[[2, 1, 0, 3]]
    )
    segmentation = PartialSegLib.segment(volume, train(config))
    assert [task for task, _ in segmentation] == ["liver", "liver", "colon", "spleen"]


def test_fifty_steps_learn_the_liver_of_one_phantom(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, iterations=50, optimizer="adamw", learning_rate=0.01, checkpoint_every=50, cases_per_image=3
    )
    tasks = make_manifest(config).tasks
    one = SyntheticCases(config, tasks)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyntheticCases, "__getitem__", lambda self, index: one)
        train(config)
    curve = losses_of(tmp_path)
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ('{"output": "x", "package": {}, "learning_rat": 1}', "unknown field 'learning_rat'"),
        ('{"output": "x"}', "lacks the field 'package'"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_config(path)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.json")]) == 2
    assert capsys.readouterr().err.startswith("No training configuration")
