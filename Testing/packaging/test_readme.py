"""The examples of the README and of the documentation: Python runs, commands are understood."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from PartialSegLib import read_segmentation, read_volume, write_volume
from PartialSegLib.__main__ import build_parser
from PartialSegLib.phantom import make_phantom
from PartialSegLib.training import read_config
from PartialSegLib.training.train import make_manifest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_examples_in_python_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume("abdomen.nii.gz", make_phantom(1, (12.0, 10.0, 10.0), (24, 32, 38)).volume)
    section = (ROOT / "README.md").read_text("utf-8").split("\n## From Python\n")[1].split("\n## ")[0]
    (tmp_path / "section.md").write_text(section, "utf-8")
    examples = blocks(tmp_path / "section.md", "python")
    assert len(examples) == 3
    (tmp_path / "examples.py").write_text("".join(examples), "utf-8")
    names = runpy.run_path("examples.py")
    assert re.fullmatch(r"[\d.]+ ml\n", capsys.readouterr().out)
    written = read_segmentation("abdomen.seg.nrrd")
    assert [written.voxel_count(key) > 0 for key in written].count(True) > 2
    liver = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("liver.nii.gz"))
    assert np.array_equal(liver, names["liver"])
    assert np.array_equal(liver, written["liver"])
    assert read_volume("liver.nii.gz").same_geometry(read_volume("abdomen.nii.gz"))


def test_the_examples_for_slicer_are_python() -> None:
    examples = blocks(ROOT / "README.md", "python")
    assert len(examples) > 4
    for example in examples:
        compile(example, "README.md", "exec")


def test_commands_are_understood() -> None:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("partialseg ")]
    assert len(commands) > 20
    for command in commands:
        options, others = build_parser().parse_known_args(shlex.split(command, comments=True)[1:])
        assert not others or hasattr(options, "change"), command


def test_configurations_can_be_read(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "docs" / "training.md", "json")
    (tmp_path / "aorta-config.json").write_text(example, "utf-8")
    config = read_config(tmp_path / "aorta-config.json")
    manifest = make_manifest(config)
    assert [(task.name, dict(task.structures)) for task in manifest.tasks] == [("aorta", {"aorta": 0})]
    assert manifest.preprocessing.spacing == (4.0, 3.5, 3.5)
    assert manifest.training["recipe"] == "aorta-config.json"
