"""STU-Net: sizes and shapes; parity is in test_nnunet_parity."""

from __future__ import annotations

import pytest
import torch

from PartialSegLib.networks import STUNet
from PartialSegLib.networks.stunet import STUNET_SIZES

COUNTS = {"small": 14_551_851, "base": 58_172_939, "large": 440_123_595, "huge": 1_457_057_931}


@pytest.mark.parametrize("size", COUNTS)
def test_all_sizes_are_the_official_ones(size: str) -> None:
    with torch.device("meta"):
        network = STUNet(**STUNET_SIZES[size])
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[size]
    assert network.patch_multiple == (8, 32, 32)


def test_the_pre_trained_network_has_105_classes_and_halves_every_axis() -> None:
    with torch.device("meta"):
        network = STUNet(task_channels=[105], strides=[[1, 1, 1], *[[2, 2, 2]] * 5])
    assert sum(parameter.numel() for parameter in network.parameters()) == 58_262_669
    assert network.patch_multiple == (32, 32, 32)


@pytest.mark.parametrize("depth", [1, 2])
def test_forward_is_the_head_of_the_features(depth: int) -> None:
    torch.manual_seed(0)
    network = STUNet(task_channels=(3,), base_width=2, depth=depth).eval()
    patch = torch.randn(2, 1, 16, 32, 64)
    with torch.inference_mode():
        features = network.forward_features(patch)
        logits = network.forward_head(features, 0)
        assert features.decoder.shape == (2, 2, 16, 32, 64)
        assert logits.shape == (2, 3, 16, 32, 64)
        assert torch.equal(logits, network(patch, 0))


def test_up_sampling_repeats_voxels() -> None:
    network = STUNet(base_width=2)
    x = torch.randn(1, 4, 2, 3, 4)
    finest = network.upsampling[-1]
    expected = finest[0](x.repeat_interleave(2, 3).repeat_interleave(2, 4))
    assert torch.allclose(finest(x), expected, atol=1e-6)
