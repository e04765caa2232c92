"""Med-DANet as a network of the session: slices through the bank, one package, every choice on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import build_network, load_model, save_model
from PartialSegLib.networks import MedDANet
from PartialSegLib.networks.meddanet import MED_DANET_CANDIDATES
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

SIZE = 32
ARGUMENTS: dict[str, Any] = {
    "input_size": SIZE,
    "task_channels": [3],
    "candidates": [
        {"name": "small", "architecture": "UNet2d", "base_width": 2},
        {"name": "large", "architecture": "TransBTS2d", "num_layers": 1, "base_width": 2, "width": 8}
        | {"hidden_width": 8},
    ],
    "decision_arguments": {"stem_width": 4, "stage_widths": [8, 16, 24], "depths": [1, 1, 1]},
}


def small_network(**changes: Any) -> MedDANet:
    torch.manual_seed(0)
    return MedDANet(**{**ARGUMENTS, **changes}).eval().requires_grad_(False)


def always(network: MedDANet, choice: int) -> MedDANet:
    """Let the decision network choose the same for every slice."""
    network.bank.decision_network.classifier.weight.zero_()
    network.bank.decision_network.classifier.weight[choice] = 1
    network.bank.decision_network.last[1].bias.fill_(9)  # what the classifier reads is above 0
    return network


def write_package(folder: Path, network: MedDANet, arguments: dict[str, Any]) -> Path:
    manifest = Manifest(
        name="slices",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=NetworkSpec("MedDANet", arguments),
        preprocessing=Preprocessing("SAR", (3.0, 2.0, 2.0), (-200, 300), divide=100.0),
        inference=Inference((1, SIZE, SIZE), 0.25, activation="softmax"),
        tasks=(Task("liver", {"liver": 1, "liver_tumor": 2}),),
    )
    save_model(folder, manifest, network.state_dict(), "Public domain")
    return folder


def some_volume() -> Volume:
    array = np.random.default_rng(0).integers(-200, 300, (5, 40, 32)).astype(np.int16)
    return Volume(array, np.array([[0, 0, 2.0, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]]))


def test_the_defaults_are_the_bank_of_the_paper() -> None:
    with torch.device("meta"):
        network = MedDANet()
    assert network.bank.options == ("skip", "M1", "M2", "M3", "M4")
    assert list(network.bank.flops) == sorted(network.bank.flops)
    assert network.patch_multiple == (1, 128, 128)
    assert len(MED_DANET_CANDIDATES) == 4


def test_slices_are_what_the_bank_makes_of_them() -> None:
    network = small_network()
    patch = torch.randn(2, 1, 3, SIZE, SIZE)
    features = network.forward_features(patch)
    slices = torch.stack([patch[b, :, d] for b in range(2) for d in range(3)])
    expected, report = network.bank(slices)

    assert features.choices.flatten().tolist() == list(report.choices)
    assert features.logits.shape == (2, 3, 3, SIZE, SIZE)
    for number in (number for number, choice in enumerate(report.choices) if choice):
        found = features.logits[number // 3, :, number % 3]
        assert torch.allclose(found, expected[number], atol=1e-5)
    assert torch.equal(network(patch, 0), features.logits)


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_patches_of_one_slice_and_of_many_give_the_same(choice: int) -> None:
    network = always(small_network(), choice)
    patch = torch.randn(1, 1, 4, SIZE, SIZE)
    whole = network.forward_features(patch)
    parts = [network.forward_features(patch[:, :, d : d + 1]) for d in range(4)]
    assert torch.allclose(whole.logits, torch.cat([part.logits for part in parts], dim=2), atol=1e-5)
    report = network.choice_report([part.choices.half() for part in parts])
    assert report == network.choice_report([whole.choices])
    assert report.choices == (choice,) * 4
    assert report.case_flops == 4 * network.bank.flops[choice]


def test_a_skipped_slice_is_background_of_every_task() -> None:
    network = always(small_network(task_channels=[2, 3]), 0)
    features = network.forward_features(torch.randn(1, 1, 2, SIZE, SIZE))
    for task, channels in enumerate((2, 3)):
        scores = network.forward_head(features, task).softmax(dim=1)
        assert scores.shape == (1, channels, 2, SIZE, SIZE)
        assert scores[:, 0].min() > 1 - 1e-6
    report = network.choice_report([features.choices])
    assert report.ratios == {"skip": 1.0, "small": 0.0, "large": 0.0}
    assert report.mean_slice_flops == network.bank.flops[0]


def test_tasks_share_the_features() -> None:
    network = always(small_network(task_channels=[2, 3]), 1)
    features = network.forward_features(torch.randn(1, 1, 2, SIZE, SIZE))
    heads = [network.forward_head(features, task) for task in range(2)]
    assert torch.equal(torch.cat(heads, dim=1), features.logits)


def test_untrained_heads_start_from_a_logit() -> None:
    network = always(small_network(), 2)
    network.initialize_head(-3.0)
    logits = network(torch.randn(1, 1, 2, SIZE, SIZE), 0)
    assert logits.mean().item() == pytest.approx(-3.0, abs=0.5)


def test_the_arithmetic_of_a_patch_is_that_of_the_costliest_candidate() -> None:
    network = small_network()
    flops = count_patch_flops(network, (3, SIZE, SIZE), num_tasks=1)
    assert flops.features == 3 * max(network.bank.flops)
    assert flops.heads == (0,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": [{"architecture": "UNet2d"}]}, "has no name"),
        ({"candidates": [{"name": "A", "architecture": "UNet3d"}]}, "architecture of A is 'UNet3d', not one"),
        ({"candidates": [{"name": "A", "architecture": "UNet2d", "depth": 3}]}, "argument 'depth'"),
        ({"input_size": 36}, "input_size is 36, which is no multiple of 8"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_network(NetworkSpec("MedDANet", {**ARGUMENTS, **changes}))


@pytest.mark.parametrize(("choice", "precision"), [(0, "float32"), (1, "bfloat16"), (2, "float32")])
def test_a_package_segments_in_the_session(tmp_path: Path, choice: int, precision: str) -> None:
    network = always(small_network(), choice)
    model = load_model(write_package(tmp_path / "package", network, ARGUMENTS))
    session = InferenceSession(model, "cpu", precision=precision)
    session.set_image(some_volume())
    segmentation = session.predict()
    again = session.predict()

    assert session.patches_encoded == session.patches_planned == 2 * 5  # two windows on each of five slices
    assert segmentation.keys() == again.keys() == [("liver", "liver"), ("liver", "liver_tumor")]
    found = sum(segmentation.voxel_count(key) for key in segmentation)
    assert (found == 0) == (choice == 0)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_session_reports_what_was_chosen(tmp_path: Path, cache_bytes: int) -> None:
    network = always(small_network(), choice=1)
    session = InferenceSession(
        load_model(write_package(tmp_path / "bank", network, ARGUMENTS)), "cpu", cache_bytes=cache_bytes
    )
    session.set_image(Volume(np.zeros((6, 40, 40), np.int16), np.diag([2.0, 2.0, 3.0, 1.0])[[2, 1, 0, 3]]))
    for _ in range(2):
        decisions = session.predict().provenance["decisions"]
        assert decisions["choices"] == {"skip": 0.0, "small": 1.0, "large": 0.0}
        assert len(decisions["slice_choices"]) == session.patches_planned
        single = network.bank.flops[1] / 1e9
        assert decisions["mean_slice_gflops"] == pytest.approx(single, abs=1e-4)
        assert decisions["case_gflops"] == pytest.approx(single * session.patches_planned, rel=0.01)
