"""DoDNet: sizes, the split into features and head, the blocks under it; parity is in test_dodnet_parity."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.layers import dynamic_head
from PartialSegLib.networks.layers.blocks import WeightStandardizedConv3d, standardize_weight
from PartialSegLib.networks.layers.dynamic_head import apply_dynamic_head, num_head_parameters
from PartialSegLib.networks.layers.group_norm import GroupNorm


def tiny(**arguments: object) -> DoDNet:
    torch.manual_seed(0)
    return DoDNet(
        **{"widths": (8, 8, 16, 16, 16), "groups": 4, "depths": (1, 1, 1, 1, 1), **arguments}
    ).eval()


def test_the_default_is_the_official_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DoDNet().parameters()) == 17_329_528


HEADS = {  # (layers, channels): generated parameters; those of TransDoDNet's Tables 2 and 3, and the others
    (2, 8): 90,
    (3, 8): 162,
    (4, 8): 234,
    (3, 4): 50,
    (3, 16): 578,
    (2, 4): 30,
    (4, 4): 70,
    (2, 16): 306,
    (4, 16): 850,
}


@pytest.mark.parametrize(("layers", "channels"), HEADS)
def test_heads_of_all_depths_and_widths_of_the_paper(layers: int, channels: int) -> None:
    """DoDNet's Tables 3 and 4."""
    network = tiny(head_widths=(channels,) * layers)
    count = HEADS[layers, channels]
    assert num_head_parameters(network.head_widths) == network.controller.out_channels == count
    with torch.inference_mode():
        features = network.forward_features(torch.randn(2, 1, 16, 16, 32))
        assert features.decoder.shape == (2, channels, 16, 16, 32)
        assert network.head_parameters(features, 3).shape == (2, count)
        assert network.forward_head(features, 3).shape == (2, 2, 16, 16, 32)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_generated_layers_are_convolutions_with_relu_between(layers: int) -> None:
    widths = (*(5,) * layers, 2)
    features, parameters = torch.randn(1, 5, 3, 4, 5), torch.randn(1, num_head_parameters(widths))
    *weights, biases = parameters[0].split([5 * width for width in widths[1:]] + [sum(widths[1:])])
    x = features
    for number, (weight, bias) in enumerate(zip(weights, biases.split(widths[1:]), strict=True)):
        x = functional.conv3d(x if number == 0 else x.relu(), weight.view(-1, 5, 1, 1, 1), bias)
    assert torch.allclose(apply_dynamic_head(features, parameters, widths), x, atol=1e-4)


@pytest.mark.parametrize(
    ("conditioning", "inputs", "image_matters", "task_matters"),
    [
        ("image and task", 256 + 7, True, True),
        ("task", 7, False, True),
        ("image", 256, True, False),
    ],
)
def test_generated_kernels_depend_on_what_the_controller_sees(
    conditioning: str, inputs: int, image_matters: bool, task_matters: bool
) -> None:
    """Table 5."""
    with torch.device("meta"):
        assert DoDNet(conditioning=conditioning).controller.weight.shape == (162, inputs, 1, 1, 1)
    network = tiny(conditioning=conditioning)
    with torch.inference_mode():
        features = network.forward_features(torch.randn(2, 1, 16, 16, 16))
        first, second = (network.head_parameters(features, task) for task in (1, 4))
        assert network(torch.randn(2, 1, 16, 16, 16), 6).isfinite().all()
    assert first.shape == second.shape == (2, 162)
    assert torch.equal(first[0], first[1]) is not image_matters
    assert torch.equal(first, second) is not task_matters


def test_image_and_task_is_the_official_conditioning() -> None:
    """The controller reads the pooled features first, then the one-hot task (section 3.3)."""
    network = tiny()
    assert network.controller.in_channels == 16 + 7
    with torch.inference_mode():
        features = network.forward_features(torch.randn(1, 1, 16, 16, 16))
        weight, bias = network.controller.weight[..., 0, 0, 0], network.controller.bias
        expected = weight[:, :16] @ features.pooled.flatten() + weight[:, 16 + 4] + bias
        assert torch.allclose(network.head_parameters(features, 4)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("conditioning", "gains"),
    [("image and task", [0.3] * 16 + [6.0] * 7), ("task", [6.0] * 7), ("image", [0.3] * 16)],
)
def test_the_head_can_start_at_a_logit(conditioning: str, gains: list[float]) -> None:
    network = tiny(conditioning=conditioning)
    before = network.controller.weight.detach().clone()[:-2, :, 0, 0, 0]
    network.initialize_head(-3.0)
    assert torch.allclose(network.controller.weight[:-2, :, 0, 0, 0], before * torch.tensor(gains))
    with torch.inference_mode():
        features = network.forward_features(torch.randn(1, 1, 16, 16, 16))
        assert (network.head_parameters(features, 2)[:, -2:] == -3).all()  # the last layer's biases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"conditioning": "feature"},
            "conditioning is 'feature', not one of 'image and task', 'task', 'image'",
        ),
        ({"head_widths": []}, r"head_widths and num_structures are \[\] and 2, but .* one or more layers"),
        ({"head_widths": [8, 0]}, r"are \[8, 0\] and 2, but .* one or more channels"),
        ({"num_structures": 0}, r"are \[8, 8, 8\] and 0, but .* one or more channels"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"num_tasks": 3, "num_structures": 1}, {"in_channels": 4}])
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@torch.inference_mode()
def test_several_heads_at_once_equal_one_after_the_other(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny()
    features = network.forward_features(torch.randn(1, 1, 16, 32, 16))
    features = features._replace(decoder=features.decoder.half().contiguous(memory_format=layout))
    whole = [network.forward_head(features, task) for task in (4, 0, 6)]
    monkeypatch.setattr(dynamic_head, "BLOCK_VALUES", 1000)  # blocks that end within a row of voxels
    for together, alone in zip(network.forward_heads(features, [4, 0, 6]), whole, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


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
