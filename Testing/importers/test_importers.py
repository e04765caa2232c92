"""Importers consume every key of an official checkpoint, or fail naming the key."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers import IMPORTERS, import_checkpoint
from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.dodnet import import_dodnet
from PartialSegLib.importers.recognition import recognize_checkpoint
from PartialSegLib.manifest import PostprocessingStep
from PartialSegLib.model import load_model
from PartialSegLib.packages.package_files import file_sha256


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return parity.official_dodnet_weights()


def bare(weights: dict[str, Tensor]) -> Any:
    return OrderedDict(weights)


def parallel(weights: dict[str, Tensor]) -> Any:
    return OrderedDict((f"module.{key}", value) for key, value in weights.items())


def apex(weights: dict[str, Tensor]) -> Any:
    """With the optimiser's state, as written when training in mixed precision."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=0.99, nesterov=True)
    parameter.sum().backward()
    optimizer.step()
    return {
        "model": parallel(weights),
        "optimizer": optimizer.state_dict(),
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}},
    }


def flat(weights: dict[str, Tensor]) -> Any:
    """All weights as views of one buffer, as a distributed trainer may keep them."""
    buffer = torch.cat([value.flatten() for value in weights.values()])
    parts = buffer.split([value.numel() for value in weights.values()])
    return {key: part.view_as(weights[key]) for key, part in zip(weights, parts, strict=True)}


def half(weights: dict[str, Tensor]) -> Any:
    return {key: value.half() for key, value in weights.items()}


@pytest.mark.parametrize("container", [bare, parallel, apex], ids=lambda container: container.__name__)
def test_every_official_container_gives_the_same_weights(
    tmp_path: Path, official: dict[str, Tensor], container: Callable[[dict[str, Tensor]], Any]
):
    torch.save(container(official), tmp_path / "official.pth")

    imported = import_dodnet(tmp_path / "official.pth").state_dict

    assert torch.equal(imported["stem.weight"], official["conv1.weight"])
    assert torch.equal(imported["encoder.3.1.unit2.0.bias"], official["layer3.1.gn2.bias"])
    assert torch.equal(imported["encoder.1.0.shortcut.2.weight"], official["layer1.0.downsample.2.weight"])
    assert torch.equal(imported["decoder.3.unit1.2.weight"], official["x1_resb.0.conv1.weight"])
    pointers = {tensor.data_ptr() for tensor in imported.values()}
    assert len(pointers) == len(imported) == len(official) == 111


def test_half_precision_checkpoints_become_single(tmp_path: Path, official: dict[str, Tensor]):
    torch.save(half(official), tmp_path / "official.pth")
    imported = import_dodnet(tmp_path / "official.pth").state_dict
    assert {tensor.dtype for tensor in imported.values()} == {torch.float32}


def test_an_imported_package_loads_and_says_where_it_comes_from(tmp_path: Path, official: dict[str, Tensor]):
    torch.save(flat(official), tmp_path / "MOTS.pth")

    manifest = import_checkpoint("dodnet", tmp_path / "MOTS.pth", tmp_path / "new" / "dodnet-mots")

    model = load_model(tmp_path / "new" / "dodnet-mots")
    assert model.manifest == manifest
    assert manifest.source["checkpoint"] == "MOTS.pth"
    assert manifest.source["sha256"] == file_sha256(tmp_path / "MOTS.pth")
    assert "GNU General Public License" in (model.folder / "LICENSE").read_text()
    assert sum(parameter.numel() for parameter in model.network.parameters()) == 17_329_528


def test_the_mots_manifest_states_the_official_protocol(tmp_path: Path, official: dict[str, Tensor]):
    torch.save(official, tmp_path / "MOTS.pth")
    manifest = import_dodnet(tmp_path / "MOTS.pth").manifest

    assert [task.name for task in manifest.tasks] == [
        "liver", "kidney", "hepatic vessel", "pancreas", "colon", "lung", "spleen"
    ]  # fmt: skip
    assert [sorted(task.structures.values()) for task in manifest.tasks] == [[0, 1]] * 4 + [[1], [1], [0]]
    assert manifest.preprocessing.clip == (-325, 325)
    assert (manifest.preprocessing.subtract, manifest.preprocessing.divide) == (0, 325)
    assert manifest.preprocessing.spacing == (1.5, 0.8, 0.8)
    assert manifest.inference.patch_size == (64, 192, 192)
    assert (manifest.inference.overlap, manifest.inference.mirror_axes) == (0.5, (0, 1, 2))
    assert (manifest.inference.activation, manifest.inference.blend) == ("sigmoid", "probabilities")
    assert manifest.tasks[0].postprocessing == (
        PostprocessingStep("include", "liver", other="liver_tumor"),
        PostprocessingStep("keep_largest", "liver", count=1),
        PostprocessingStep("mask_by", "liver_tumor", other="liver"),
        PostprocessingStep("drop_small", "liver_tumor", voxels=50, only_if_several=True),
    )
    assert [[step.step for step in task.postprocessing] for task in manifest.tasks[1:]] == [
        ["include", "keep_largest", "mask_by", "keep_largest"],
        ["drop_small"],
        ["include", "keep_largest", "mask_by", "drop_small"],
        ["keep_largest"],
        ["keep_largest"],
        ["keep_largest"],
    ]
    assert manifest.tasks[1].postprocessing[1].count == 2


def without(key: str) -> Callable[[Any], Any]:
    return lambda weights: {name: value for name, value in weights.items() if name != key}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("GAP.0.bias"), "the key 'GAP.0.bias' is missing"),
        (
            lambda weights: {**weights, "conv2.weight": torch.ones(1)},
            "the key 'conv2.weight' is not part of this",
        ),
        (lambda weights: {**weights, "epoch": 7}, "the key 'epoch' is not part of this network"),
        (
            lambda weights: {**weights, "GAP.0.bias": "text"},
            "the key 'GAP.0.bias' is not a tensor of weights",
        ),
        (
            lambda weights: {**weights, "GAP.0.bias": torch.ones(256, dtype=int)},
            "'GAP.0.bias' is not a tensor of",
        ),
        (
            lambda weights: {**weights, "GAP.0.bias": torch.ones(8)},
            r"'GAP.0.bias' has shape \(8,\), .* \(256,\)",
        ),
        (
            lambda weights: {**weights, "module.conv1.weight": torch.ones(1)},
            "'module.conv1.weight' is not part of",
        ),
        (lambda weights: {"model": weights, "epoch": 7}, "the key 'epoch' beside 'model' is unknown"),
        (lambda weights: {"state_dict": weights}, "the key 'state_dict' is not part of this network"),
        (lambda weights: {}, "it holds no named weights"),
        (lambda weights: [1, 2], "it holds no named weights"),
        (lambda weights: torch.ones(3), "it holds no named weights"),
        (lambda weights: {1: torch.ones(3)}, "it holds no named weights"),
    ],
)
def test_a_checkpoint_that_is_not_understood_wholly_is_refused(
    tmp_path: Path, official: dict[str, Tensor], change: Callable[[Any], Any], sentence: str
):
    torch.save(change(official), tmp_path / "official.pth")

    with pytest.raises(InputError, match=f"is not an official DoDNet checkpoint: .*{sentence}"):
        import_checkpoint("dodnet", tmp_path / "official.pth", tmp_path / "package")

    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


def test_a_missing_checkpoint_and_an_unknown_importer_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="There is no checkpoint"):
        import_checkpoint("dodnet", tmp_path / "none.pth", tmp_path / "package")
    with pytest.raises(InputError, match=r"Unknown importer 'dodent'; perhaps you meant dodnet"):
        import_checkpoint("dodent", tmp_path / "none.pth", tmp_path / "package")
    assert list(IMPORTERS) == ["dodnet", "transdodnet", "multitalent", "stunet", "nnunet"]


@pytest.mark.parametrize(
    ("contents", "importer"),
    [
        ({"module.layer0.0.gn1.weight": 0}, "dodnet"),
        ({"model": {"layer0.0.gn1.weight": 0}, "optimizer": {}, "amp": {}}, "dodnet"),
        ({"state_dict": {"module.ResCNN_DeformTR.backbone.conv1.weight": 0}}, "transdodnet"),
        ({"network_weights": {"conv_blocks_context.0.0.conv3.weight": 0}}, "stunet"),
        ({"network_weights": {"_orig_mod.encoder.stages.0.0.convs.0.conv.weight": 0}}, "nnunet"),
    ],
)
def test_a_checkpoint_tells_its_importer(tmp_path: Path, contents: dict[str, Any], importer: str) -> None:
    torch.save(contents, tmp_path / "file.pth")
    assert recognize_checkpoint(tmp_path / "file.pth") == importer


def test_a_pair_of_files_is_multitalents_and_the_unknown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_final_checkpoint.model"
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=r"There is no .*checkpoint\.model\.pkl; keep the files"):
        import_checkpoint("auto", path, tmp_path / "package")
    with pytest.raises(InputError, match="of none of the systems"):
        import_checkpoint("auto", path.rename(tmp_path / "any.pth"), tmp_path / "package")
    (tmp_path / "any.pth").rename(path)
    path.with_name(f"{path.name}.pkl").write_bytes(b"")
    assert recognize_checkpoint(path) == "multitalent"


def test_a_small_file_does_not_become_a_large_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PartialSegLib.importers.checkpoint._MOST_REPEATED_BYTES", 1000)
    network = torch.nn.Linear(16, 16)
    weights = {name: torch.ones(()).expand(value.shape) for name, value in network.state_dict().items()}
    with pytest.raises(
        InputError, match=r"'weight' repeats a few values instead of storing \(16, 16\) of them"
    ):
        renamed_weights(weights, network, {})
