"""DoDNet: sizes, the split into features and head, the blocks under it; parity is in test_dodnet_parity."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.blocks import WeightStandardizedConv3d, standardize_weight
from PartialSegLib.networks.dynamic_head import apply_dynamic_head, num_head_parameters
from PartialSegLib.networks.group_norm import GroupNorm


def tiny(**arguments: object) -> DoDNet:
    torch.manual_seed(0)
    return DoDNet(
        **{"widths": (8, 8, 16, 16, 16), "groups": 4, "depths": (1, 1, 1, 1, 1), **arguments}
    ).eval()


def test_the_default_is_the_official_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DoDNet().parameters()) == 17_329_528


@pytest.mark.parametrize(("widths", "count"), [((8, 8, 8, 2), 162), ((8, 8, 2), 90), ((4, 4, 4, 4, 2), 70)])
def test_number_of_generated_parameters(widths: tuple[int, ...], count: int) -> None:
    assert num_head_parameters(widths) == count


@pytest.mark.parametrize(
    "arguments", [{}, {"num_tasks": 3, "num_structures": 1}, {"head_widths": (4, 4)}, {"in_channels": 4}]
)
def test_forward_is_the_head_of_the_features(arguments: dict[str, object]) -> None:
    network = tiny(**arguments)
    patch = torch.randn(2, network.stem.in_channels, 16, 32, 16)
    with torch.inference_mode():
        features = network.forward_features(patch)
        for task in range(network.num_tasks):
            logits = network.forward_head(features, task)
            assert torch.equal(logits, network(patch, task))
    assert logits.shape == (2, arguments.get("num_structures", 2), 16, 32, 16)


def test_each_sample_of_a_batch_gets_its_own_head() -> None:
    network = tiny()
    patch = torch.randn(3, 1, 16, 16, 16)
    with torch.inference_mode():
        together = network(patch, 1)
        alone = torch.cat([network(sample[None], 1) for sample in patch])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_dynamic_head_equals_grouped_convolutions() -> None:
    features, parameters = torch.randn(1, 8, 3, 4, 5), torch.randn(1, 162)
    weights = parameters[0, :144].split([64, 64, 16])
    biases = parameters[0, 144:].split([8, 8, 2])
    x = features
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = functional.conv3d(x if number == 0 else x.relu(), weight.view(-1, 8, 1, 1, 1), bias)
    assert torch.allclose(apply_dynamic_head(features, parameters, (8, 8, 8, 2)), x, atol=1e-4)


def test_folding_weights_does_not_change_the_network() -> None:
    network = tiny()
    patch = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        before = network(patch, 2)
        network.fold_weights()
        network.fold_weights()
        assert torch.equal(before, network(patch, 2))


def test_standardised_filters_have_mean_0_and_unbiased_variance_1() -> None:
    weight = standardize_weight(torch.randn(5, 3, 3, 3, 3) * 4 + 2).flatten(1)
    assert torch.allclose(weight.mean(1), torch.zeros(5), atol=1e-6)
    assert torch.allclose(weight.var(1), torch.ones(5), atol=1e-5)


def test_a_weight_standardised_convolution_ignores_scale_and_offset_of_its_filters() -> None:
    convolution = WeightStandardizedConv3d(2, 3)
    x = torch.randn(1, 2, 4, 4, 4)
    before = convolution(x)
    with torch.no_grad():
        convolution.weight.mul_(7).add_(1)
    assert torch.allclose(before, convolution(x), atol=1e-4)


def test_group_norm_of_a_channels_last_patch_is_exact_to_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 48, 96, 96).contiguous(memory_format=torch.channels_last_3d)
    norm = GroupNorm(8, 16).requires_grad_(False)
    with torch.inference_mode():
        found = norm(x)
        expected = torch.nn.GroupNorm(8, 16).double()(x.double())
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert (found - expected).abs().max() < 2e-6


@pytest.mark.parametrize("shape", [(2, 16, 4, 8, 8), (1, 8, 3, 5, 7)])
def test_group_norm_has_the_gradient_of_pytorch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    norm = GroupNorm(4, shape[1]).double()
    torch.nn.init.normal_(norm.weight)
    inputs, gradient = (x, norm.weight, norm.bias), torch.randn_like(x)
    mine = torch.autograd.grad(norm(x), inputs, gradient)
    theirs = torch.autograd.grad(functional.group_norm(x, 4, norm.weight, norm.bias), inputs, gradient)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)
