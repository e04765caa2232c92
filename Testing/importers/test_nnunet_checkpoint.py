"""Checkpoints of nnU-Net: what they say of their training, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folder import plans_of, write_model_folder
from parity_data import official_weights

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.packages.nnunet_files import find_models


@pytest.mark.parametrize(
    ("stored", "axes"), [((0, 1, 2), (0, 1, 2)), ((1, 2), (1, 2)), (None, ()), ((), ()), ([0], (0,))]
)
def test_mirroring_is_offered_along_the_axes_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: Any, axes: tuple[int, ...]
) -> None:
    """None is what nnUNetTrainerNoMirroring leaves; axes are those of the network, after transposing."""
    weights = official_weights("nnunet_v2_plain")
    changes = {"inference_allowed_mirroring_axes": stored}
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, **changes)
    manifest = import_checkpoint("auto", tmp_path / "model", tmp_path / "package")
    assert manifest.inference.mirror_axes == axes
    assert ("orientation assumed" in caplog.text) == (axes != (0, 1, 2))  # else left and right were mixed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inference_allowed_mirroring_axes": 3}, "inference_allowed_mirroring_axes is 3, not some of 0, 1"),
        ({"inference_allowed_mirroring_axes": (0, "x")}, r"is \(0, 'x'\), not some of 0, 1 and 2"),
        ({"init_args": {"configuration": "2d"}}, "2d has no three-dimensional patch"),
        ({"init_args": {"configuration": "3d_cascade_fullres"}}, "is the second stage of a cascade"),
        ({"init_args": {"configuration": "3d_high"}}, "the field '3d_high' is missing"),
        ({"init_args": {"configuration": ["3d"]}}, "is missing"),
    ],
)
def test_what_the_checkpoint_says_of_itself_is_checked(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, **changes)
    with pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$"):
        import_checkpoint("auto", tmp_path / "model", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_without_init_args_it_is_3d_fullres_of_the_files_beside_it(tmp_path: Path) -> None:
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, init_args=None)
    manifest = import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    assert manifest.name == "dataset003_liver-3d_fullres"


def test_paths_may_go_up_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres"
    weights = official_weights("nnunet_v2_plain")
    checkpoint = write_model_folder(tmp_path / name, plans_of("nnunet_v2_plain"), weights)
    (checkpoint.parent / "validation").mkdir()
    monkeypatch.chdir(checkpoint.parent / "validation")
    title = import_checkpoint("auto", f"../{checkpoint.name}", tmp_path / "package").title
    assert title.endswith("fold_0")
    assert [found.title for found in find_models(Path("../.."))] == ["3d_fullres"]
    import_checkpoint("auto", "../..", tmp_path / "package", configuration="3d_fullres")


def test_folders_and_files_that_are_no_model(tmp_path: Path) -> None:
    weights = official_weights("nnunet_v2_plain")
    plans = plans_of("nnunet_v2_plain")
    checkpoint = write_model_folder(tmp_path / "model", plans, weights)
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        (tmp_path / "empty", "holds no checkpoint_final.pth"),
        (tmp_path / "none.pth", "There is no checkpoint"),
    ):
        with pytest.raises(InputError, match=sentence):
            import_checkpoint("nnunet", path, tmp_path / "package")
    (tmp_path / "model" / "plans.json").write_text("{")
    with pytest.raises(InputError, match=r"plans\.json cannot be read"):
        import_checkpoint("nnunet", checkpoint, tmp_path / "package")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged or not a PyTorch checkpoint"):
        import_checkpoint("nnunet", checkpoint, tmp_path / "package")
    torch.save({"state_dict": weights}, checkpoint)
    with pytest.raises(InputError, match="no 'network_weights'"):
        import_checkpoint("nnunet", checkpoint, tmp_path / "package")
