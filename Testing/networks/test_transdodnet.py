"""TransDoDNet: sizes, variants, the split into features and head; parity is in test_transdodnet_parity."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from PartialSegLib.networks import DownstreamTransDoDNet, TransDoDNet
from PartialSegLib.networks.layers.deformable_attention import MultiScaleDeformableAttention
from PartialSegLib.networks.layers.deformable_transformer import token_references
from PartialSegLib.networks.layers.dynamic_head import apply_dynamic_head

TINY = {
    "width": 24,
    "num_heads": 2,
    "planes": (4, 4, 4, 4),
    "depths": (1, 1, 1, 1),
    "decoder_widths": (8, 8, 8, 8, 8),
    "encoder_layers": 2,
    "decoder_layers": 1,
}
PATCH = (16, 32, 64)


def tiny(**arguments: object) -> TransDoDNet:
    torch.manual_seed(0)
    return TransDoDNet(**{**TINY, **arguments}).eval()


def parameters_of(**arguments: object) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TransDoDNet(**arguments).parameters())


def test_the_default_is_the_official_size() -> None:
    assert parameters_of() == 39_049_941


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        ({"width": 96}, 36.49),
        ({"width": 384}, 48.21),
        ({"width": 768}, 82.67),
        ({"width": 384, "encoder_layers": 1, "decoder_layers": 1}, 40.52),
        ({"width": 384, "encoder_layers": 3, "decoder_layers": 1}, 43.77),
        ({"width": 384, "encoder_layers": 1, "decoder_layers": 3}, 44.96),
        ({"width": 384, "encoder_layers": 6, "decoder_layers": 6}, 59.74),
        ({"depths": (3, 4, 23, 3)}, 78.10),
    ],
)
def test_variants_have_the_sizes_of_the_paper(arguments: dict[str, object], millions: float) -> None:
    """Tables 5 and 6; the last one, on ResNet-101, is a count of the official code."""
    assert parameters_of(**arguments) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("layers", "channels", "count"), [(2, 8, 90), (3, 8, 162), (4, 8, 234), (3, 4, 50), (3, 16, 578)]
)
def test_heads_of_all_depths_and_widths_of_the_paper(layers: int, channels: int, count: int) -> None:
    """Tables 2 and 3; the official flag for the default is "3,8"."""
    network = tiny(head_widths=(channels,) * layers)
    with torch.inference_mode():
        features = network.forward_features(torch.randn(1, 1, *PATCH))
        assert features.decoder.shape == (1, channels, 16, 16, 32)
        assert network.head_parameters(features, 3).shape == (1, count)
        assert network.forward_head(features, 3).shape == (1, 2, *PATCH)


@pytest.mark.parametrize("feature_mode", ["A", "B", "C"])
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_forward_is_the_head_of_the_features(feature_mode: str, num_levels: int) -> None:
    network = tiny(feature_mode=feature_mode, num_levels=num_levels, num_tasks=3)
    patch = torch.randn(2, 1, *PATCH)
    with torch.inference_mode():
        features = network.forward_features(patch)
        logits = [network.forward_head(features, task) for task in range(3)]
        assert torch.equal(logits[1], network(patch, 1))
    assert features.decoder.shape == (2, network.feature_channels, 16, 16, 32)
    assert logits[2].shape == (2, 2, *PATCH)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("width", [96, 192, 384, 768])
def test_every_width_of_the_paper_runs(width: int) -> None:
    network = tiny(width=width, num_heads=8, encoder_layers=1)
    with torch.inference_mode():
        assert network(torch.randn(1, 1, *PATCH), 6).isfinite().all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_channels": 2, "num_structures": 1},
        {"num_points": 2},
        {"negative_slope": 0.01},
        {"offset_scale": "level"},
    ],
)
def test_other_arguments_run(arguments: dict[str, object]) -> None:
    network = tiny(**arguments)
    with torch.inference_mode():
        logits = network(torch.randn(1, network.encoder.stem[0].in_channels, *PATCH), 0)
    assert logits.shape == (1, network.num_structures, *PATCH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_mode": "D"}, "feature_mode is 'D', not one of 'A', 'B', 'C'"),
        ({"num_levels": 4}, "num_levels is 4, not one of 1, 2, 3"),
        ({"offset_scale": "none"}, "offset_scale is 'none'"),
        ({"head_widths": ()}, "one or more layers of one or more channels"),
        ({"width": 100}, "width 100 is no multiple of 6"),
        ({"width": 102}, "width 102 is no multiple of 6 and of the 8 heads"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameters_of(**arguments)


def test_samples_of_a_batch_do_not_mix() -> None:
    network = tiny()
    patch = torch.randn(2, 1, *PATCH)
    with torch.inference_mode():
        together = network(patch, 1)
        alone = torch.cat([network(sample[None], 1) for sample in patch])
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_head_can_start_at_a_logit() -> None:
    network = tiny()
    network.initialize_head(-3.0)
    with torch.inference_mode():
        assert abs(network(torch.randn(1, 1, *PATCH), 2).mean() + 3) < 1


def test_the_downstream_network_is_trained_as_a_whole_and_starts_at_a_logit() -> None:
    network = DownstreamTransDoDNet(**TINY, num_structures=3, in_channels=2).train()
    network.initialize_head(-3.0)
    logits = network(torch.randn(1, 2, *PATCH), 0)
    assert logits.shape == (1, 3, *PATCH)
    assert (logits + 3).abs().max() < 0.5
    logits.square().mean().backward()
    unused = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert unused == set()


def test_every_weight_gets_a_gradient() -> None:
    network = tiny().train()
    logits = [
        network.forward_head(network.forward_features(torch.randn(1, 1, *PATCH)), task) for task in (0, 5)
    ]
    torch.stack(logits).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_it_runs_in_bfloat16() -> None:
    network, patch = tiny(), torch.randn(1, 1, *PATCH)
    with torch.inference_mode():
        exact = network.forward_features(patch).queries
        with torch.autocast("cpu", torch.bfloat16):
            rough = network.forward_features(patch).queries
    assert functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.98


def test_sampling_points_can_be_exported() -> None:
    network = tiny(num_levels=2)
    with torch.inference_mode():
        points = network.sampling_points(torch.randn(2, 1, *PATCH))
    tokens = 2 * 2 * 4 + 1 * 1 * 2
    assert points.locations.shape == (2, tokens, 2, 2, 4, 3)
    assert points.weights.shape == (2, tokens, 2, 2, 4)
    assert torch.allclose(points.weights.sum((3, 4)), torch.ones(2, tokens, 2), atol=1e-5)


def test_sampling_points_lie_around_the_permuted_voxel() -> None:
    """A voxel at (d, h, w) looks around x = d, y = w, z = h, as the official code has it."""
    network = tiny(num_levels=1)
    torch.nn.init.zeros_(network.transformer.encoder[-1].attention.offsets.weight)
    torch.nn.init.zeros_(network.transformer.encoder[-1].attention.offsets.bias)
    with torch.inference_mode():
        locations = network.sampling_points(torch.randn(1, 1, 16, 64, 128)).locations[0, :, 0, 0, 0]
    d, h, w = 0, 1, 3  # of a level of (1, 2, 4) voxels
    assert torch.allclose(locations[d * 8 + h * 4 + w], torch.tensor([0.75, 0.875, 0.5]))
    assert torch.equal(token_references(torch.zeros(1, 1, 1, 2, 4))[7], torch.tensor([0.5, 0.875, 0.75]))


def test_attention_reads_what_lies_at_its_points() -> None:
    attention = MultiScaleDeformableAttention(width=6, num_levels=2, num_heads=2, num_points=3)
    for layer in (attention.offsets, attention.weights):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for layer in (attention.value_projection, attention.output_projection):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    fine, coarse = torch.randn(2, 4, 6, 8, 6), torch.randn(2, 2, 3, 4, 6)
    tokens = torch.cat([fine.flatten(1, 3), coarse.flatten(1, 3)], dim=1)
    reference = torch.tensor([[[5.5 / 8, 2.5 / 6, 1.5 / 4]]])  # x, y, z: the centre of fine[1, 2, 5]
    seen = attention(torch.zeros(2, 1, 6), reference, tokens, [(4, 6, 8), (2, 3, 4)])[:, 0]
    coarse_point = functional.grid_sample(
        coarse.permute(0, 4, 1, 2, 3),
        (2 * reference - 1).expand(2, 1, 3)[:, :, None, None],
        align_corners=False,
    )[..., 0, 0, 0]
    assert torch.allclose(seen, (fine[:, 1, 2, 5] + coarse_point) / 2, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_read_alike_with_and_without_gradients(dtype: torch.dtype) -> None:
    """By `grid_sample` and by an embedding bag; also outside of the volume and on its border."""
    attention = MultiScaleDeformableAttention(width=24, num_levels=3, num_heads=4, num_points=2).to(dtype)
    attention.initialize(1.0)
    with torch.no_grad():
        attention.offsets.bias.mul_(4)
    shapes = [(4, 6, 8), (2, 3, 4), (1, 2, 2)]
    tokens = torch.randn(2, 4 * 6 * 8 + 2 * 3 * 4 + 4, 24, dtype=dtype)
    query, reference = torch.randn(2, 50, 24, dtype=dtype), torch.rand(2, 50, 3, dtype=dtype) * 1.5 - 0.25
    reference[:, :2] = torch.tensor([0.0, 1.0], dtype=dtype)[:, None]
    with_gradients = attention(query, reference, tokens, shapes)
    with torch.no_grad():
        without = attention(query, reference, tokens, shapes)
    assert with_gradients.grad_fn is not None
    torch.testing.assert_close(without, with_gradients.detach())


def test_a_point_nowhere_makes_its_query_nan_and_no_other() -> None:
    """So that an overflow is seen, and the patch computed again in float32."""
    attention = MultiScaleDeformableAttention(width=6, num_levels=1, num_heads=1, num_points=1)
    reference = torch.full((1, 3, 3), 0.5)
    reference[0, 1, 2] = torch.nan
    with torch.no_grad():
        seen = attention(torch.zeros(1, 3, 6), reference, torch.randn(1, 8, 6), [(2, 2, 2)])
    assert seen.isfinite().all(dim=2)[0].tolist() == [True, False, True]


def test_heads_of_several_tasks_at_once_are_the_heads_of_each() -> None:
    network = tiny()
    with torch.inference_mode():
        features = network.forward_features(torch.randn(1, 1, *PATCH))
        for task, logits in zip((4, 0, 6), network.forward_heads(features, [4, 0, 6]), strict=True):
            torch.testing.assert_close(logits, network.forward_head(features, task), rtol=1e-5, atol=1e-5)


def test_logits_are_interpolated_trilinearly() -> None:
    network = tiny()
    with torch.inference_mode():
        features = network.forward_features(torch.randn(2, 1, *PATCH))
        half = apply_dynamic_head(features.decoder, network.head_parameters(features, 3), network.head_widths)
        expected = functional.interpolate(half, scale_factor=(1.0, 2.0, 2.0), mode="trilinear")
        torch.testing.assert_close(network.forward_head(features, 3), expected)
