"""Archives of nnUNetv2_export_model_to_zip: read as the folders they were made of, or refused as a whole."""

from __future__ import annotations

import json
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity_rules
import pytest
import torch
from full_disk import full_disk
from hostile_zips import member, patched
from nnunet_folder import plans_of, write_model_folder
from parity_data import official_weights
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.manifest import manifest_to_json
from PartialSegLib.model import load_model
from PartialSegLib.packages.nnunet_files import MODEL_ARCHIVE

PLAIN = "nnunet_v2_plain"
DATA_SET = "Dataset003_Liver"
FULL = f"{DATA_SET}/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; it is empty again after every test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of nnU-Net, with what its training leaves beside the checkpoints."""
    folder = tmp_path_factory.mktemp("nnUNet_results")
    for factor, fold in enumerate(("fold_0", "fold_1"), start=1):
        weights = {name: weight * factor for name, weight in official_weights(PLAIN).items()}
        write_model_folder(folder / FULL, plans_of(PLAIN), weights, fold=fold)
        (folder / FULL / fold / "validation").mkdir()
        (folder / FULL / fold / "validation" / "summary.json").write_text(
            '{"foreground_mean": {"Dice": 0.9}}'
        )
        (folder / FULL / fold / "progress.png").write_bytes(b"\x89PNG")
    (folder / FULL / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[1.0] * 3] * 50_000}))
    return folder


def exported(results: Path, archive: Path, models: tuple[str, ...] = (FULL,)) -> Path:
    """The archive that nnUNetv2_export_model_to_zip makes of models, in its order."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for model in models:
            for path in sorted((results / FULL).rglob("*")):
                if path.is_file():
                    file.write(path, f"{model}/{path.relative_to(results / FULL).as_posix()}")
        file.writestr(f"{DATA_SET}/inference_information.json", "{}")
    return archive


@pytest.fixture
def archive(results: Path, tmp_path: Path) -> Path:
    return exported(results, tmp_path / "model.zip")


@torch.inference_mode()
def logits_of(package: Path) -> Tensor:
    patch = torch.from_numpy(parity_rules.reference_input(3, (1, 1, 16, 32, 32)))
    return load_model(package).network(patch, 0)


def refused(archive: Path, sentence: str, **choice: Any) -> None:
    """The import answers with this sentence, and writes nothing."""
    before = set(archive.parent.iterdir())
    with pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$") as refusal:
        import_checkpoint("auto", archive, archive.parent / "package", **choice)
    assert str(archive) in str(refusal.value)
    assert set(archive.parent.iterdir()) == before


@pytest.mark.parametrize("folds", [(), ("1",)])
def test_an_archive_gives_what_its_folder_gives(
    results: Path, archive: Path, tmp_path: Path, folds: tuple[str, ...]
) -> None:
    of_archive = import_checkpoint("auto", archive, tmp_path / "a", folds)
    of_folder = import_checkpoint("auto", results / FULL, tmp_path / "b", folds)

    assert manifest_to_json(of_archive) == manifest_to_json(of_folder)
    assert of_archive.network.members == (1 if folds else 2)
    assert torch.equal(logits_of(tmp_path / "a"), logits_of(tmp_path / "b"))


@pytest.mark.parametrize("top", ["", "my model/", "./"])
def test_a_model_folder_zipped_by_hand_is_as_good(results: Path, tmp_path: Path, top: str) -> None:
    with zipfile.ZipFile(tmp_path / "MODEL.ZIP", "w") as file:
        for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
            file.write(results / FULL / name, f"{top}{name}")
    manifest = import_checkpoint("nnunet", tmp_path / "MODEL.ZIP", tmp_path / "package")
    assert manifest.name == "dataset003_liver-3d_fullres"


def test_of_several_configurations_one_is_unpacked(results: Path, tmp_path: Path) -> None:
    trainer = f"{DATA_SET}/nnUNetTrainer__nnUNetPlans"
    models = tuple(f"{trainer}__{name}" for name in ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"))
    archive = exported(results, tmp_path / "all.zip", models)
    refused(
        archive,
        r"all.zip holds several models \(2d, 3d_cascade_fullres, 3d_fullres, 3d_lowres\); choose one, as in "
        r"--configuration 3d_fullres, or give its folder alone\.",
    )
    refused(archive, "holds no model 3d_high; it holds 2d, 3d_cascade_fullres, ", configuration="3d_high")
    import_checkpoint("auto", archive, tmp_path / "package", configuration="3d_fullres")
    two = exported(results, tmp_path / "two.zip", models[::2])
    import_checkpoint("auto", two, tmp_path / "package")  # only one can be imported


@pytest.mark.parametrize(
    ("configuration", "sentence"),
    [
        ("2d", "2d has no three-dimensional patch, .* import that of 3d_fullres or 3d_lowres"),
        (
            "3d_cascade_fullres",
            "3d_cascade_fullres is the second stage of a cascade, .*import the model of 3d",
        ),
    ],
)
def test_models_of_slices_and_cascades_are_refused(tmp_path: Path, configuration: str, sentence: str) -> None:
    model = f"{DATA_SET}/nnUNetTrainer__nnUNetPlans__{configuration}"
    trained = {"init_args": {"configuration": configuration}}
    write_model_folder(tmp_path / "results" / model, plans_of(PLAIN), official_weights(PLAIN), **trained)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for path in (tmp_path / "results" / model).rglob("*.*"):
            file.write(path, path.relative_to(tmp_path / "results"))
    inside = f"model.zip/{model}/fold_0/checkpoint_final.pth cannot be imported from nnU-Net: "
    refused(tmp_path / "model.zip", inside + sentence)


def test_archives_of_something_else_are_refused(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    refused(tmp_path / "text.zip", "is not a zip archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("fold_0/model_final_checkpoint.model", b"nnU-Net version 1")
    refused(tmp_path / "other.zip", "holds no checkpoint_final.pth .* a trained model of nnU-Net version 2")
    refused(tmp_path / "none.zip", "There is no checkpoint")
    archive.write_bytes(archive.read_bytes()[:-5000])
    refused(archive, "is not a zip archive")


def test_what_is_wrong_inside_is_told_with_the_archives_name(results: Path, tmp_path: Path) -> None:
    checkpoint = "fold_0/checkpoint_final.pth"
    contents = (results / FULL / checkpoint).read_bytes()
    for number, (name, damaged, sentence) in enumerate(
        [
            (checkpoint, contents[:1000], r"\.zip/fold_0/checkpoint_final\.pth is damaged or not a PyTorch"),
            ("plans.json", b"{", r"is not a model of nnU-Net version 2: plans\.json cannot be read"),
            (
                checkpoint,
                b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
                "refused because loading it",
            ),
        ]
    ):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for member in ("plans.json", "dataset.json", checkpoint):
                given = damaged if member == name else (results / FULL / member).read_bytes()
                file.writestr(member, given)
        refused(archive, sentence)


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        (member("../evil"), r"'\.\./evil', which leads outside the model of nnU-Net; export the model again"),
        (member("/evil"), "'/evil', which leads outside"),
        (member(f"{FULL}/fold_2/../../../../evil/checkpoint_final.pth"), "leads outside"),
        (member("C:\\evil"), "leads outside"),
        (member(f"{FULL}/fold_2", external_attr=(stat.S_IFLNK | 0o777) << 16), "a link or a device"),
        (member(f"{FULL}/Plans.json"), "more than once"),
    ],
)
def test_members_that_mean_harm_are_refused(
    archive: Path, added: zipfile.ZipInfo, sentence: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(added, b"evil")
    refused(archive, sentence)
    assert not list(tmp_path.rglob("*evil*"))


def test_bombs_are_refused_before_unpacking(results: Path, archive: Path, tmp_path: Path) -> None:
    def overstate(info: zipfile.ZipInfo) -> None:
        info.file_size = MODEL_ARCHIVE.max_bytes + 1

    def overlap(info: zipfile.ZipInfo) -> None:
        info.compress_size *= 3

    def understate(info: zipfile.ZipInfo) -> None:
        info.file_size = 11

    checkpoint = "fold_0/checkpoint_final.pth"
    for number, (edit, sentence) in enumerate(
        [
            (overstate, r"unpacks to 687\d+ bytes, a model of nnU-Net to 68719476736 at most"),
            (overlap, "announces more bytes than it has"),
            (understate, "checkpoint_final.pth in .* is damaged"),
        ]
    ):
        copy = tmp_path / f"{number}.zip"
        copy.write_bytes(archive.read_bytes())
        refused(patched(copy, f"{FULL}/{checkpoint}", edit), sentence)
    with zipfile.ZipFile(tmp_path / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("fold_0/checkpoint_final.pth", np.zeros(20_000_000, np.uint8).tobytes())
    refused(tmp_path / "zeros.zip", "unpacks to over 100 times its size")


def test_what_is_not_read_may_shrink_as_it_likes(archive: Path, tmp_path: Path) -> None:
    """Label maps of the cross-validation, stored without compression, shrink to a thousandth."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{FULL}/fold_0/validation/liver_1.nii", bytes(3_000_000))
    assert import_checkpoint("auto", archive, tmp_path / "package").network.members == 2


def test_a_full_disk_is_told_and_leaves_nothing(archive: Path, scratch: Path) -> None:
    with full_disk():
        refused(archive, f"cannot be unpacked in {scratch} .*; free some space, or set TMPDIR")
