"""U-Nets with one head for all classes: sizes, heads, shapes; parity is in test_nnunet_parity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network
from PartialSegLib.networks import ResidualEncoderUNet, UNet
from PartialSegLib.networks.encoder_decoder import DecoderFeatures, EncoderDecoder
from PartialSegLib.networks.layers.instance_norm_blocks import ResidualBlock

SMALL: dict[str, Any] = {
    "task_channels": (2, 1, 3),
    "widths": (4, 6, 8),
    "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "depths": (1, 2, 2),
    "decoder_depths": (1, 2),
}
NETWORKS = (UNet, ResidualEncoderUNet)


def small(architecture: type[EncoderDecoder], **arguments: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    return architecture(**{**SMALL, **arguments}).eval()


@pytest.mark.parametrize(("architecture", "count"), [(UNet, 29_319_560), (ResidualEncoderUNet, 69_335_475)])
def test_the_defaults_are_the_official_sizes(architecture: type[EncoderDecoder], count: int) -> None:
    with torch.device("meta"):
        network = architecture()
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert (network.num_tasks, network.num_structures, network.feature_channels) == (13, 13, 30)
    assert network.patch_multiple == (16, 32, 32)


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("in_channels", [1, 2])
def test_forward_is_the_head_of_the_features(architecture: type[EncoderDecoder], in_channels: int) -> None:
    network = small(architecture, in_channels=in_channels)
    patch = torch.randn(2, in_channels, 4, 12, 16)
    with torch.inference_mode():
        features = network.forward_features(patch)
        assert features.decoder.shape == (2, 4, 4, 12, 16)
        for task, channels in enumerate((2, 1, 3)):
            logits = network.forward_head(features, task)
            assert torch.equal(logits, network(patch, task))
            assert logits.shape == (2, channels, 4, 12, 16)


@pytest.mark.parametrize("head_bias", [True, False])
def test_the_tasks_are_consecutive_rows_of_one_head(head_bias: bool) -> None:
    network = small(UNet, head_bias=head_bias)
    features = DecoderFeatures(torch.randn(2, 4, 3, 5, 7))
    together = torch.cat([network.forward_head(features, task) for task in range(3)], dim=1)
    assert torch.allclose(together, network.heads[-1](features.decoder), atol=1e-6)


def test_features_kept_in_half_precision_give_single_precision_logits() -> None:
    network = small(UNet)
    features = DecoderFeatures(torch.randn(1, 4, 3, 5, 7).half())
    with torch.inference_mode():
        logits = network.forward_head(features, 2)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, network.heads[-1](features.decoder.float())[:, 3:], atol=1e-6)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_decoder_maps_go_from_coarse_to_fine(architecture: type[EncoderDecoder]) -> None:
    network = small(architecture)
    with torch.inference_mode():
        maps = list(network.decoder_maps(torch.randn(1, 1, 4, 12, 16)))
    assert [tuple(x.shape[1:]) for x in maps] == [(6, 4, 6, 8), (4, 4, 12, 16)]
    assert [head.in_channels for head in network.heads] == [6, 4]


@pytest.mark.parametrize("architecture", NETWORKS)
def test_gradients_reach_every_weight_but_coarse_heads(architecture: type[EncoderDecoder]) -> None:
    network = small(architecture).train()
    sum(network(torch.randn(1, 1, 4, 12, 16), task).square().mean() for task in range(3)).backward()
    unused = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert all(name.startswith("heads.0.") for name in unused)


def test_shortcuts_pool_or_stride() -> None:
    strided, pooled = (
        small(ResidualEncoderUNet, pooled_shortcuts=pooled, widths=(4, 8, 8)) for pooled in (False, True)
    )
    for network, convolutions in ((strided, [0, 1, 1]), (pooled, [0, 1, 0])):
        shortcuts = [stage[0].shortcut for stage in network.encoder]
        counts = [sum(isinstance(m, nn.Conv3d) for m in shortcut.modules()) for shortcut in shortcuts]
        assert counts == convolutions


def test_a_residual_block_without_convolutions_is_its_shortcut() -> None:
    block = ResidualBlock(3, 3)
    nn.init.zeros_(block.unit2[1].weight)
    x = torch.rand(1, 3, 4, 4, 4)
    assert torch.equal(block(x), x)


def test_heads_start_from_a_logit() -> None:
    network = small(UNet, head_bias=True)
    network.initialize_head(-3.0)
    with torch.inference_mode():
        logits = network(torch.randn(1, 1, 4, 12, 16), 0)
    assert torch.allclose(logits, torch.tensor(-3.0), atol=0.5)
    with pytest.raises(ValueError, match="without bias"):
        small(UNet, head_bias=False).initialize_head(-3.0)


@pytest.mark.parametrize("name", ["UNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("fault", [{"depths": [1, 2]}, {"strides": [[1, 1], [2, 2], [2, 2]]}])
def test_arguments_that_do_not_fit_each_other_are_refused(name: str, fault: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"network\.arguments"):
        build_network(NetworkSpec(name, {**SMALL, **fault}))
