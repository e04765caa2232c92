"""Med-DANet's 2-D networks: sizes, cost, shapes; parity is in test_meddanet_parity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from PartialSegLib.networks.decision_network import DecisionNetwork, ShuffleUnit
from PartialSegLib.networks.flop_count import count_flops
from PartialSegLib.networks.layers.quantization import call_quantized, quantize_weight
from PartialSegLib.networks.meddanet_v2 import MedDANetV2
from PartialSegLib.networks.quantized_unet2d import mean_gradients
from PartialSegLib.networks.transbts2d import TransBTS2d
from PartialSegLib.networks.unet2d import UNet2d


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def small_v2() -> MedDANetV2:
    torch.manual_seed(0)
    return MedDANetV2(in_channels=1, num_classes=3, base_width=2).eval()


@pytest.mark.parametrize(("choices", "count"), [(5, 66_220), (3, 65_708), (2, 65_452)])
def test_the_decision_network_has_the_official_size(choices: int, count: int) -> None:
    assert parameters(DecisionNetwork(num_choices=choices)) == count


def test_version_2_has_the_official_size() -> None:
    network = MedDANetV2(in_channels=4)
    assert parameters(network) == 1_750_908
    assert parameters(network.unet) == 1_610_204


@pytest.mark.parametrize(("size", "flops"), [(240, 29_403_664), (128, 8_166_400)])
def test_the_decision_network_costs_what_the_official_one_does(size: int, flops: int) -> None:
    network = DecisionNetwork(input_size=size).eval()
    assert count_flops(network, torch.zeros(1, 4, size, size)) == flops


def test_the_u_net_of_version_2_costs_what_the_official_one_does() -> None:
    network = MedDANetV2(in_channels=4).eval()
    assert count_flops(network.unet.features, torch.zeros(1, 4, 128, 128)) == 1_883_505_728


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (UNet2d(base_width=12), 0.61),
        (UNet2d(base_width=16), 1.07),
        (TransBTS2d(num_layers=1), 2.36),
        (TransBTS2d(num_layers=4), 4.98),
    ],
    ids=["M1", "M2", "M3", "M4"],
)
def test_candidates_cost_about_what_the_paper_says(network: nn.Module, published: float) -> None:
    """Table 3, setting 1, per inference; the paper counts multiply-adds."""
    multiply_adds = count_flops(network.eval(), torch.zeros(1, 4, 128, 128)) / 2e9
    assert 0.93 * published < multiply_adds < published


@pytest.mark.parametrize("size", [64, 100, 128, 240])
def test_a_decision_reads_one_window_of_the_last_map(size: int) -> None:
    network = DecisionNetwork(in_channels=1, num_choices=3, input_size=size).eval()
    seen: list[torch.Tensor] = []
    network.average_pooling.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    with torch.inference_mode():
        logits = network(torch.randn(2, 1, size, size))
    window = seen[0][:, :, : size // 32, : size // 32].mean(dim=(2, 3))
    assert torch.allclose(logits, network.classifier(window), atol=1e-6)


def test_a_decision_network_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="less than 32"):
        DecisionNetwork(input_size=31)
    with pytest.raises(ValueError, match="for 64 x 64 pixels, not 64 x 96"):
        DecisionNetwork(in_channels=1, input_size=64)(torch.zeros(1, 1, 64, 96))


def test_even_channels_pass_a_shuffle_unit() -> None:
    x = torch.randn(2, 6, 4, 5)
    with torch.inference_mode():
        y = ShuffleUnit(6).eval()(x)
    assert y.shape == x.shape
    assert torch.equal(y[:, :3], x[:, ::2])


def test_the_decision_network_starts_as_the_official_one() -> None:
    torch.manual_seed(0)
    network = DecisionNetwork()
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert network.last[0].weight.std().item() == pytest.approx(1 / 96, rel=0.1)
    assert network.stem[1].bias.unique().tolist() == pytest.approx([1e-4])


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_kernels_are_rounded_to_steps_of_the_largest_weight(bits: int) -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    steps = quantize_weight(weight, bits) / weight.abs().max() * (2 ** (bits - 1) - 1)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max().item() == pytest.approx(2 ** (bits - 1) - 1, rel=1e-6)
    assert torch.equal(quantize_weight(torch.zeros(1, 1, 3, 3), bits), torch.zeros(1, 1, 3, 3))


def test_only_kernels_are_rounded() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    with torch.inference_mode():
        module[1].weight.copy_(torch.tensor([0.3, 0.7]))
        x = torch.randn(1, 1, 5, 5)
        rounded = call_quantized(module, x, 4)
        expected = module[1](nn.functional.conv2d(x, quantize_weight(module[0].weight, 4), module[0].bias))
        assert torch.equal(rounded, expected)
        assert not torch.allclose(rounded, module(x), atol=1e-3)


def test_mean_gradients_of_a_ramp() -> None:
    """Nothing at a replicated border but half of the step."""
    ramp = torch.arange(8.0).expand(6, 8)
    slices = torch.stack([ramp, torch.full((6, 8), 3.0)])[None]
    along_x, along_y, *flat = mean_gradients(slices).flatten().tolist()
    assert along_x == pytest.approx((6 * 1 + 2 * 0.5) / 8)
    assert (along_y, *flat) == (0, 0, 0)


def test_every_slice_of_version_2_has_its_own_bits_and_choice() -> None:
    network = small_v2()
    slices = torch.randn(6, 1, 128, 128) * torch.logspace(-2, 2, 6)[:, None, None, None]
    with torch.inference_mode():
        for selector in network.unet.selectors:
            selector.bias[0] += 0.3
        network.decision_network.classifier.weight *= 100
        together = network.segment_whole(slices)
        alone = [network.segment_whole(slices[i : i + 1]) for i in range(6)]
    assert len(together.bits.unique(dim=0)) > 1
    assert torch.equal(together.bits, torch.cat([result.bits for result in alone]))
    assert torch.allclose(
        together.logits, torch.cat([result.logits for result in alone]), rtol=1e-4, atol=1e-4
    )


def test_version_2_obeys_its_decision_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_v2()
    choices = torch.tensor([2, 0, 1, 2])
    monkeypatch.setattr(
        network.decision_network, "forward", lambda slices: nn.functional.one_hot(choices, 3).float()
    )
    slices = torch.randn(4, 1, 128, 128)
    with torch.inference_mode():
        result = network.segment(slices)
        whole, crop = network.segment_whole(slices), network.segment_crop(slices)
    assert torch.equal(result.choices, choices)
    assert not result.scores[1].any()
    assert result.gflops[1] == 0
    assert torch.allclose(result.scores[[0, 3]], whole.logits.softmax(1)[[0, 3]], atol=1e-5)
    assert torch.allclose(result.scores[2], crop.logits.softmax(1)[2], atol=1e-5)
    assert result.gflops[0] == whole.gflops[0] > result.gflops[2] == crop.gflops[2]


@pytest.mark.parametrize("architecture", [UNet2d, TransBTS2d])
def test_candidates_map_slices_to_logits(architecture: type[nn.Module]) -> None:
    arguments = {} if architecture is UNet2d else {"input_size": 32, "width": 16, "hidden_width": 24}
    network = architecture(in_channels=2, num_classes=3, base_width=4, **arguments)
    slices = torch.randn(2, 2, 32, 32)
    network(slices).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert network.eval()(slices).shape == (2, 3, 32, 32)


def test_a_u_net_takes_any_multiples_of_8() -> None:
    assert UNet2d(1, 2, base_width=2).eval()(torch.zeros(1, 1, 24, 40)).shape == (1, 2, 24, 40)


def test_transbts_refuses_sizes_it_has_no_positions_for() -> None:
    with pytest.raises(ValueError, match="input_size is 100, which is no multiple of 8"):
        TransBTS2d(input_size=100)
    with pytest.raises(ValueError, match="width is 20, which is no multiple of 8"):
        TransBTS2d(width=20)
    network = TransBTS2d(1, 2, 1, 32, base_width=2, width=8, hidden_width=8)
    with pytest.raises(ValueError, match="for 32 x 32 pixels, not 32 x 40"):
        network(torch.zeros(1, 1, 32, 40))


def test_the_positions_matter_to_transbts() -> None:
    torch.manual_seed(0)
    network = TransBTS2d(1, 2, 1, 32, base_width=2, width=8, hidden_width=8).eval()
    slices = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        before = network(slices)
        network.position_encoding.normal_()
        assert not torch.equal(network(slices), before)
