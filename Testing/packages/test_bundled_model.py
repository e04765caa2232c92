"""The bundled package: small, honest about itself, and it finds the organs of a phantom it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_model import TASKS, write_tiny_model

import PartialSegLib
from PartialSegLib.evaluation import dice
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.packages.installed import BUNDLED_MODELS, installed_packages
from PartialSegLib.phantom import make_phantom
from PartialSegLib.session import InferenceSession
from PartialSegLib.training import held_out
from PartialSegLib.training.held_out import FIRST_SEED

NAME = "trunk-7tasks"
ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
REAL_CT = SHARED / "ct_abdomen_contrast_dicom"


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return InferenceSession(PartialSegLib.load_model(NAME), "cpu")


def test_the_package_is_small_and_says_what_it_was_trained_on() -> None:
    (manifest,) = [m for folder, m in installed_packages() if folder.parent == BUNDLED_MODELS]
    assert manifest.name == NAME
    assert sum(entry.bytes for entry in manifest.files.values()) <= 12_000_000
    assert {"data", "recipe", "seed", "held_out", "not_for"} <= set(manifest.training)


def test_it_has_the_seven_tasks() -> None:
    tasks = {task.name: set(task.structures) for task in PartialSegLib.load_model(NAME).manifest.tasks}
    assert tasks == {
        "liver": {"liver", "liver_tumor"},
        "kidney": {"kidney", "kidney_tumor"},
        "hepatic vessel": {"hepatic_vessel", "liver_tumor"},
        "pancreas": {"pancreas", "pancreas_tumor"},
        "colon": {"colon_tumor"},
        "lung": {"lung_tumor"},
        "spleen": {"spleen"},
    }


def test_its_page_tells_the_figures_of_its_manifest_and_organs_are_good_enough() -> None:
    figures = PartialSegLib.load_model(NAME).manifest.training["held_out"]["figures"]
    for structure, least in (("liver", 0.9), ("kidney", 0.9), ("spleen", 0.9), ("pancreas", 0.7)):
        assert figures[f"{structure}/{structure}"]["dice"] >= least, structure
    page = (ROOT / "docs" / "bundled-model.md").read_text(encoding="utf-8")
    for key, found in figures.items():
        name = key.replace("/", " / ").replace("_", " ")
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        false_ml = f"{found['false_ml']:.1f}" if "false_ml" in found else "–"
        assert cells == [name, str(found["cases"]), str(found["dice"]), str(found["worst"]), false_ml]


def test_it_finds_the_organs_of_an_unseen_phantom(session: InferenceSession) -> None:
    phantom = make_phantom(FIRST_SEED, (3.0, 2.0, 2.0), (110, 170, 200), lesions={})
    session.set_image(phantom.volume)
    segmentation = session.predict(["liver", "kidney", "spleen", "pancreas"])
    for structure, least in (("liver", 0.8), ("kidney", 0.7), ("spleen", 0.7), ("pancreas", 0.5)):
        assert dice(segmentation[structure, structure], phantom.mask(structure)) >= least, structure


@pytest.mark.skipif(not REAL_CT.exists(), reason="needs the real CT in ../shared/data")
def test_it_finds_a_liver_of_human_size_on_the_right_in_a_real_ct(session: InferenceSession) -> None:
    session.set_image(PartialSegLib.read_volume(REAL_CT))
    liver = session.predict("liver")
    assert 900 < liver.volume_ml(("liver", "liver")) < 2500
    box = liver.bounding_box_mm(("liver", "liver"))
    assert box is not None
    assert sum(box[0]) / 2 > 0  # RAS: x grows to the patient's right


def test_measuring_on_phantoms_counts_them_and_names_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(held_out, "SHAPE", (24, 40, 48))
    preprocessing = Preprocessing("SAR", (8.0, 8.0, 8.0), (-325, 325), 0, 325)
    package = write_tiny_model(tmp_path / "tiny", TASKS, preprocessing)
    assert held_out.main([str(package), "--phantoms", "1"]) == 0
    assert json.loads(capsys.readouterr().out).keys() <= {"liver/liver", "liver/liver_tumor", "spleen/spleen"}
    for arguments, sentence in (([tmp_path], "model"), ([package, "--phantoms", "0"], "at least 1")):
        assert held_out.main([str(argument) for argument in arguments]) == 2
        assert sentence in capsys.readouterr().err
