"""Transfer of weights to networks for other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import Model, load_model, save_model
from PartialSegLib.networks import NETWORKS, SINGLE_NETWORKS, PartialLabelNetwork
from PartialSegLib.training.transfer import TASK_PARTS, TransferReport, transfer_weights, with_image_channels

SMALL: dict[str, dict[str, Any]] = {
    "DoDNet": {"widths": [8, 8, 8], "depths": [1, 1, 1], "groups": 4},
    "TransDoDNet": {
        "width": 48,
        "num_levels": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "depths": [1, 1, 1, 1],
        "planes": [8, 8, 8, 8],
        "decoder_widths": [16, 16, 16, 16, 16],
    },
    "UNet": {
        "widths": [4, 8, 8],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "depths": [1, 1, 1],
        "decoder_depths": [1, 1],
    },
    "STUNet": {"base_width": 2},
}
SMALL["DownstreamTransDoDNet"] = SMALL["TransDoDNet"]
SMALL |= dict.fromkeys(
    ("CondDecNetwork", "CondInputNetwork", "CondNONetwork", "MultiHeadNetwork"), SMALL["DoDNet"]
)
TASKS = {
    "DoDNet": ({"num_tasks": 7}, {"num_tasks": 1, "num_structures": 14}),
    "TransDoDNet": ({"num_tasks": 7}, {"num_tasks": 1, "num_structures": 14}),
    "UNet": ({"task_channels": [2, 1, 13]}, {"task_channels": [13]}),  # MultiTalent, then BTCV
    "STUNet": ({"task_channels": [15]}, {"task_channels": [14]}),
    "MultiHeadNetwork": ({"num_tasks": 3}, {"num_tasks": 2}),
    "CondDecNetwork": ({"num_tasks": 3}, {"num_tasks": 2, "num_structures": 1}),
}
FRESH = {
    "DoDNet": {"controller"},
    "TransDoDNet": {"controller", "transformer"},
    "UNet": {"heads"},
    "STUNet": {"heads"},
    "MultiHeadNetwork": {"decoders"},
    "CondDecNetwork": {"head"},
}


def build(name: str, **arguments: Any) -> PartialLabelNetwork:
    return NETWORKS[name](**{**SMALL[name], **arguments}).eval()


def model(name: str, **arguments: Any) -> Model:
    """A model as one that was loaded; its weights are those of seed 1."""
    torch.manual_seed(1)
    network = build(name, **arguments)
    spec = NetworkSpec(name, {**SMALL[name], **arguments})
    manifest = Manifest(
        name="source",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=spec,
        preprocessing=Preprocessing("SPL", (3.0, 2.0, 2.0), (-200, 300), 0.0, 100.0),
        inference=Inference((32, 64, 64)),
        tasks=(Task("liver", {"liver": 0}),),
    )
    return Model(manifest, network, Path())


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def check_report(
    report: TransferReport, before: dict[str, Tensor], network: PartialLabelNetwork, source: Model
) -> None:
    """Every weight of the network is in the report once, and is what the report says."""
    after, given = network.state_dict(), source.network.state_dict()
    assert sorted(report.taken + report.adapted + report.fresh) == sorted(after)
    assert all(torch.equal(after[name], given[name]) for name in report.taken)
    assert all(torch.equal(after[name], before[name]) for name in report.fresh)


def test_every_network_names_the_parts_of_its_tasks() -> None:
    assert TASK_PARTS.keys() == SINGLE_NETWORKS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_new_tasks_start_from_everything_but_the_heads(name: str) -> None:
    old, new = TASKS[name]
    source, network = model(name, **old), build(name, **new)
    before = weights(network)
    report = transfer_weights(network, source)
    check_report(report, before, network, source)
    assert not report.adapted
    assert {weight.split(".")[0] for weight in report.fresh} == FRESH[name]
    fresh = FRESH[name] - {"transformer"}  # only its decoder
    assert {weight.split(".")[0] for weight in report.taken} == {
        weight.split(".")[0] for weight in before
    } - fresh


def test_transdodnet_keeps_only_the_encoder_of_its_transformer() -> None:
    """Section 3.7 and Figure 5."""
    network = build("TransDoDNet", num_tasks=7)
    report = transfer_weights(network, model("TransDoDNet", num_tasks=7))
    fresh = {".".join(name.split(".")[:2]) for name in report.fresh}
    assert {name for name in fresh if name.startswith("transformer")} == {
        "transformer.decoder",
        "transformer.query_embedding",
        "transformer.query_reference",
    }
    assert any(name.startswith("transformer.encoder.") for name in report.taken)


def test_the_downstream_transdodnet_keeps_all_but_queries_and_heads() -> None:
    """Section 3.7 and Figure 5: both encoders and the decoder, with a new head at its end."""
    network, source = build("DownstreamTransDoDNet"), model("TransDoDNet", num_tasks=7)
    before = weights(network)
    report = transfer_weights(network, source)
    check_report(report, before, network, source)
    assert report.fresh == ("head.weight", "head.bias")
    parts = {name.split(".")[0] for name in source.network.state_dict().keys() - set(report.taken)}
    assert parts == {"transformer", "controller"}
    patch = torch.randn(1, 1, 16, 32, 64)
    with torch.inference_mode():
        found, expected = (net.forward_features(patch).decoder for net in (network, source.network))
        assert torch.equal(found, expected)
        assert network(patch, 0).shape == (1, 14, 16, 32, 64)


def test_heads_start_anew_even_where_they_would_fit() -> None:
    network = build("UNet", task_channels=[2])
    report = transfer_weights(network, model("UNet", task_channels=[2]))
    assert report.fresh == tuple(name for name in network.state_dict() if name.startswith("heads."))


def test_dodnet_starts_a_softmax_of_bcv() -> None:
    """DoDNet, section 4.4: the encoder-decoder with a new last layer."""
    network = build("CondNONetwork", num_tasks=1, num_structures=14)
    source = model("DoDNet", num_tasks=7)
    before = weights(network)
    report = transfer_weights(network, source)
    check_report(report, before, network, source)
    assert report.fresh == tuple(name for name in before if name.startswith("head."))


@pytest.mark.parametrize("name", ["TransDoDNet", "UNet", "STUNet"])
@torch.inference_mode()
def test_image_channels_that_are_all_the_same_give_the_same_features(name: str) -> None:
    """BraTS has four channels (TransDoDNet, section 4.5)."""
    arguments = TASKS[name][0]
    source, network = model(name, **arguments), build(name, **arguments, in_channels=4)
    report = transfer_weights(network, source, ["*"])
    assert len(report.adapted) == (2 if name == "STUNet" else 1)  # its first shortcut reads the image, too
    assert not report.fresh
    patch = torch.randn(1, 1, 32, 64, 64)
    expected = source.network(patch, 0)
    found = network(patch.expand(-1, 4, -1, -1, -1), 0)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_weight_standardised_filters_are_copied() -> None:
    """They have no scale: four equal channels give four times the activations (unbiased variance apart)."""
    source: Any = model("DoDNet", num_tasks=7)
    network: Any = build("DoDNet", num_tasks=2, in_channels=4)
    report = transfer_weights(network, source)
    assert report.adapted == ("stem.weight",)
    patch = torch.randn(1, 1, 8, 8, 8)
    expected = 4 * source.network.stem(patch)
    found = network.stem(patch.expand(-1, 4, -1, -1, -1))
    assert torch.allclose(found, expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (2, 3)])
def test_first_filters_keep_their_sum(old: int, new: int) -> None:
    weight = torch.randn(5, old, 3, 1, 3)
    adapted = with_image_channels(weight, new)
    assert adapted.shape == (5, new, 3, 1, 3)
    assert torch.allclose(adapted.sum(1), weight.sum(1), atol=1e-5)
    assert all(torch.equal(adapted[:, 0], adapted[:, channel]) for channel in range(new))


def test_task_channels_at_the_input_are_no_image_channels() -> None:
    network = build("CondInputNetwork", num_tasks=3)
    report = transfer_weights(network, model("DoDNet", num_tasks=3))
    assert not report.adapted
    assert "stem.weight" in report.fresh
    assert any(name.startswith("decoder.") for name in report.taken)


def test_only_the_parts_asked_for_are_taken() -> None:
    network, source = build("DoDNet", num_tasks=3), model("DoDNet", num_tasks=7)
    before = weights(network)
    report = transfer_weights(network, source, ["encoder.1", "fusion"])
    check_report(report, before, network, source)
    expected = tuple(name for name in before if name.startswith(("encoder.1.", "fusion.")))
    assert report.taken == expected


def test_everything_can_be_taken() -> None:
    network, source = build("DoDNet", num_tasks=7), model("DoDNet", num_tasks=7)
    report = transfer_weights(network, source, ["*"])
    assert report.taken == tuple(network.state_dict())
    assert str(report) == f"{len(report.taken)} weights taken, 0 adapted, 0 fresh"


def test_the_report_says_what_starts_anew() -> None:
    report = transfer_weights(build("DoDNet", num_tasks=3, in_channels=2), model("DoDNet", num_tasks=7))
    assert str(report).endswith(" weights taken, 1 adapted (stem), 2 fresh (controller)")


def test_weights_come_from_a_package(tmp_path: Path) -> None:
    source = model("UNet", task_channels=[2, 1])
    save_model(
        tmp_path / "package", source.manifest, source.network.state_dict(), "Public domain", torch.float16
    )
    network = build("UNet", task_channels=[4])
    before = weights(network)
    report = transfer_weights(network, str(tmp_path / "package"))
    check_report(report, before, network, load_model(tmp_path / "package"))


@pytest.mark.parametrize(
    ("source", "arguments", "target"),
    [
        ("DoDNet", {"widths": [16, 16, 16]}, "DoDNet"),
        ("DoDNet", {}, "STUNet"),
        ("STUNet", {"base_width": 8}, "DoDNet"),  # names and shapes alike, but other kinds of layers
        ("UNet", {}, "TransDoDNet"),
    ],
)
def test_a_network_that_nothing_fits_is_refused_and_left_alone(
    source: str, arguments: dict[str, Any], target: str
) -> None:
    network = build(target)
    before = weights(network)
    message = rf"No weight of model source \({source}\) fits {target}; choose"
    with pytest.raises(InputError, match=message):
        transfer_weights(network, model(source, **arguments))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_part_that_does_not_exist_is_refused() -> None:
    message = (
        r"DoDNet has no part 'encodr'; its parts are stem, encoder, fusion, pooling, decoder, projection"
    )
    with pytest.raises(InputError, match=message):
        transfer_weights(build("DoDNet"), model("DoDNet"), ["encodr"])


def test_a_package_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no model package"):
        transfer_weights(build("DoDNet"), tmp_path / "nothing")
