"""Training on synthetic cases: data a function of the seed, runs learn, packages load."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from collection_on_disk import DATA_SETS, write_collection_files
from training_runs import losses_of, tiny_config, tiny_values

import PartialSegLib
from PartialSegLib.__main__ import main as partialseg
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Task, read_manifest
from PartialSegLib.networks import NETWORKS
from PartialSegLib.phantom import Tissue
from PartialSegLib.training import train
from PartialSegLib.training.__main__ import main
from PartialSegLib.training.atlas import with_varied_organs
from PartialSegLib.training.cases import SyntheticCases, deform_atlas, task_labels
from PartialSegLib.training.collection import write_collection
from PartialSegLib.training.data import training_collection
from PartialSegLib.training.loop.steps import run_folder
from PartialSegLib.training.loop.workers import Workers
from PartialSegLib.training.run import Run
from PartialSegLib.training.tissue_head import TissueHead, sample_voxels
from PartialSegLib.training.train import make_manifest, save_package

# torch 2.13's bfloat16 convolution on CPUs has a wrong weight gradient where an image is 2 voxels deep
NO_STAGE_2_DEEP = [48, 16, 16]


def test_each_case_is_labelled_for_its_task_only() -> None:
    tissues = np.array([[[Tissue.LIVER, Tissue.LIVER_TUMOR, Tissue.SPLEEN, Tissue.COLON_TUMOR]]], np.uint8)
    target, annotated = task_labels(tissues, Task("liver", {"liver": 0, "liver_tumor": 1}), 2)
    assert target.flatten(1).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert annotated.tolist() == [True, True]
    target, annotated = task_labels(tissues, Task("colon", {"colon_tumor": 1}), 2)
    assert target[1].flatten().tolist() == [False, False, False, True]
    assert annotated.tolist() == [False, True]


def test_cases_are_a_function_of_seed_and_index(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    cases = SyntheticCases(config, make_manifest(config).tasks, 2, 10)
    first, second = cases[4], SyntheticCases(config, cases.tasks, 2, 10)[4]
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.image, cases[5].image)
    watched = SyntheticCases(config, cases.tasks, 2, 10, "validation")
    assert not any(torch.equal(cases[one].image, watched[other].image) for one, other in ((1, 0), (4, 4)))
    assert len(first.tasks) == 1


def test_voxels_are_sampled_by_the_square_root_of_a_tissue_s_volume() -> None:
    tissues = np.full((10, 10, 10), Tissue.FAT, np.uint8)
    tissues.ravel()[::40] = Tissue.SPLEEN  # 25 voxels
    voxels = sample_voxels(tissues, 400, np.random.default_rng(0))
    share = (tissues.ravel()[voxels] == Tissue.SPLEEN).mean()
    assert share == pytest.approx(5 / (5 + math.sqrt(975)), abs=0.01)
    assert len(voxels) == pytest.approx(400, abs=2)


def test_the_tissue_head_reads_the_features_of_the_sampled_voxels() -> None:
    torch.manual_seed(0)
    head = TissueHead(3)
    features = torch.randn(1, 3, 2, 3, 4, requires_grad=True)
    voxels = torch.tensor([5, 23])
    loss = head.loss(features, voxels, torch.tensor([int(Tissue.LIVER), int(Tissue.BONE)]))
    rows = features[0].flatten(1)[:, voxels].T
    chosen = head(rows).log_softmax(1)[[0, 1], [Tissue.LIVER, Tissue.BONE]]
    assert loss.item() == pytest.approx(float(-chosen.mean().detach()), abs=1e-5)
    loss.backward()
    assert features.grad is not None
    assert features.grad[0].abs().sum(0).flatten().nonzero().flatten().tolist() == [5, 23]


def test_the_first_steps_train_the_tissue_head_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tissue={"weight": 1.0, "iterations": 6}, ema_decay=0.0)
    before = Run(config, make_manifest(config).network.arguments, Workers()).network.state_dict()
    after = PartialSegLib.load_model(train(config)).network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name].half().float())}
    assert "stem.weight" in changed
    assert not any(name.startswith("controller.") for name in changed)


def test_the_atlas_is_deformed_onto_the_grid_of_the_patch() -> None:
    atlas = np.full((60, 120, 120), Tissue.AIR, np.uint8)
    atlas[10:50, 20:100, 20:100] = Tissue.VISCERAL_FAT
    for number, organ in enumerate((Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY_CORTEX, Tissue.PANCREAS)):
        atlas[15:45, 30 + 15 * number : 40 + 15 * number, 40:80] = organ
    rng = np.random.default_rng(2)
    axes = [np.arange(-10, 10) * 8.0, np.arange(-12, 12) * 8.0, np.arange(-12, 12) * 8.0]
    tissues = deform_atlas(atlas, axes, rng)
    assert tissues.shape == (20, 24, 24)
    assert {Tissue.LIVER, Tissue.SPLEEN, Tissue.FAT} <= set(np.unique(tissues))
    assert set(np.unique(with_varied_organs(atlas, rng))) == set(np.unique(atlas))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_package_of_a_run_segments(tmp_path: Path, optimizer: str) -> None:
    config = tiny_config(
        tmp_path,
        inference={"patch_size": NO_STAGE_2_DEEP},
        phases=[{"iterations": 2, "optimizer": optimizer}],
        precision="bfloat16",
    )
    volume = PartialSegLib.Volume(
        np.zeros((20, 30, 30), np.int16), np.diag([12.0, 14.0, 14.0, 1.0])[[2, 1, 0, 3]]
    )
    segmentation = PartialSegLib.segment(volume, train(config))
    assert [task for task, _ in segmentation] == ["liver", "liver", "colon", "spleen"]


def test_fifty_steps_learn_the_liver_of_one_phantom(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        phases=[{"iterations": 50, "optimizer": "adamw", "learning_rate": 0.01}],
        synthetic={"cases_per_image": 3, "validation_images": 0},
        checkpoint_every=50,
    )
    one = SyntheticCases(config, make_manifest(config).tasks, 2, 2)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyntheticCases, "__getitem__", lambda self, index: one)
        train(config)
    curve = losses_of(tmp_path)
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])


def test_a_run_leaves_logs_pictures_and_a_report(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, validate_every=3, workers=2, seed=1)
    train(config)
    with (tmp_path / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"3", "6"}
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Research use only" in report
    assert "waiting for data" in report
    assert "| liver | liver |" in report
    assert "Dice on 1 patches of synthetic images." in report
    assert "| steps | 6 of 1 images |" in report
    assert json.loads((tmp_path / "package" / "model.json").read_text())["training"] == {"steps": 6}
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "validation.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_package_names_the_data_of_the_run_not_those_of_the_recipe(tmp_path: Path) -> None:
    collection = write_collection_files(tmp_path, a="livers", b="livers", c="spleens", d="organs")
    livers = replace(DATA_SETS["livers"], source="a hospital", license="CC0-1.0")
    cases = (*collection.cases[:3], replace(collection.cases[3], split="validation"))
    data_sets = {**DATA_SETS, "livers": livers}
    write_collection(tmp_path / "c.json", replace(collection, data_sets=data_sets, cases=cases))
    config = tiny_config(
        tmp_path,
        synthetic=None,
        collection={"collection": str(tmp_path / "c.json"), "prepared": "p"},
        package={"training": {"data": "No real CT.", "recipe": "tiny.json"}},
        transfer={"package": "mots"},
    )
    manifest = make_manifest(config)
    weights = NETWORKS["DoDNet"](**manifest.network.arguments).state_dict()
    used = training_collection(config, manifest)
    save_package(config, manifest, used, weights, 6, tmp_path / "package")
    data = (
        "livers (2 cases, source: a hospital, licence: CC0-1.0); "
        "spleens (1 case, source: not stated, licence: not stated)"
    )
    assert read_manifest(tmp_path / "package").training == {
        "data": data,
        "recipe": "tiny.json",
        "steps": 6,
        "starts_from": "mots",
    }
    license_text = (tmp_path / "package" / "LICENSE").read_text(encoding="utf-8")
    assert f"Trained on: {data}, starting from the weights of mots\n" in license_text


def test_the_checkpoint_of_a_run_at_work_becomes_a_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path, phases=[{"iterations": 3}])
    package = train(config)
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    longer = [str(tmp_path / "config.json"), "phases[0].iterations=1000"]

    with run_folder(str(tmp_path), leads=True):  # as a run that is at work
        assert partialseg(["train", *longer, "--package-now"]) == 0

    written = tmp_path / "package-step-3"
    assert capsys.readouterr().out == f"{written}\n"
    assert read_manifest(written).training == {"steps": 3}
    assert (written / "weights.safetensors").read_bytes() == (package / "weights.safetensors").read_bytes()
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint


def test_a_run_is_packaged_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    train(tiny_config("run", phases=[{"iterations": 1}]))
    monkeypatch.chdir(tmp_path / "b")
    assert partialseg(["train", "../a/run/config.json", "--package-now"]) == 0
    assert (tmp_path / "a" / "run" / "package-step-1" / "model.json").is_file()
    assert list((tmp_path / "b").iterdir()) == []
    capsys.readouterr()


def test_without_a_checkpoint_there_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_values(tmp_path / "run")))

    assert main([str(path), "--package-now"]) == 2
    advice = "train first, or give the config.json of another run"
    assert capsys.readouterr().err == f"{tmp_path / 'run'} holds no checkpoint.pt yet; {advice}.\n"
    assert not (tmp_path / "run").exists()


def test_synthetic_images_can_be_left_unvalidated(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, synthetic={"validation_images": 0}))
    assert "not validated" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_network_that_fails_compiled_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch 2.13 does with the bundled network in bfloat16 on CPUs."""

    def compiled(_: object) -> Callable[..., object]:
        def fail(*_: object) -> None:
            raise UnboundLocalError("cannot access local variable 'buf179'")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(
        InputError, match=r"torch\.compile of PyTorch .* \(UnboundLocalError\); set compile=false"
    ):
        train(tiny_config(tmp_path, compile=True))
