"""Ensembles: the mean of the logits of several networks, as one network of one package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bright_model import bright_model
from torch import Tensor

from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.errors import InputError
from PartialSegLib.importers.dodnet import MOTS_TASKS
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing
from PartialSegLib.model import Model, build_network, load_model, save_model
from PartialSegLib.networks import NETWORKS, Ensemble, PartialLabelNetwork
from PartialSegLib.networks.ensemble import MemberFeatures
from PartialSegLib.patches.feature_cache import all_finite, feature_tensors, map_tensors
from PartialSegLib.session import InferenceSession
from PartialSegLib.training.transfer import transfer_weights
from PartialSegLib.volume import Volume

DOD_NET: dict[str, Any] = {"num_tasks": 3, "widths": [8, 8, 16], "depths": [1, 1, 1], "groups": 4}
SMALL: dict[str, dict[str, Any]] = {
    "DoDNet": DOD_NET,
    "MultiHeadNetwork": DOD_NET,
    "UNet": {
        "task_channels": [2, 1, 3],
        "widths": [4, 6, 8],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "depths": [1, 1, 1],
        "decoder_depths": [1, 1],
        "head_bias": True,
    },
    "MedDANet": {
        "input_size": 32,
        "task_channels": [3],
        "candidates": [
            {"name": "M1", "architecture": "UNet2d", "base_width": 2},
            {"name": "M2", "architecture": "UNet2d", "base_width": 4},
        ],
        "decision_arguments": {"stem_width": 4, "stage_widths": [8, 16, 24], "depths": [1, 1, 1]},
    },
}
PATCH = (1, 1, 8, 32, 32)


def ensemble(architecture: str, members: int = 3) -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(architecture, members, **SMALL[architecture]).eval().requires_grad_(False)


def mean(logits: list[Tensor]) -> Tensor:
    return torch.stack(logits).mean(0)


@pytest.mark.parametrize("architecture", SMALL)
@torch.inference_mode()
def test_logits_are_the_mean_of_the_members(architecture: str) -> None:
    network, patch = ensemble(architecture, 2 if architecture == "MedDANet" else 3), torch.randn(*PATCH)
    features = network.forward_features(patch)
    together = list(network.forward_heads(features, range(network.num_tasks)))
    for task in range(network.num_tasks):
        logits = network(patch, task)
        assert torch.equal(logits, network.forward_head(features, task))
        single = [member(patch, task) for member in network.networks]
        assert not torch.equal(single[0], single[1])
        assert torch.allclose(logits, mean(single), atol=1e-5)
        assert torch.allclose(together[task], logits, atol=1e-5)


def test_it_is_as_large_and_costs_as_much_as_all_members() -> None:
    single, three = NETWORKS["UNet"](**SMALL["UNet"]), ensemble("UNet")
    assert (three.num_tasks, three.num_structures) == (single.num_tasks, single.num_structures) == (3, 3)
    assert three.patch_multiple == single.patch_multiple == (2, 4, 4)
    assert three.feature_channels == 3 * single.feature_channels
    flops = [count_patch_flops(network, PATCH[2:], 3) for network in (single, three)]
    assert flops[1].features == 3 * flops[0].features
    assert flops[1].heads == tuple(3 * head for head in flops[0].heads)
    assert ensemble("MultiHeadNetwork").convolves_in_head
    assert not three.convolves_in_head


@torch.inference_mode()
def test_features_are_nested_and_may_be_stored_in_half_precision() -> None:
    network, patch = ensemble("DoDNet"), torch.randn(*PATCH)
    features = network.forward_features(patch)
    stored = map_tensors(Tensor.half, features)
    assert isinstance(stored, MemberFeatures)
    assert [type(member) for member in stored] == [type(member) for member in features]
    assert {tensor.dtype for tensor in feature_tensors(stored)} == {torch.float16}
    assert len(feature_tensors(stored)) == 3 * len(feature_tensors(features[0]))
    assert all_finite(stored)
    assert not all_finite(map_tensors(lambda tensor: tensor / 0, features))
    assert torch.allclose(network.forward_head(stored, 1), network(patch, 1), atol=2e-2)


@torch.inference_mode()
def test_weights_folded_for_inference_compute_the_same() -> None:
    for architecture in ("DoDNet", "UNet"):
        network, patch = ensemble(architecture), torch.randn(*PATCH)
        before = network(patch, 1)
        network.fold_weights()
        assert torch.allclose(network(patch, 1), before, atol=1e-4)


def test_deep_supervision_sees_the_mean_at_each_level() -> None:
    network, patch = ensemble("UNet"), torch.randn(*PATCH)
    of_members = [member.forward_levels(patch) for member in network.networks]
    levels = network.forward_levels(patch)
    assert len(levels) == 2
    for level, features in enumerate(levels):
        logits = network.forward_level_head(features, 2, level)
        single = [
            member.forward_level_head(own[level], 2, level)
            for member, own in zip(network.networks, of_members, strict=True)
        ]
        assert torch.allclose(logits, mean(single), atol=1e-5)


def test_heads_start_from_a_logit() -> None:
    network = ensemble("UNet")
    network.initialize_head(-3.0)
    assert abs(network(torch.randn(*PATCH), 0).mean() + 3) < 0.5


@torch.inference_mode()
def test_every_member_reports_its_decisions() -> None:
    network = ensemble("MedDANet", 2)
    patches = [network.decisions(network.forward_features(torch.randn(*PATCH))) for _ in range(2)]
    chosen = [patch for patch in patches if patch is not None]
    assert [tuple(choices.shape) for choices in chosen] == [(2, 1, 8)] * 2
    described = network.describe_decisions(chosen)["members"]
    single = network.networks[1].describe_decisions([choices[1] for choices in chosen])
    assert len(described) == 2
    assert described[1] == single
    assert ensemble("UNet").decisions(ensemble("UNet").forward_features(torch.randn(*PATCH))) is None


def saved_model(folder: Path, network: PartialLabelNetwork, spec: NetworkSpec) -> Model:
    manifest = Manifest(
        name="small",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=spec,
        preprocessing=Preprocessing("SPL", (3.0, 2.0, 2.0), (-200, 300), divide=100.0),
        inference=Inference((16, 32, 32), blend="logits"),
        tasks=MOTS_TASKS[:3],
    )
    save_model(folder, manifest, network.state_dict(), "Public domain")
    return load_model(folder)


def test_a_package_holds_it_and_a_session_runs_it(tmp_path: Path) -> None:
    network = ensemble("DoDNet", 2)
    network.initialize_head(0.0)
    spec = NetworkSpec("Ensemble", {"architecture": "DoDNet", "members": 2, **DOD_NET})
    model = saved_model(tmp_path / "package", network, spec)
    assert model.manifest.network.members == 2
    assert all(
        torch.equal(value, network.state_dict()[name]) for name, value in model.network.state_dict().items()
    )

    session = InferenceSession(model, "cpu", precision="float32")
    array = np.random.default_rng(0).integers(-200, 300, (20, 40, 40)).astype(np.int16)
    session.set_image(Volume(array, np.diag([2.0, 2.0, 3.0, 1.0])[:, [2, 1, 0, 3]]))
    first = session.predict("liver")
    encoded = session.patches_encoded
    found = session.predict()
    assert session.patches_encoded == encoded == session.patches_planned > 1
    assert any(found[key].any() for key in found)
    for key in first:
        np.testing.assert_array_equal(first[key], found[key])


def test_a_session_runs_slice_networks_and_tells_of_the_patches_it_visited() -> None:
    manifest = bright_model().manifest
    manifest = replace(manifest, inference=replace(manifest.inference, patch_size=(1, 32, 32)))
    session = InferenceSession(
        Model(manifest, ensemble("MedDANet", 2), Path("slices")), "cpu", precision="float32"
    )
    session.set_image(Volume(np.zeros((4, 32, 32), np.int16), np.diag([8.0, 8, 8, 1])[:, [2, 1, 0, 3]]))

    def windows(**options: Any) -> int:
        provenance = session.predict("liver", **options).provenance
        first, second = provenance["decisions"]["members"]
        assert len(first["slice_choices"]) == len(second["slice_choices"])
        return len(first["slice_choices"])

    assert windows() == 4
    assert windows(roi=(0, 20, 0, 20, 5, 17)) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"architecture": "Unet", "members": 2}, "architecture is 'Unet', not one of .*'UNet'"),
        ({"architecture": "Ensemble", "members": 2}, "architecture is 'Ensemble', not one of"),
        ({"architecture": "UNet", "members": 0}, "members is 0, not 1 or more"),
        ({"architecture": "UNet", "members": "2"}, "Ensemble cannot be built with them"),
        ({"architecture": "UNet"}, "missing 1 required positional argument: 'members'"),
        ({"architecture": "UNet", "members": 2, "depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^network.arguments: [^\n]*{sentence}[^\n]*$"):
        build_network(NetworkSpec("Ensemble", arguments))


def test_weights_are_transferred_to_all_members(tmp_path: Path) -> None:
    spec = NetworkSpec("Ensemble", {"architecture": "DoDNet", "members": 2, **DOD_NET})
    source = saved_model(tmp_path / "package", ensemble("DoDNet", 2), spec)
    torch.manual_seed(1)
    network = Ensemble("DoDNet", 2, **{**DOD_NET, "num_tasks": 5})
    report = transfer_weights(network, source)
    assert {name.split(".")[2] for name in report.fresh} == {"controller"}
    given, own = source.network.state_dict(), network.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in report.taken)
    assert {name.split(".")[1] for name in report.taken} == {"0", "1"}
