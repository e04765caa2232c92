"""The command `batch`: real files, a stop, a failure, exit codes."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import Volume, __main__, read_segmentation, write_volume
from PartialSegLib.cli.terminal import write_line
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.task import PostprocessingStep

AFFINE = np.array([[0, 0, -4.0, 40], [0, 4.0, 0, -30], [5.0, 0, 0, 100], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Finds no spleen: whatever it takes for one is dropped."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    steps = (PostprocessingStep("drop_small", "spleen", voxels=10**6),)
    tasks = (TASKS[0], replace(TASKS[1], postprocessing=steps))
    preprocessing = Preprocessing("SAR", (5.0, 4.0, 4.0), (-325, 325), divide=325)
    return write_tiny_model(folder, tasks, preprocessing, mirror_axes=(2,))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "coarse"
    preprocessing = Preprocessing("SAR", (8.0, 8.0, 8.0), (-325, 325), divide=325)
    return write_tiny_model(folder, TASKS, preprocessing, gain=20, name="coarse")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        array = np.random.default_rng(ord(name)).integers(-1000, 200, (20, 24, 26)).astype(np.int16)
        write_volume(folder / f"{name}.nii.gz", Volume(array, AFFINE))
    return folder


def batch(capsys, *arguments):
    code = __main__.main(["batch", *map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_all_images_are_segmented_and_a_second_call_has_nothing_to_do(package, images, tmp_path, capsys):
    arguments = (images, "-o", tmp_path / "out", "--model", package, "--task", "spleen")
    code, out, err = batch(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.count(" s; nothing found of spleen\n") == 3
    assert read_segmentation(tmp_path / "out" / "b.seg.nrrd").keys() == [("spleen", "spleen")]
    code, out, _ = batch(capsys, *arguments)
    assert (code, out.splitlines()[0]) == (0, "3 of 3 cases were done before.")


def test_pictures_lie_beside_the_segmentations(package, images, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (images, "-o", out, "--model", package, "--task", "liver", "--pictures")
    out.mkdir()
    (out / "b.png").write_bytes(b"somebody's")
    code, _, err = batch(capsys, *arguments)
    assert (code, list(out.iterdir())) == (2, [out / "b.png"])
    assert "no batch has written" in err
    (out / "b.png").unlink()
    assert batch(capsys, images / "a.nii.gz", *arguments[1:-1])[0] == 0
    assert batch(capsys, *arguments)[0] == 0  # those that were done before have none
    assert sorted(path.name for path in out.glob("*.png")) == ["b.png", "c.png"]
    assert (out / "b.png").read_bytes().startswith(b"\x89PNG")
    (out / "b.seg.nrrd").unlink()
    assert batch(capsys, *arguments)[0] == 0


def test_what_may_be_left_out_is_part_of_the_batch(package, coarse, images, tmp_path, capsys):
    arguments = (images / "a.nii.gz", "-o", tmp_path / "out", "--model", package, "--region-from", coarse)
    arguments += ("--skip-air", "--overlap", 0.75, "--mirror", "--effort", 0.25, "--engine", "torch")
    assert batch(capsys, *arguments)[0] == 0
    provenance = read_segmentation(tmp_path / "out" / "a.seg.nrrd").provenance
    region_from = provenance["selection"]["region_from"]
    assert (region_from["model"], region_from["effort"]) == ("coarse", 0.25)
    assert (provenance["selection"]["skip_air"], provenance["engine"]) == (True, "torch")
    assert (provenance["overlap"], provenance["mirror"]) == (0.75, True)
    settings = json.loads((tmp_path / "out" / "batch.json").read_text(encoding="utf-8"))["settings"]
    identity = {name: region_from[name] for name in ("model", "model_version", "weights_sha256", "effort")}
    assert settings == {
        "overlap": 0.75, "mirror": True, "selection": "auto", "skip_air": True, "engine": "torch",
        "region_from": identity,
    }  # fmt: skip
    for changed in (arguments[:-2], (*arguments, "--effort", 0.5), (*arguments, "--selection", "off")):
        code, _, err = batch(capsys, *changed)
        assert code == 2
        assert "another batch" in err
    assert batch(capsys, *arguments, "--effort", 0.5, "--overwrite")[0] == 0
    begun_anew = read_segmentation(tmp_path / "out" / "a.seg.nrrd").provenance["selection"]
    assert begun_anew["region_from"]["effort"] == 0.5


def test_a_bad_image_fails_alone(package, images, tmp_path, capsys):
    (images / "b.nii.gz").write_text("no image")
    code, out, err = batch(capsys, images, "-o", tmp_path / "out", "--model", package, "--format", "nii.gz")
    assert code == 2
    assert err.startswith("1 of 3 cases failed; ")
    assert err.count("\n") == 1
    assert "2 of 3: b, " in out
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert "b.nii.gz" in rows["b"]["message"]
    assert rows["c"]["segmentation"] == "c.nii.gz"


def test_an_image_of_the_same_name_never_replaces_another(package, images, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (images / "b.nii.gz").rename(tmp_path / "other" / "a.nii.gz")
    arguments = ("-o", tmp_path / "out", "--model", package, "--format", "folder", "--task", "spleen")
    assert batch(capsys, images / "a.nii.gz", *arguments)[0] == 0
    before = (tmp_path / "out" / "a" / "spleen.nii.gz").stat().st_mtime_ns
    code, out, err = batch(capsys, tmp_path / "other", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"is {images / 'a.nii.gz'}, and {tmp_path / 'other' / 'a.nii.gz'} would replace it" in err
    assert (tmp_path / "out" / "a" / "spleen.nii.gz").stat().st_mtime_ns == before


def test_cases_with_dots_in_their_names_become_folders(package, images, tmp_path, capsys):
    (images / "a.nii.gz").rename(images / "1.2.840.nii.gz")
    (images / "b.nii.gz").rename(images / "c.nrrd.nii.gz")
    arguments = (images, "-o", tmp_path / "out", "--model", package, "--format", "folder")
    assert batch(capsys, *arguments, "--structure", "liver tumor")[0] == 0
    masks = [str(path.relative_to(tmp_path / "out")) for path in sorted((tmp_path / "out").glob("*/*.gz"))]
    assert masks == [f"{case}/liver_tumor.nii.gz" for case in ("1.2.840", "c", "c.nrrd")]


def test_a_line_is_written_at_once(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(file), newline=""))
    write_line("1 of 3")
    assert file.getvalue() == b"1 of 3\n"


def test_a_doubtful_image_needs_force(package, images, tmp_path, capsys):
    array = np.random.default_rng(0).integers(0, 255, (20, 24, 26)).astype(np.uint8)
    write_volume(images / "b.nii.gz", Volume(array, AFFINE))
    arguments = (images / "b.nii.gz", "-o", tmp_path / "out", "--model", package)
    assert batch(capsys, *arguments)[0] == 2
    assert batch(capsys, *arguments, "--force")[0] == 0
    array = np.random.default_rng(0).integers(-1000, 200, (20, 24, 26)).astype(np.int16)
    write_volume(images / "c.nii.gz", Volume(array, AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1])))
    code, out, _ = batch(capsys, images / "c.nii.gz", *arguments[1:])
    assert code == 2
    assert "is 0.104 mm wide; the spacing may be in other units than mm; correct it, or add --force" in out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--task", "livre"), 2, "Unknown task 'livre'"),
        (("--format", ".stl"), 2, "Unknown output format '.stl'"),
        (("--device", "cuda:9"), 3, "cuda:9"),
        (("--model", "nowhere"), 2, "Unknown model 'nowhere'"),
        (("--region-from", "nowhere"), 2, "Unknown model 'nowhere'"),
        (("--effort", "0.5"), 2, "name it with --region-from"),
        (("--engine", "steam"), 2, "Unknown engine 'steam'"),
        (("--selection", "exact"), 2, "has no decision network"),
    ],
)
def test_wrong_usage_has_its_exit_code(package, images, tmp_path, capsys, options, code, sentence):
    arguments = ["batch", str(images), "-o", str(tmp_path / "out"), "--model", str(package), *options]
    assert __main__.main(arguments) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_batch_whose_output_nobody_reads_any_more_goes_on(package, images, tmp_path):
    command = [sys.executable, "-m", "PartialSegLib", "batch", images, "-o", tmp_path / "out"]
    command += ["--model", package, "--device", "cpu"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"1 of 3: a")
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
    assert len(list((tmp_path / "out").glob("*.seg.nrrd"))) == 3


def test_a_batch_in_the_background_outlives_its_terminal(package, images, tmp_path):
    """As behind & and disown, where nothing but its output tells it that the terminal was closed."""
    termios = pytest.importorskip("termios", reason="pseudo-terminals exist on Unix only")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "PartialSegLib", "batch", images, "-o", tmp_path / "out"]
    command += ["--model", package, "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"1 of 3: a" not in shown:
        shown += os.read(ours, 1000)
    os.close(ours)
    assert process.wait(60) == 0
    assert len(list((tmp_path / "out").glob("*.seg.nrrd"))) == 3


def test_an_interrupted_batch_leaves_whole_files_and_goes_on(package, images, tmp_path, capsys):
    for number in range(60):  # it is not quicker than the signal
        shutil.copy(images / "a.nii.gz", images / f"more-{number}.nii.gz")
    command = [sys.executable, "-m", "PartialSegLib", "batch", images, "-o", tmp_path / "out"]
    command += ["--model", package, "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    summary = tmp_path / "out" / "summary.csv"
    while not summary.exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"Interrupted; unfinished output was removed.\n")
    assert not list((tmp_path / "out").glob(".*"))
    three = [images / f"{name}.nii.gz" for name in "abc"]
    code, out, _ = batch(capsys, *three, "-o", tmp_path / "out", "--model", package)
    assert (code, "of 3 cases were done before" in out) == (0, True)
    assert {path.name[0] for path in (tmp_path / "out").glob("?.seg.nrrd")} == set("abc")
