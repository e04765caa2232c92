"""TransDoDNet's importer: sizes from shapes, every key consumed, clear failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.importers.checkpoint import official_name
from PartialSegLib.importers.transdodnet import OFFICIAL_NAMES, import_transdodnet
from PartialSegLib.model import load_model
from PartialSegLib.networks import TransDoDNet

SMALL = {"num_tasks": 7, "width": 48, "num_levels": 2, "encoder_layers": 1, "decoder_layers": 2}


def official(**arguments: object) -> dict[str, Tensor]:
    """Weights of a small network under their official names."""
    torch.manual_seed(0)
    network = TransDoDNet(**{**SMALL, "depths": (1, 1, 1, 1), **arguments})
    return {official_name(name, OFFICIAL_NAMES): value for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return official()


@pytest.mark.parametrize("feature_mode", ["A", "B", "C"])
def test_the_shapes_tell_the_network(tmp_path: Path, feature_mode: str) -> None:
    state_dict = official(feature_mode=feature_mode)
    torch.save(
        {"state_dict": state_dict, "optimizer": {}, "epoch": 991, "amp": {}}, tmp_path / "official.pth"
    )

    manifest = import_checkpoint("transdodnet", tmp_path / "official.pth", tmp_path / "package")

    wanted = {**SMALL, "depths": [1, 1, 1, 1]}
    assert manifest.network.arguments == wanted | (
        {} if feature_mode == "A" else {"feature_mode": feature_mode}
    )
    stored = load_model(tmp_path / "package").network.state_dict()
    assert all(torch.equal(stored[key], state_dict[official_name(key, OFFICIAL_NAMES)]) for key in stored)


def test_the_manifest_states_paper_and_code(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"state_dict": weights}, tmp_path / "official.pth")
    manifest = import_transdodnet(tmp_path / "official.pth").manifest

    assert manifest.preprocessing.spacing == (1.5, 0.8, 0.8)
    assert manifest.preprocessing.pad_value == -325
    assert manifest.inference.patch_size == (64, 192, 192)
    assert [[step.step for step in task.postprocessing] for task in manifest.tasks] == [
        ["include", "keep_largest", "mask_by", "drop_small"],
        ["include", "keep_largest", "mask_by", "keep_largest"],
        [],
        ["include", "keep_largest", "mask_by"],
        ["keep_largest"],
        ["keep_largest"],
        ["keep_largest"],
    ]
    components = [
        step for task in manifest.tasks for step in task.postprocessing if step.count or step.voxels
    ]
    assert {step.connectivity for step in components} == {18}


def without(key: str) -> Callable[[Any], Any]:
    return lambda weights: {"state_dict": {name: value for name, value in weights.items() if name != key}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights, "it holds no named weights under 'state_dict'"),
        (lambda weights: {"state_dict": {}}, "it holds no named weights under 'state_dict'"),
        (lambda weights: {"state_dict": weights, "loss": 1}, "the key 'loss' beside 'state_dict' is unknown"),
        (without("ResCNN_DeformTR.query_embed.weight"), "'ResCNN_DeformTR.query_embed.weight' is missing"),
        (without("ResCNN_DeformTR.controller.2.bias"), "'ResCNN_DeformTR.controller.2.bias' is missing"),
        (
            lambda weights: {"state_dict": {**weights, "ResCNN_DeformTR.more": torch.ones(1)}},
            "the key 'ResCNN_DeformTR.more' is not part of this network",
        ),
        (
            lambda weights: {"state_dict": {**weights, "ResCNN_DeformTR.controller.2.bias": torch.ones(90)}},
            r"'ResCNN_DeformTR.controller.2.bias' has shape \(90,\)",
        ),
        (
            lambda weights: {
                "state_dict": {**weights, "ResCNN_DeformTR.transformer.level_embed": torch.ones(5, 48)}
            },
            "num_levels is 5",
        ),
    ],
)
def test_a_checkpoint_that_is_not_understood_wholly_is_refused(
    tmp_path: Path, weights: dict[str, Tensor], change: Callable[[Any], Any], sentence: str
) -> None:
    torch.save(change(weights), tmp_path / "official.pth")

    with pytest.raises(InputError, match=f"is not an official TransDoDNet checkpoint: .*{sentence}"):
        import_checkpoint("transdodnet", tmp_path / "official.pth", tmp_path / "package")

    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]
