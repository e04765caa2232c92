"""The networks that DoDNet's paper compares it with (section 4.3, Table 6, Figure 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PartialSegLib.engines.flops import PatchFlops, count_patch_flops
from PartialSegLib.importers.dodnet import MOTS_TASKS
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import build_network, load_model, save_model
from PartialSegLib.networks import NETWORKS, PartialLabelNetwork
from PartialSegLib.patches.feature_cache import map_tensors
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

TINY: dict[str, Any] = {"widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "groups": 4}
BASELINES = ("MultiHeadNetwork", "CondInputNetwork", "CondDecNetwork", "CondNONetwork")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BASELINES),
    ("MultiHeadNetwork", {"decoder_divisor": 1}),
    ("CondDecNetwork", {"encoding": "one-hot"}),
]


def tiny(name: str, **arguments: Any) -> PartialLabelNetwork:
    torch.manual_seed(0)
    return NETWORKS[name](**TINY, **arguments).eval()


def parameters(name: str, **arguments: Any) -> int:
    return sum(p.numel() for p in build_network(NetworkSpec(name, arguments)).parameters())


def flops(name: str) -> PatchFlops:
    """Of the official patch, for two tasks."""
    return count_patch_flops(build_network(NetworkSpec(name)), (64, 192, 192), 2)


def of_seven_tasks(flops: PatchFlops) -> int:
    return flops.features + 7 * flops.heads[0]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@pytest.mark.parametrize("sizes", [{}, {"num_tasks": 3, "num_structures": 5, "in_channels": 2}])
@torch.inference_mode()
def test_forward_is_the_head_of_the_features(
    name: str, arguments: dict[str, Any], sizes: dict[str, int]
) -> None:
    network = tiny(name, **arguments, **sizes)
    patch = torch.randn(2, sizes.get("in_channels", 1), 16, 8, 24)
    features = network.forward_features(patch)
    assert network.num_tasks == sizes.get("num_tasks", 7)
    assert network.num_structures == sizes.get("num_structures", 2)
    assert network.patch_multiple == (8, 8, 8)
    assert features[0].shape == (2, network.feature_channels, 16, 8, 24)
    for task in range(network.num_tasks):
        logits = network.forward_head(features, task)
        assert torch.equal(logits, network(patch, task))
        assert logits.shape == (2, network.num_structures, 16, 8, 24)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@torch.inference_mode()
def test_features_can_be_kept_in_float16(name: str, arguments: dict[str, Any]) -> None:
    network = tiny(name, **arguments)
    features = network.forward_features(torch.randn(1, 1, 16, 16, 16))
    stored = map_tensors(torch.Tensor.half, features)
    assert type(stored) is type(features)
    assert {tensor.dtype for tensor in stored} == {torch.float16}
    exact, rounded = (network.forward_head(kept, 2) for kept in (features, stored))
    assert rounded.dtype == torch.float32
    assert torch.allclose(exact, rounded, atol=0.02)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@torch.inference_mode()
def test_only_cond_no_gives_all_tasks_the_same(name: str, arguments: dict[str, Any]) -> None:
    network = tiny(name, **arguments)
    patch = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(network(patch, 1), network(patch, 4)) is (name == "CondNONetwork")


@pytest.mark.parametrize("name", BASELINES[:-1])
def test_a_task_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(IndexError):
        tiny(name, num_tasks=2)(torch.randn(1, 1, 8, 8, 8), 2)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="encoding is 'hash', not one of 'value', 'one-hot'"):
        tiny("CondDecNetwork", encoding="hash")


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@torch.inference_mode()
def test_heads_can_start_at_a_logit(name: str, arguments: dict[str, Any]) -> None:
    network = tiny(name, **arguments)
    network.initialize_head(-3.0)
    for task in (0, 6):
        assert (network(torch.randn(1, 1, 8, 8, 8), task) + 3).abs().max() < 0.5


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_a_task_trains_what_it_uses(name: str, arguments: dict[str, Any]) -> None:
    network = tiny(name, **arguments).train()
    network(torch.randn(1, 1, 16, 16, 16), 1).square().mean().backward()
    untouched = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    others = {name for name, _ in network.named_parameters() if name.startswith("decoders.")}
    assert untouched == {name for name in others if not name.startswith("decoders.1.")}


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@torch.inference_mode()
def test_folding_weights_does_not_change_the_network(name: str, arguments: dict[str, Any]) -> None:
    network: Any = tiny(name, **arguments)
    patch = torch.randn(1, 1, 8, 8, 8)
    before = network(patch, 2)
    network.fold_weights()
    assert torch.equal(before, network(patch, 2))


@pytest.mark.parametrize("name", ["CondInputNetwork", "CondNONetwork"])
def test_encoder_and_decoder_are_those_of_dodnet(name: str) -> None:
    own, dodnet = (
        {
            key: value.shape
            for key, value in network.state_dict().items()
            if key.startswith(("encoder.", "decoder."))
        }
        for network in (tiny(name), tiny("DoDNet"))
    )
    assert own == dodnet


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("MultiHeadNetwork", {}, 18_950_990),
        ("CondInputNetwork", {}, 17_292_098),
        ("CondDecNetwork", {}, 17_299_874),
        ("CondNONetwork", {}, 17_286_050),
        (
            "CondNONetwork",
            {"num_tasks": 1, "num_structures": 12},
            17_286_380,
        ),  # TAL: background, 11 structures
    ],
)
def test_sizes_are_those_of_figure_4(name: str, arguments: dict[str, Any], count: int) -> None:
    """18.9 million for Multi-Head; for the others, as for DoDNet, 17.3 million."""
    assert parameters(name, **arguments) == count
    assert count == pytest.approx(18.9e6 if name == "MultiHeadNetwork" else 17.3e6, rel=0.003)


def test_multi_head_is_larger_by_its_decoders() -> None:
    one, two, seven = (
        parameters("MultiHeadNetwork", num_tasks=number, decoder_divisor=1) for number in (1, 2, 7)
    )
    assert one == parameters("CondNONetwork")
    assert seven - one == 6 * (two - one)
    halved = [parameters("MultiHeadNetwork", num_tasks=number) for number in (1, 2)]
    assert halved[1] - halved[0] < 0.3 * (two - one)


def test_tasks_cost_what_the_paper_says() -> None:
    """Section 4.3: repeated inference for Multi-Head, Cond-Input and Cond-Dec; not for DoDNet and TAL."""
    dodnet, multi_head, cond_input, cond_dec, cond_no = (flops(name) for name in ("DoDNet", *BASELINES))
    assert cond_input.features == 0
    assert cond_input.heads[0] > cond_no.features + cond_no.heads[0]  # further input channels
    assert cond_dec.features == pytest.approx(multi_head.features, rel=0.01)  # the encoder
    assert cond_dec.heads[0] > 0.3 * dodnet.features > 3 * multi_head.heads[0]
    totals = [of_seven_tasks(counted) for counted in (cond_no, dodnet, multi_head, cond_dec, cond_input)]
    assert totals == sorted(totals)
    assert totals[0] == pytest.approx(totals[1], rel=0.01)
    assert all(len(set(counted.heads)) == 1 for counted in (multi_head, cond_input, cond_dec, cond_no))


ABDOMEN = (Task("abdomen", {"liver": 1, "spleen": 2, "pancreas": 3}),)
SESSIONS: dict[str, tuple[str, dict[str, Any], tuple[Task, ...], dict[str, Any]]] = {
    "Multi-Head": ("MultiHeadNetwork", {"num_tasks": 3}, MOTS_TASKS[:3], {}),
    "Cond-Input": ("CondInputNetwork", {"num_tasks": 3}, MOTS_TASKS[:3], {}),
    "Cond-Dec": ("CondDecNetwork", {"num_tasks": 3}, MOTS_TASKS[:3], {}),
    "Cond-NO": ("CondNONetwork", {"num_tasks": 3}, MOTS_TASKS[:3], {}),
    "TAL": ("CondNONetwork", {"num_tasks": 1, "num_structures": 4}, ABDOMEN, {"activation": "softmax"}),
}


@pytest.mark.parametrize("method", SESSIONS)
def test_a_session_encodes_once_and_does_not_depend_on_its_memory(method: str, tmp_path: Path) -> None:
    architecture, arguments, tasks, inference = SESSIONS[method]
    network = tiny(architecture, **arguments)
    manifest = Manifest(
        name="small",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=NetworkSpec(architecture, {**TINY, **arguments}),
        preprocessing=Preprocessing("SPL", (3.0, 2.0, 2.0), (-200, 300), 0.0, 100.0),
        inference=Inference((16, 24, 24), **inference),
        tasks=tasks,
    )
    save_model(tmp_path / "package", manifest, network.state_dict(), "Public domain")
    model = load_model(tmp_path / "package")
    array = np.random.default_rng(0).integers(-200, 300, (20, 30, 24)).astype(np.int16)
    volume = Volume(array, np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]]))
    found = []
    for cache_bytes in (2 << 30, 0):
        session = InferenceSession(model, "cpu", cache_bytes, precision="float32")
        session.set_image(volume)
        session.predict(tasks[0].name)
        found.append(session.predict())
        encoded = session.patches_planned * (1 if cache_bytes else 2)
        assert session.patches_encoded == encoded > 1
    assert len(found[0]) == sum(len(task.structures) for task in tasks)
    for key in found[0]:
        np.testing.assert_array_equal(found[0][key], found[1][key])
