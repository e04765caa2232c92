"""FLOPs of one patch against those of the official code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from PartialSegLib.engines.flops import PatchFlops, count_patch_flops
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network
from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.encoder_decoder import EncoderDecoder
from PartialSegLib.networks.flop_count import count_flops
from PartialSegLib.networks.stunet import STUNET_SIZES

MOTS_PATCH = (64, 192, 192)
MULTITALENT_PATCH = (96, 192, 192)
FLARE23_PATCH = (48, 128, 160)

DODNET, TRANSDODNET = 1_025_482_247_388, 351_724_551_552
MULTITALENT = {"UNet": 1_432_821_657_600, "ResidualEncoderUNet": 2_393_981_706_240}
STUNET = {
    "small": 177_748_131_840,
    "base": 707_660_513_280,
    "large": 5_338_043_842_560,
    "huge": 17_662_248_714_240,
}
STUNET_105_CLASSES = 1_012_486_635_520


def count(architecture: str, patch: tuple[int, ...], tasks: int, **arguments: Any) -> PatchFlops:
    return count_patch_flops(build_network(NetworkSpec(architecture, arguments)), patch, tasks)


def count_with_all_heads(network: EncoderDecoder, patch: tuple[int, ...]) -> int:
    """As the official code: the coarse heads of deep supervision are computed, and all classes."""

    def logits(image: Tensor) -> list[Tensor]:
        maps = network.decoder_maps(image)
        return [head(x) for head, x in zip(network.head_convolutions(), maps, strict=True)]

    network.requires_grad_(False).eval()
    return count_flops(logits, torch.empty(1, 1, *patch, device="meta"))


def test_dodnet_takes_what_the_official_code_takes_for_one_task() -> None:
    flops = count("DoDNet", MOTS_PATCH, 7)
    assert flops.features + flops.heads[0] == DODNET
    assert len(set(flops.heads)) == 1
    assert flops.heads[0] < 0.001 * flops.features  # a further task
    assert flops.total == flops.features + 7 * flops.heads[0]


def test_transdodnet_takes_what_the_official_code_takes_for_all_tasks() -> None:
    assert count("TransDoDNet", MOTS_PATCH, 7).total == TRANSDODNET


@pytest.mark.parametrize("architecture", MULTITALENT)
def test_multitalent_lacks_only_coarse_heads(architecture: str) -> None:
    """Those of deep supervision: 0.2 % of the U-Net, 0.3 % of the residual encoder."""
    official = MULTITALENT[architecture]
    assert count(architecture, MULTITALENT_PATCH, 13).total == pytest.approx(official, rel=0.003)
    assert count_with_all_heads(build_network(NetworkSpec(architecture)), MULTITALENT_PATCH) == official


@pytest.mark.parametrize(
    ("size", "saved"), [("small", 0.0149), ("base", 0.0141), ("large", 0.0073), ("huge", 0.0049)]
)
def test_stunet_saves_coarse_heads_and_convolutions_of_repeated_voxels(size: str, saved: float) -> None:
    """Official: nearest neighbours, then a 1x1x1 convolution. They commute, and ours convolves first."""
    network = build_network(NetworkSpec("STUNet", STUNET_SIZES[size]))
    flops = count_patch_flops(network, FLARE23_PATCH, 1)
    assert 1 - flops.total / STUNET[size] == pytest.approx(saved, abs=0.0001)
    assert count_with_all_heads(upsampling_first(network), FLARE23_PATCH) == STUNET[size]


def test_stunet_with_105_classes() -> None:
    strides = [[1, 1, 1], *[[2, 2, 2]] * 5]
    network = build_network(NetworkSpec("STUNet", {"task_channels": [105], "strides": strides}))
    assert count_with_all_heads(upsampling_first(network), (128, 128, 128)) == STUNET_105_CLASSES


def upsampling_first(network: Any) -> EncoderDecoder:
    """The same function in the official order."""
    for step, (convolution, repetition) in enumerate(network.upsampling):
        network.upsampling[step] = nn.Sequential(repetition, convolution)
    return network


def test_a_head_costs_by_its_channels() -> None:
    heads = count("UNet", (16, 32, 64), 3, task_channels=(2, 1, 3)).heads
    voxels, width = 16 * 32 * 64, 30
    assert heads == tuple(2 * width * channels * voxels for channels in (2, 1, 3))


def test_the_network_stays_as_it_is() -> None:
    network = DoDNet(widths=(8, 8), depths=(1, 1), groups=4, in_channels=2).train()
    flops = count_patch_flops(network, (4, 6, 8), 1, in_channels=2)
    assert network.training
    assert {(p.device.type, p.requires_grad) for p in network.parameters()} == {("cpu", True)}
    network.requires_grad_(False).eval()
    assert flops.total == count_flops(network, torch.randn(1, 2, 4, 6, 8), 0)
