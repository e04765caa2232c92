"""Training on images of four channels: BraTS from weights of a network that read one."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_set_folders as folders
import numpy as np
import pytest
import torch
from training_runs import TRANSDODNET, losses_of, tiny_config

from PartialSegLib import InferenceSession, InputError, __main__, load_model
from PartialSegLib.manifest import Manifest, NetworkSpec, Preprocessing, Task, read_manifest
from PartialSegLib.model import save_model
from PartialSegLib.networks import TransDoDNet
from PartialSegLib.training import read_config, train
from PartialSegLib.training.collection import Case, Collection, write_collection
from PartialSegLib.training.config import TrainingConfig
from PartialSegLib.training.data import prepare, training_cases, validation_cases
from PartialSegLib.training.data_sets.protocols import PROTOCOLS
from PartialSegLib.training.loop.workers import Workers
from PartialSegLib.training.patches.augmentation import PRESETS
from PartialSegLib.training.run import Run
from PartialSegLib.training.train import make_manifest

RECIPE = "transfer-brats-transdodnet"
NAMES = PROTOCOLS["brats"].channels
SHAPE = (36, 40, 24)


def write_patient(folder: Path, name: str, seed: int) -> Case:
    """A ball of brain with a tumour in it, 0 outside; each sequence shows other parts of the tumour."""
    rng = np.random.default_rng(seed)
    index = np.indices(SHAPE).transpose(1, 2, 3, 0)
    brain = np.linalg.norm(index - np.array(SHAPE) / 2, axis=-1) < 11
    distance = np.linalg.norm(index - np.array(SHAPE) / 2 - rng.uniform(-3, 3, 3), axis=-1)
    shown = {"flair": distance < 7, "t1ce": distance < 3, "t1": distance > 5, "t2": distance < 5}
    paths = []
    for channel, bright in shown.items():
        tissue = np.where(brain, 300 + 150 * bright + rng.integers(-20, 20, SHAPE), 0)
        paths.append(folders.save(folder / f"{name}_{channel}.nii", tissue.astype(np.int16), np.eye(4)))
    labels = np.select([distance < 3, distance < 5, distance < 7], [4, 1, 2], 0).astype(np.uint8)
    label = folders.save(folder / f"{name}_seg.nii", labels, np.eye(4))
    split = "validation" if seed == 2 else "training"
    first, *others = (path.name for path in paths)
    return Case(name, "brats", first, label.name, split, tuple(others))


@pytest.fixture(scope="module")
def brain_tumors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection file of three patients, one of them for validation."""
    folder = tmp_path_factory.mktemp("brats")
    cases = tuple(write_patient(folder, f"patient-{seed}", seed) for seed in range(3))
    write_collection(folder / "brats.json", Collection("brats", folder, {"brats": PROTOCOLS["brats"]}, cases))
    return folder / "brats.json"


@pytest.fixture(scope="module")
def one_channel_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small TransDoDNet of CT, as one trained on MOTS."""
    torch.manual_seed(5)
    arguments = {**TRANSDODNET, "num_tasks": 7}
    recipe = read_config("transdodnet")
    manifest = Manifest(
        name="mots",
        version="1.0.0",
        title="Seven tasks",
        license="CC0-1.0",
        network=NetworkSpec("TransDoDNet", arguments),
        preprocessing=recipe.preprocessing,
        inference=replace(recipe.inference, patch_size=(16, 64, 32)),
        tasks=(Task("liver", {"liver": 0}),),
    )
    folder = tmp_path_factory.mktemp("mots") / "package"
    save_model(folder, manifest, TransDoDNet(**arguments).state_dict(), "Public domain")
    return folder


def small(brain_tumors: Path, package: Path, output: Path, **changes: Any) -> TrainingConfig:
    """The recipe with a small network, four steps and its own transfer."""
    recipe = read_config(RECIPE)
    values: dict[str, Any] = {
        "output": str(output), "precision": "float32", "workers": 0, "validate_every": 0,
        "network_arguments": {**recipe.network_arguments, **TRANSDODNET},
        "inference.patch_size": [16, 64, 32], "transfer.package": str(package),
        "collection.collection": str(brain_tumors), "collection.validation_patches": 2,
        "collection.prepared": str(brain_tumors.parent / "prepared"),
        "phases": [{"iterations": 4, "epoch": 2, "optimizer": "adamw", "learning_rate": 0.002}],
        **changes,
    }  # fmt: skip
    return read_config(RECIPE, [f"{key}={json.dumps(value)}" for key, value in values.items()])


@pytest.fixture(scope="module")
def trained(brain_tumors: Path, one_channel_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe; its package is in `package/`."""
    output = tmp_path_factory.mktemp("run")
    train(small(brain_tumors, one_channel_package, output))
    return output


def test_the_recipe_is_that_of_the_paper():
    config = read_config(RECIPE)
    (phase,) = config.phases
    assert (phase.optimizer, phase.learning_rate, config.batch_size) == ("adamw", 2e-4, 2)
    assert phase.iterations == 1000 * phase.epoch
    assert phase.epoch == 143  # 285 cases in batches of 2
    assert [channel.name for channel in config.preprocessing.image_channels] == list(NAMES)
    assert config.network_arguments == {"num_structures": 3, "in_channels": 4}
    assert config.package["tasks"][0]["structures"].keys() == PROTOCOLS["brats"].structures.keys()
    assert config.preprocessing.spacing == (1, 1, 1)


def test_the_first_layer_starts_as_copies_of_its_only_channel(
    brain_tumors: Path, one_channel_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = small(brain_tumors, one_channel_package, tmp_path)
    with caplog.at_level(logging.INFO):
        run = Run(config, make_manifest(config).network.arguments, Workers())
    before, after = load_model(one_channel_package).network.state_dict(), run.network.state_dict()
    (first,) = (name for name in after if after[name].ndim == 5 and after[name].shape[1] == 4)
    for channel in after[first].unbind(1):
        assert torch.allclose(channel, before[first][:, 0] / 4)
    assert after.keys() - before.keys() == {"head.weight", "head.bias"}
    for name, value in after.items():
        if name != first and not name.startswith("head."):
            assert torch.equal(value, before[name]), name
    assert "1 adapted" in caplog.text


def test_a_few_steps_write_a_package_of_four_channels(trained: Path):
    losses = losses_of(trained)
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    manifest = read_manifest(trained / "package")
    assert manifest.modality == "MR"
    assert manifest.network.arguments["in_channels"] == 4
    assert [channel.normalization for channel in manifest.preprocessing.image_channels] == ["z-score"] * 4
    validated = (trained / "validation.csv").read_text()
    assert "brain tumour" in validated
    assert (trained / "validation.png").stat().st_size > 0
    network: Any = load_model(trained / "package").network
    assert network(torch.zeros(1, 4, 16, 64, 32), 0).shape == (1, 3, 16, 64, 32)


def test_the_session_says_that_it_segments_ct(trained: Path):
    message = "Model brats-from-mots-transdodnet reads images with the channels flair, t1ce, t1, t2, and only"
    with pytest.raises(InputError, match=message):
        InferenceSession(load_model(trained / "package"), "cpu")


def test_info_lists_the_channels(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert __main__.main(["info", str(trained / "package")]) == 0
    listed = "flair (z-score), t1ce (z-score), t1 (z-score), t2 (z-score)"
    assert listed in capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS)
def test_patches_have_four_channels_and_three_regions(
    preset: str, brain_tumors: Path, one_channel_package: Path, tmp_path: Path
):
    config = small(brain_tumors, one_channel_package, tmp_path, **{"collection.augmentation": preset})
    manifest = make_manifest(config)
    prepare(config, manifest)
    watched = validation_cases(config, manifest, 3)
    assert watched is not None
    for data in (training_cases(config, manifest, 3), watched):
        for cases in (data[index] for index in range(2)):
            assert (cases.image.shape, cases.image.dtype) == ((4, 16, 64, 32), torch.float32)
            assert cases.annotated.all()
            whole, core, enhancing = cases.target[0]
            assert not (core & ~whole).any()
            assert not (enhancing & ~core).any()
    clean = watched[0]
    assert clean.target[0, 2].any()
    assert clean.image[1][clean.target[0, 2]].mean() > 1  # enhancing tumour is bright in t1ce
    assert clean.image[2][clean.target[0, 2]].mean() < 0  # and dark in t1


def test_channels_and_network_have_to_agree(brain_tumors: Path, one_channel_package: Path, tmp_path: Path):
    config = small(brain_tumors, one_channel_package, tmp_path)
    one = replace(config, network_arguments={**config.network_arguments, "in_channels": 1})
    with pytest.raises(
        InputError, match=r"expected one for each of the network's 1 image channels .*, got 4"
    ):
        make_manifest(one)
    ct = replace(config, preprocessing=replace(config.preprocessing, channels=None))
    with pytest.raises(
        InputError, match=r"expected one for each of the network's 4 image channels .*, got 1"
    ):
        make_manifest(ct)


def test_synthetic_images_have_one_channel(tmp_path: Path):
    channels = [{"name": "t1"}]
    config = tiny_config(tmp_path, preprocessing={"channels": channels})
    with pytest.raises(
        InputError, match=r"preprocessing\.channels: synthetic images are CT with one channel"
    ):
        train(config)


def test_the_body_is_not_looked_for_in_several_channels():
    with pytest.raises(InputError, match="crop_to_body: the body is found in one CT"):
        Preprocessing(
            "SPL", (1, 1, 1), (-1, 1), crop_to_body=True, channels=read_config(RECIPE).preprocessing.channels
        )
