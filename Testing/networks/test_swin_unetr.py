"""SwinUNETR: MONAI's network with one head for each task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network
from PartialSegLib.networks import SwinUNETR

SMALL = {"task_channels": (2, 1, 3), "feature_size": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
PATCH = (32, 32, 64)


def small(**arguments: Any) -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(**{**SMALL, **arguments}).eval()


def monais_own(network: SwinUNETR) -> torch.nn.Module:
    """MONAI's class with the same weights, whose names only lose a prefix."""
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    channels = network.network.encoder1.layer.conv1.conv.in_channels
    theirs = MonaiSwinUNETR(channels, 6, feature_size=12, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 4))
    theirs.load_state_dict({k.removeprefix("network."): v for k, v in network.state_dict().items()})
    return theirs.eval()


def test_the_default_is_multitalents_network() -> None:
    """62.19 million parameters and 1.29e12 multiply-adds in Table 4, which also counts what is no product."""
    network = build_network(NetworkSpec("SwinUNETR"))
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert sum(parameter.numel() for parameter in network.parameters()) == 62_188_913
    assert (network.num_tasks, network.num_structures, network.feature_channels) == (13, 13, 48)
    assert network.patch_multiple == (32, 32, 32)
    flops = count_patch_flops(network, (96, 192, 192), 13)
    assert flops.total / 2 == pytest.approx(1.29e12, rel=0.015)


@pytest.mark.parametrize("in_channels", [1, 2])
def test_forward_is_the_head_of_the_features(in_channels: int) -> None:
    network = small(in_channels=in_channels)
    patch = torch.randn(2, in_channels, *PATCH)
    with torch.inference_mode():
        features = network.forward_features(patch)
        assert features.decoder.shape == (2, 12, *PATCH)
        for task, channels in enumerate((2, 1, 3)):
            logits = network.forward_head(features, task)
            assert torch.equal(logits, network(patch, task))
            assert logits.shape == (2, channels, *PATCH)


def test_it_is_monais_own_network() -> None:
    """Features to the last bit; the head's products are added up in another order."""
    network, patch, seen = small(), torch.randn(1, 1, *PATCH), []
    theirs = monais_own(network)
    theirs.out.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        expected = theirs(patch)
        features = network.forward_features(patch)
        logits = torch.cat([network.forward_head(features, task) for task in range(3)], dim=1)
    assert torch.equal(features.decoder, seen[0])
    assert torch.allclose(logits, expected, rtol=0, atol=2e-6)


def test_weights_fit_a_network_without_storage() -> None:
    network = build_network(NetworkSpec("SwinUNETR", SMALL))
    stored = small()
    network.load_state_dict(stored.state_dict(), assign=True)
    patch = torch.randn(1, 1, *PATCH)
    with torch.inference_mode():
        assert torch.equal(network.eval()(patch, 2), stored(patch, 2))


def test_it_runs_channels_last_and_in_bfloat16() -> None:
    network, patch = small(), torch.randn(1, 1, *PATCH)
    with torch.inference_mode():
        exact = network(patch, 2)
        network.to(memory_format=torch.channels_last_3d)
        patch = patch.contiguous(memory_format=torch.channels_last_3d)
        assert torch.allclose(network(patch, 2), exact, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            features = network.forward_features(patch)
        rough = network.forward_head(features, 2)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough.flatten(), exact.flatten(), dim=0) > 0.99


def test_every_weight_gets_a_gradient() -> None:
    network = small().train()
    network.initialize_head(-3.0)
    logits = torch.cat([network(torch.randn(1, 1, *PATCH), task) for task in range(3)], dim=1)
    assert abs(logits.mean() + 3) < 0.5
    logits.square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("package", ["monai.networks.nets.swin_unetr", "einops"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = r"^network\.architecture: SwinUNETR needs MONAI and einops .* by pip install monai einops, in"
    with pytest.raises(InputError, match=message):
        build_network(NetworkSpec("SwinUNETR"))


def test_a_wrong_feature_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"network\.arguments: SwinUNETR .*divisible by 12"):
        build_network(NetworkSpec("SwinUNETR", {"feature_size": 20}))


def test_the_other_networks_do_without_monai() -> None:
    code = "import PartialSegLib.networks, sys; sys.exit(any(m in sys.modules for m in ('monai', 'einops')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
