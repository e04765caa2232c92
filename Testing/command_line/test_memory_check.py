"""The command line says before a run that memory will not suffice, and afterwards what was taken."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import Volume, __main__, write_volume
from PartialSegLib.cli import memory_check
from PartialSegLib.manifest import Preprocessing

AFFINE = np.array([[0, 0, -4.0, 40], [0, 4.0, 0, -30], [5.0, 0, 0, 100], [0, 0, 0, 1]])


@pytest.fixture
def segment(tmp_path):
    preprocessing = Preprocessing("SAR", (5.0, 4.0, 4.0), (-325, 325), divide=325)
    package = write_tiny_model(tmp_path / "tiny", TASKS, preprocessing)
    array = np.random.default_rng(0).integers(-1000, 200, (20, 24, 26)).astype(np.int16)
    write_volume(tmp_path / "ct.nii.gz", Volume(array, AFFINE))
    given = ["segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "out.seg.nrrd", "--model", package]
    given += ["--device", "cpu", "--report", tmp_path / "report.json"]

    def run(in_own_process=False):
        command = list(map(str, given))
        if in_own_process:
            subprocess.run([sys.executable, "-m", "PartialSegLib", *command], check=True, timeout=120)
        else:
            assert __main__.main(command) == 0
        return json.loads((tmp_path / "report.json").read_text())["memory"]

    return run


def test_the_report_compares_the_prediction_with_the_peak(segment):
    memory = segment(in_own_process=True)  # the peak of this one is that of earlier tests
    assert memory.keys() == {"predicted_bytes", "peak_bytes"}
    assert 0.5 * memory["peak_bytes"] < memory["predicted_bytes"] < 2 * memory["peak_bytes"]


def test_too_little_memory_is_told_before_the_run_in_one_sentence(segment, monkeypatch, caplog):
    monkeypatch.setattr(memory_check, "available_memory", lambda: 1 << 20)
    segment()
    assert caplog.messages == [
        "The image needs about 1 MB of memory, 1 MB are free; close other programs or crop it."
    ]


def test_unknown_figures_are_no_problem(segment, monkeypatch, caplog):
    monkeypatch.setattr(memory_check, "available_memory", lambda: None)
    monkeypatch.setattr(memory_check, "peak_memory", lambda: None)
    assert segment()["peak_bytes"] is None
    assert not caplog.messages
