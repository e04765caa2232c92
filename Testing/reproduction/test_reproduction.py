"""`make reproduce`, cut down to a few steps on coarse phantoms: every part runs to its tables."""

import json

import pytest
import reproduce

from PartialSegLib import InputError
from PartialSegLib.training.collection import DataSet
from PartialSegLib.training.data_sets.phantom_mots import PhantomMots, make_phantom_collection

COARSE = PhantomMots(7, (10.0, 10.0, 10.0), (43, 34, 43), phase="portal venous")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        command = ["reproduce.py", "-o", str(tmp_path), "--seeds", "1", "--steps", "3", *arguments]
        monkeypatch.setattr("sys.argv", command)
        reproduce.main()
        return capsys.readouterr().out

    monkeypatch.setattr(reproduce, "PHANTOMS", COARSE)
    monkeypatch.setattr(reproduce, "FEW", 2)
    monkeypatch.setattr(reproduce, "TEST", 1)
    return run


def test_every_part_ends_with_its_tables(run, tmp_path):
    shown = run("--parts", "methods", "transfer", "pseudo-labels", "--methods", "TAL", "DoDNet")
    for row in ("TAL", "DoDNet", "from scratch", "from DoDNet on MOTS", "with pseudo-labels of the organs"):
        assert f"| {row} |" in shown
    assert "abdomen/gallbladder" in shown
    made = json.loads((tmp_path / "abdomen-from-scratch-1" / "result.json").read_text())
    again = run("--parts", "transfer", "--known", str(tmp_path / "nothing"))
    assert f"{made['parameters']:,}" in again


@pytest.mark.parametrize("part", ["transfer", "pseudo-labels"])
def test_what_starts_from_another_run_asks_for_it(run, part):
    with pytest.raises(SystemExit, match="run the part methods first"):
        run("--parts", part)


def test_phantoms_cannot_be_labelled_for_what_they_do_not_have(tmp_path):
    part = (DataSet("odd", "head", {"trachea": (1,)}), 1, 1)
    with pytest.raises(InputError, match="phantoms have no trachea; expected structures of liver"):
        make_phantom_collection("odd", tmp_path / "odd", [part], COARSE)
    assert not (tmp_path / "odd").exists()
