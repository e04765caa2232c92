"""Convolution and normalisation on CPUs: PyTorch's functions, by ways that it does not take by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from PartialSegLib.networks.layers.convolution import Conv3d
from PartialSegLib.networks.layers.group_norm import GroupNorm
from PartialSegLib.networks.layers.instance_norm import InstanceNorm3d

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def image(channels: int, size: tuple[int, int, int], layout: torch.memory_format, batch: int = 1) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, channels, *size).to(memory_format=layout)


def gradients(convolution: nn.Conv3d, x: Tensor) -> list[Tensor]:
    """Of a sum in which every voxel has a weight of its own: of the image, the kernels and the bias."""
    x = x.clone().requires_grad_()
    y = convolution(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return list(torch.autograd.grad((y * weights).sum(), [x, *convolution.parameters()]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"),
    [
        (3, 1, (8, 9, 10)),
        (3, 1, (1, 12, 12)),
        (3, 2, (7, 8, 9)),
        (3, (1, 2, 2), (6, 8, 8)),
        ((1, 3, 3), 1, (5, 6, 7)),
        (7, (1, 2, 2), (9, 12, 12)),
        (1, 1, (5, 6, 7)),
        (1, 2, (5, 6, 8)),
    ],
)
def test_a_convolution_is_pytorchs_with_its_gradient(kernel, stride, size, bias, layout) -> None:
    padding = tuple(k // 2 for k in ((kernel,) * 3 if isinstance(kernel, int) else kernel))
    mine = Conv3d(4, 6, kernel, stride, padding, bias=bias).to(memory_format=layout)
    theirs = nn.Conv3d(4, 6, kernel, stride, padding, bias=bias).double()
    theirs.load_state_dict(mine.state_dict())
    x = image(4, size, layout)
    found, expected = mine(x), theirs(x.double())
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=1e-5)
    for one, other in zip(gradients(mine, x), gradients(theirs, x.double()), strict=True):
        assert torch.allclose(one.double(), other, atol=2e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_convolution_keeps_the_layout(layout) -> None:
    convolution = Conv3d(4, 6, 3, padding=1).to(memory_format=layout)
    assert convolution(image(4, (8, 8, 8), layout)).is_contiguous(memory_format=layout)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("stride", [1, 2])
def test_a_single_small_image_takes_onednns_way(stride: int) -> None:
    convolution = Conv3d(16, 16, 3, stride, 1).to(memory_format=torch.channels_last_3d)
    x = image(16, (12, 24, 24), torch.channels_last_3d).requires_grad_()
    with torch.profiler.profile() as profile:
        convolution(x).sum().backward()
    names = {event.name for event in profile.events()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv3d" in name for name in names)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("offset", [0, 10])
@pytest.mark.parametrize(
    ("norm", "twin"),
    [
        (GroupNorm(4, 12), nn.GroupNorm(4, 12)),
        (InstanceNorm3d(12), nn.InstanceNorm3d(12, affine=True)),
    ],
)
def test_a_norm_is_exact_and_keeps_channels_last(norm, twin, offset: int, batch: int) -> None:
    """Means that are far from zero are what sums of squares would lose digits by."""
    torch.manual_seed(1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    twin = twin.double()
    twin.load_state_dict(norm.state_dict())
    scale = offset * torch.arange(12).view(1, 12, 1, 1, 1)
    x = (image(12, (20, 30, 31), torch.contiguous_format, batch) + scale).to(
        memory_format=torch.channels_last_3d
    )
    with torch.inference_mode():
        found, expected = norm(x), twin(x.double())
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert (found - expected).abs().max() < (1e-5 if offset else 3e-6)


def test_an_instance_norm_of_bfloat16_rounds_once() -> None:
    norm, twin = InstanceNorm3d(8), nn.InstanceNorm3d(8, affine=True).double()
    x = image(8, (16, 24, 24), torch.channels_last_3d).bfloat16()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    assert (found - twin(x.double())).abs().max() < 2**-6


def test_an_instance_norm_is_trained_as_pytorchs() -> None:
    norm, twin = InstanceNorm3d(4), nn.InstanceNorm3d(4, affine=True)
    x = image(4, (4, 6, 6), torch.channels_last_3d)
    assert torch.equal(norm(x), twin(x))
