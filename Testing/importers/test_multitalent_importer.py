"""MultiTalent's importer: two files of nnU-Net version 1, one of them a pickle."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_data import DATA
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.importers.checkpoint import official_name
from PartialSegLib.importers.multitalent import RESIDUAL_ENCODER_UNET_NAMES, TASKS, UNET_NAMES
from PartialSegLib.importers.nnunet_checkpoint import without_duplicates
from PartialSegLib.model import load_model
from PartialSegLib.networks.unet import MULTITALENT_TASK_CHANNELS

POOLING: dict[str, list[list[int]]] = {
    "multitalent_unet": [[2, 2, 2]] * 4 + [[1, 2, 2]],
    "multitalent_resenc": [[1, 1, 1], [1, 2, 2]] + [[2, 2, 2]] * 4,
}


@cache
def named_weights(name: str) -> dict[str, Tensor]:
    """Weights of the official names and shapes, each filled with a number of its own."""
    layout = json.loads((DATA / f"{name}_state_dict.json").read_text())
    first_names = layout["aliases_same_storage"]
    numbers = {key: number for number, (key, _, _) in enumerate(layout["state_dict"])}
    return {
        key: torch.tensor(float(numbers[first_names.get(key, key)])).expand(shape)
        for key, shape, _ in layout["state_dict"]
    }


def described(name: str) -> dict[str, Any]:
    """Contents of a .model.pkl: what the published plans hold of preprocessing and network."""
    stage = {
        "current_spacing": np.array([1.5, 1.0, 1.0]),
        "patch_size": np.array([96, 192, 192]),
        "pool_op_kernel_sizes": POOLING[name],
    }
    intensity = {"percentile_00_5": np.float32(-927), "percentile_99_5": 275.0, "mean": 63.4, "sd": 175.5}
    plans = {
        "plans_per_stage": {0: {**stage, "current_spacing": np.array([1.98, 1.32, 1.32])}, 1: stage},
        "transpose_forward": [0, 1, 2],
        "dataset_properties": {"intensityproperties": OrderedDict({0: OrderedDict(intensity)})},
    }
    return {"init": (), "name": "MultiTalent_trainer_ddp", "class": "<class>", "plans": plans}


def write_fold(folder: Path, name: str, description: Any = None, **changes: Any) -> Path:
    """Write model_final_checkpoint.model and its .pkl; returns the former."""
    checkpoint = {
        "epoch": 1000,
        "state_dict": {f"module.{key}": value for key, value in named_weights(name).items()},
        "optimizer_state_dict": {},
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float64(0.5)], [], [], []),
        "best_stuff": (np.float64(0.5), 1.0, 2.0),
        "amp_grad_scaler": {},
        **changes,
    }
    path = folder / "model_final_checkpoint.model"
    torch.save(checkpoint, path)
    path.with_name(f"{path.name}.pkl").write_bytes(pickle.dumps(description or described(name)))
    return path


@pytest.mark.parametrize(
    ("name", "names"),
    [("multitalent_unet", UNET_NAMES), ("multitalent_resenc", RESIDUAL_ENCODER_UNET_NAMES)],
)
def test_a_fold_becomes_a_package_of_thirteen_tasks(tmp_path: Path, name: str, names: dict[str, str]) -> None:
    path = write_fold(tmp_path, name)

    manifest = import_checkpoint("multitalent", path, tmp_path / "package")

    stored = load_model(tmp_path / "package").network.state_dict()
    official = without_duplicates(named_weights(name))
    assert len(stored) == len(official) > 0
    assert all(torch.equal(value, official[official_name(key, names)]) for key, value in stored.items())
    assert len(manifest.tasks) == 13
    assert sum(len(task.structures) for task in manifest.tasks) == 47
    assert manifest.preprocessing.spacing == (1.5, 1.0, 1.0)
    assert manifest.preprocessing.clip == (-927.0, 275.0)
    assert not manifest.preprocessing.clip_first
    assert manifest.inference.patch_size == (96, 192, 192)


@pytest.fixture(scope="module")
def swin_weights() -> dict[str, Tensor]:
    """What the official trainer saves of MONAI's class, each weight filled with a number of its own."""
    from monai.networks.nets import SwinUNETR

    official = SwinUNETR(in_channels=1, out_channels=47, feature_size=48).state_dict()
    return {
        key: torch.tensor(float(number)).expand(value.shape) if value.is_floating_point() else value
        for number, (key, value) in enumerate(official.items())
    }


def test_a_fold_of_swin_unetr_becomes_a_package_of_the_same_tasks(
    tmp_path: Path, swin_weights: dict[str, Tensor]
) -> None:
    state_dict = {f"module.{key}": value for key, value in swin_weights.items()}
    path = write_fold(tmp_path, "multitalent_unet", state_dict=state_dict)

    manifest = import_checkpoint("multitalent", path, tmp_path / "package")

    stored = load_model(tmp_path / "package").network.state_dict()
    assert stored.keys() == {f"network.{key}" for key in swin_weights}
    assert all(torch.equal(stored[f"network.{key}"], value) for key, value in swin_weights.items())
    assert manifest.name == "multitalent-swin"
    assert manifest.tasks == TASKS
    assert manifest.inference.patch_size == (96, 192, 192)


def test_what_is_not_multitalents_swin_unetr_is_refused(
    tmp_path: Path, swin_weights: dict[str, Tensor]
) -> None:
    table = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    for changes, sentence in (
        ({table: swin_weights[table] + 1}, r"relative_position_index' does not fit a window of 7 voxels"),
        ({table: swin_weights[table].float()}, r"relative_position_index' is not a tensor of weights"),
        ({"out.conv.conv.bias": torch.zeros(14)}, r"'out\.conv\.conv\.bias' has shape \(14,\)"),
        ({"swinViT.layers1c.0.weight": torch.zeros(1)}, r"'swinViT\.layers1c\.0\.weight' is not part"),
    ):
        path = write_fold(tmp_path, "multitalent_unet", state_dict={**swin_weights, **changes})
        with pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$"):
            import_checkpoint("multitalent", path, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_the_tasks_have_the_channels_of_the_network() -> None:
    assert tuple(len(task.structures) for task in TASKS) == MULTITALENT_TASK_CHANNELS
    assert all(list(task.structures.values()) == list(range(len(task.structures))) for task in TASKS)


class Evil:
    """Pickled, it asks for a system call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_bad_files_are_refused_with_one_sentence(tmp_path: Path) -> None:
    name = "multitalent_unet"
    path = write_fold(tmp_path, name)
    pickled = path.with_name(f"{path.name}.pkl")
    pooling = described(name)
    pooling["plans"]["plans_per_stage"][1]["pool_op_kernel_sizes"] = [[2, 2, 2]] * 5
    contents = pickle.dumps(described(name))
    for damaged, sentence in (
        (pickle.dumps({"plans": Evil(tmp_path / "made")}), r"asks for posix\.mkdir"),
        (pickle.dumps({"plans": {}}), "does not hold MultiTalent's plans"),
        (pickle.dumps(pooling), "pool_op_kernel_sizes are"),
        (contents[:200], "damaged or no pickle"),
        (b"", "damaged or no pickle"),
    ):
        pickled.write_bytes(damaged)
        with pytest.raises(InputError, match=sentence) as raised:
            import_checkpoint("multitalent", path, tmp_path / "package")
        assert "\n" not in str(raised.value)
    pickled.unlink()
    with pytest.raises(InputError, match="keep the files of a fold together"):
        import_checkpoint("multitalent", path, tmp_path / "package")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "package").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = write_fold(tmp_path, "multitalent_unet", state_dict={"conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"'conv1\.weight' is not part"):
        import_checkpoint("multitalent", path, tmp_path / "package")
    path = write_fold(tmp_path, "multitalent_unet", surprise=1)
    with pytest.raises(InputError, match="'surprise'"):
        import_checkpoint("multitalent", path, tmp_path / "package")
