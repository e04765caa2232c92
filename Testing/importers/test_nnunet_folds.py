"""Models of nnU-Net with several folds: which are taken, and that their logits are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parity_rules
import pytest
import torch
from nnunet_folder import STRIDES, plans_of, plans_with, write_model_folder
from parity_data import official_weights
from torch import Tensor

from PartialSegLib import __main__
from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.model import load_model
from PartialSegLib.packages.nnunet_files import Choice, chosen_checkpoints, find_models
from PartialSegLib.packages.package_files import file_sha256

PLAIN = "nnunet_v2_plain"


def fold_weights(number: int, name: str = PLAIN) -> dict[str, Tensor]:
    """Of fold 0 the reference weights, of the others what their training might have made of them."""
    return {
        key: weight * (1 + number * 0.01 * torch.arange(len(weight)).view(-1, *[1] * (weight.ndim - 1)))
        for key, weight in official_weights(name).items()
    }


def write_folds(model: Path, *folds: str, name: str = PLAIN, **changes: Any) -> Path:
    """A model folder with these folds, each with weights of its own."""
    for number, fold in enumerate(folds):
        write_model_folder(model, plans_of(name), fold_weights(number, name), fold=fold, **changes)
    return model


@torch.inference_mode()
def logits_of(package: Path) -> Tensor:
    patch = torch.from_numpy(parity_rules.reference_input(3, (1, 1, 16, 32, 32)))
    return load_model(package).network(patch, 0)


@pytest.mark.parametrize("name", [PLAIN, "nnunet_v2_resenc"])
def test_two_folds_become_the_mean_of_their_logits(tmp_path: Path, name: str) -> None:
    model = write_folds(tmp_path / "model", "fold_0", "fold_1", name=name)

    manifest = import_checkpoint("auto", model, tmp_path / "both")
    for fold in ("fold_0", "fold_1"):
        import_checkpoint("nnunet", model / fold, tmp_path / fold)

    single = [logits_of(tmp_path / fold) for fold in ("fold_0", "fold_1")]
    assert not torch.allclose(single[0], single[1])
    assert torch.equal(logits_of(tmp_path / "both"), (single[0] + single[1]) / 2)
    arguments = manifest.network.arguments
    assert manifest.network.architecture == "Ensemble"
    assert (arguments["members"], manifest.network.members) == (2, 2)
    assert arguments["architecture"] == ("UNet" if name == PLAIN else "ResidualEncoderUNet")
    assert manifest.title.endswith("Dataset003_Liver, 3d_fullres, folds 0, 1")
    for fold in ("fold_0", "fold_1"):
        path = model / fold / "checkpoint_final.pth"
        assert manifest.source[f"sha256 of {fold}"] == file_sha256(path)


def test_folds_of_stu_net_are_averaged_too(tmp_path: Path) -> None:
    labels = {"background": 0, **{f"organ {n}": n for n in range(1, 15)}}
    plans = plans_with({"pool_op_kernel_sizes": [STRIDES[0], [1, 2, 2], *[[2, 2, 2]] * 3, [1, 2, 2]]})
    plans["configurations"]["3d_base"]["patch_size"] = [16, 64, 64]
    weights = official_weights("stunet_small")
    for fold in ("fold_0", "fold_1"):
        write_model_folder(tmp_path / "model", plans, weights, labels, fold)
    manifest = import_checkpoint("stunet", tmp_path / "model", tmp_path / "package")
    assert manifest.network.arguments["architecture"] == "STUNet"
    assert manifest.network.members == 2
    assert manifest.source["url"].endswith("FLARE23")


@pytest.mark.parametrize(
    ("folds", "taken"),
    [
        ((), "folds 0, 1, 2"),
        (("2",), "fold_2"),
        (("fold_1", "0", "1"), "folds 0, 1"),
        (("all",), "fold_all"),
        (("all", "2"), "folds 2, all"),
    ],
)
def test_folds_are_chosen(tmp_path: Path, folds: tuple[str, ...], taken: str) -> None:
    """Without a choice those that nnU-Net takes: all with a number."""
    model = write_folds(tmp_path / "model", "fold_0", "fold_1", "fold_2", "fold_all")
    manifest = import_checkpoint("nnunet", model, tmp_path / "package", folds)
    assert manifest.title == f"nnUNetTrainer UNet, Dataset003_Liver, 3d_fullres, {taken}"
    assert manifest.network.members == len(taken.split(", "))


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["fold_all/final"], ["fold_all/final"]),
        (["fold_10/final", "fold_9/final", "fold_0/best"], ["fold_9/final", "fold_10/final"]),
        (["fold_0/best", "fold_1/best"], ["fold_0/best", "fold_1/best"]),
        (["fold_0/best", "fold_all/final"], ["fold_all/final"]),
        (["fold_0/final", "fold_0/best", "fold_x/final"], ["fold_0/final"]),
        (["fold_0/final", "crossval_results/fold_1/plans"], ["fold_0/final"]),
    ],
)
def test_final_checkpoints_of_numbered_folds_come_first(files: list[str], taken: list[str]) -> None:
    def spelt(names: list[str]) -> list[str]:
        return [
            name.replace("/final", "/checkpoint_final.pth").replace("/best", "/checkpoint_best.pth")
            for name in names
        ]

    assert chosen_checkpoints(Path("model"), spelt(files), Choice()) == spelt(taken)


def test_a_fold_or_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = write_folds(tmp_path / "trainer__plans__3d_fullres", "fold_0", "fold_all")
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    torch.save({}, tmp_path / "dodnet.pth")
    for name, path, folds, configuration, sentence in (
        ("nnunet", model, ["7"], None, r"holds no fold_7; it holds fold_0, fold_all\.$"),
        ("nnunet", model, ["../x"], None, r"holds no fold_\.\./x; it holds fold_0, fold_all\.$"),
        ("nnunet", model, [], "2d", r"holds no model 2d; it holds 3d_fullres\.$"),
        ("nnunet", model / "fold_0", ["0"], None, "is a single fold; give the folder above it"),
        ("auto", checkpoint, ["0"], None, "is a single checkpoint; give nnU-Net's folder or .zip"),
        ("dodnet", tmp_path / "dodnet.pth", ["0"], None, "of dodnet have no folds and configurations"),
    ):
        with pytest.raises(InputError, match=f"^[^\n]*{sentence}"):
            import_checkpoint(name, path, tmp_path / "package", folds, configuration)
    assert not (tmp_path / "package").exists()


def test_folds_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    model = write_folds(tmp_path / "model", "fold_0", "fold_1")
    other = {"init_args": {"configuration": "3d_lowres"}}
    write_model_folder(model, plans_of(PLAIN), fold_weights(1), fold="fold_1", **other)
    with pytest.raises(InputError, match=r"fold_1.* was trained by another plan than .*fold_0"):
        import_checkpoint("nnunet", model, tmp_path / "package")
    weights = {**fold_weights(1), "extra": torch.zeros(1)}
    write_model_folder(model, plans_of(PLAIN), weights, fold="fold_1")
    with pytest.raises(InputError, match=r"model cannot be imported from nnU-Net: fold_1: the key 'extra'"):
        import_checkpoint("nnunet", model, tmp_path / "package")
    (model / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"fold_1.* is damaged or not a PyTorch checkpoint"):
        import_checkpoint("nnunet", model, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_data_sets_folder_holds_several_models(tmp_path: Path) -> None:
    for configuration in ("2d", "3d_lowres", "3d_fullres"):
        write_folds(tmp_path / "Dataset003" / f"nnUNetTrainer__nnUNetPlans__{configuration}", "fold_0")
    with pytest.raises(
        InputError, match=r"several models \(2d, 3d_fullres, 3d_lowres\); choose one, as in --co"
    ):
        import_checkpoint("auto", tmp_path / "Dataset003", tmp_path / "package")
    manifest = import_checkpoint("auto", tmp_path, tmp_path / "package", configuration="3d_fullres")
    assert manifest.name == "dataset003_liver-3d_fullres"


@pytest.mark.parametrize(
    ("models", "wanted", "taken"),
    [
        (["a__p__2d", "a__p__3d_fullres", "a__p__3d_cascade_fullres"], None, "a__p__3d_fullres"),
        (["a__p__3d_fullres", "b__p__3d_fullres"], "b__p__3d_fullres", "b__p__3d_fullres"),
        (["D1/a__p__3d_fullres", "D2/a__p__3d_fullres"], "D2/a__p__3d_fullres", "D2/a__p__3d_fullres"),
        (["a__p__2d"], None, "a__p__2d"),
    ],
)
def test_models_are_told_apart_by_as_little_as_will_do(
    models: list[str], wanted: str | None, taken: str
) -> None:
    files = [f"{model}/fold_0/checkpoint_final.pth" for model in models]
    assert chosen_checkpoints(Path("x"), files, Choice((), wanted)) == [
        f"{taken}/fold_0/checkpoint_final.pth"
    ]


@pytest.mark.parametrize(
    ("models", "wanted", "listed"),
    [
        (["a__p__3d_fullres", "b__p__3d_fullres"], "3d_fullres", "a__p__3d_fullres, b__p__3d_fullres"),
        (["D1/a__p__3d", "D2/a__p__3d"], None, "D1/a__p__3d, D2/a__p__3d"),
        (["a__p__2d", "a__p__3d_cascade_fullres"], None, "2d, 3d_cascade_fullres"),
    ],
)
def test_models_to_choose_from_are_listed(models: list[str], wanted: str | None, listed: str) -> None:
    files = [f"{model}/fold_0/checkpoint_final.pth" for model in models]
    first = listed.split(", ")[0]
    with pytest.raises(
        InputError, match=rf"several models \({listed}\); .* --configuration {first}, or give its folder"
    ):
        chosen_checkpoints(Path("x"), files, Choice((), wanted))


def test_a_model_in_a_model_of_the_same_name_cannot_be_told_apart(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for folder in (model / "fold_0", model / model.name / "fold_0"):
        folder.mkdir(parents=True)
        (folder / "checkpoint_final.pth").write_bytes(b"")
    with pytest.raises(InputError, match="holds a model in a model of the same name; give the folder of one"):
        find_models(model)


def test_a_path_from_within_the_model_keeps_what_lies_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_folds(tmp_path / "model", "fold_0", init_args=None)
    monkeypatch.chdir(model / "fold_0")
    manifest = import_checkpoint("nnunet", ".", tmp_path / "package")
    assert manifest.title.endswith("3d_fullres, fold_0")
    monkeypatch.chdir(model)
    assert [found.title for found in find_models(Path("."))] == ["model"]


def test_the_command_line_says_what_an_ensemble_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_folds(tmp_path / "model", "fold_0", "fold_1", "fold_2")

    def run(*arguments: Any, code: int = 0) -> str:
        assert __main__.main(["import", "nnunet", str(model), "-o", str(tmp_path / "p"), *arguments]) == code
        return capsys.readouterr().out

    first, second = run().splitlines()
    assert "dataset003_liver-3d_fullres 1.0.0, " in first
    assert second.startswith(
        "It holds 3 networks, whose logits are averaged: it takes 3 times as long as one."
    )
    assert run("--fold", "1", code=2) == ""  # the package stays as it is unless told otherwise
    assert "It holds 2 networks" in run("--fold", "0", "--fold", "2", "--replace")
    assert len(run("--fold", "1", "--configuration", "model", "--replace").splitlines()) == 1
    __main__.main(["info", str(tmp_path / "p")])
    assert "UNet(" in capsys.readouterr().out
