"""The command line as a user meets it: real files, exit codes, one sentence, nothing left behind."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from small_packages import zip_package
from tiny_model import TASKS, write_tiny_model
from unprivileged import run_unprivileged

from PartialSegLib import (
    InputError,
    Segmentation,
    Volume,
    __main__,
    read_segmentation,
    read_volume,
    write_segmentation,
    write_volume,
)
from PartialSegLib.manifest import Preprocessing

ROOT = Path(__file__).parents[2]
AFFINE = np.array([[0, 0, -4.0, 40], [0, 4.0, 0, -30], [5.0, 0, 0, 100], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    preprocessing = Preprocessing("SAR", (5.0, 4.0, 4.0), (-325, 325), 0, 325)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return write_tiny_model(folder, TASKS, preprocessing, mirror_axes=(2,), training={"data": "none"})


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    array = np.random.default_rng(0).integers(-1000, 200, (20, 24, 26)).astype(np.int16)
    path = tmp_path_factory.mktemp("images") / "ct.nii.gz"
    write_volume(path, Volume(array, AFFINE))
    return path


def partialseg(*arguments, **options):
    command = [sys.executable, "-m", "PartialSegLib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


def assert_one_sentence(run, code, pattern):
    assert run.returncode == code
    assert run.stdout == ""
    assert re.search(pattern, run.stderr)
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr


class InProcess:
    """Runs `main` in this process, where starting Python for every row of a table would take minutes."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        try:
            code = __main__.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
        captured = self._capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "no-models"))
    return InProcess(capsys)


def test_segment_writes_segments_on_the_grid_of_the_input_and_a_report(tmp_path, package, ct):
    out, report = tmp_path / "new" / "out.seg.nrrd", tmp_path / "new" / "report.json"
    run = partialseg("segment", ct, "-o", out, "--model", package, "--device", "cpu", "--report", report)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    segmentation = read_segmentation(out)
    assert segmentation.keys() == [("liver", "liver"), ("liver", "liver_tumor"), ("spleen", "spleen")]
    np.testing.assert_allclose(segmentation.affine, AFFINE, atol=1e-5)
    facts = json.loads(report.read_text())
    assert [s["structure"] for s in facts["structures"]] == ["liver", "liver_tumor", "spleen"]
    assert facts["provenance"]["model"] == "tiny"
    stages = ["read", "load_model", "estimate_memory", "preprocess", "encode", "head", "restore", "write"]
    assert sorted(facts["seconds"]) == sorted(stages)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.seg.nrrd", "report.json"]


def test_a_picture_is_drawn_when_asked_for(tmp_path, package, ct, run):
    out, picture = tmp_path / "out.nii.gz", tmp_path / "pictures" / "out.png"
    report = tmp_path / "out.json"
    given = "segment", ct, "-o", out, "--model", package, "--task", "spleen", "--report", report
    assert run(*given, "--picture", picture).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(report.read_text())["seconds"]["draw"] > 0


def test_two_runs_give_identical_files(tmp_path, package, ct, run):
    for name in ("one.seg.nrrd", "two.seg.nrrd"):
        assert run("segment", ct, "-o", tmp_path / name, "--model", package).returncode == 0
    assert (tmp_path / "one.seg.nrrd").read_bytes() == (tmp_path / "two.seg.nrrd").read_bytes()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--task", "spleen"], [("spleen", "spleen")]),
        (["--structure", "liver_tumor"], [("liver", "liver_tumor")]),
        (["--task", "liver", "--task", "spleen", "--structure", "liver", "--structure", "spleen"],
         [("liver", "liver"), ("spleen", "spleen")]),
        (["--task", "Liver,spleen", "--structure", "Liver tumor, SPLEEN"],
         [("liver", "liver_tumor"), ("spleen", "spleen")]),
    ],
)  # fmt: skip
def test_tasks_and_structures_are_chosen(tmp_path, package, ct, run, options, found):
    assert run("segment", ct, "-o", tmp_path / "out", "--model", package, *options).returncode == 0
    assert read_segmentation(tmp_path / "out").keys() == found


def test_overlap_and_mirroring_are_those_asked_for(tmp_path, package, ct, run):
    out, patches = tmp_path / "out.seg.nrrd", {}
    for options in ("", "--overlap 0", "--overlap 0.75", "--mirror"):
        assert run("segment", ct, "-o", out, "--model", package, *options.split()).returncode == 0
        result = read_segmentation(out)
        done = result.provenance["overlap"], result.provenance["mirror"]
        patches[done] = (
            result.provenance["selection"]["patches"]["of"],
            result.voxel_count(("liver", "liver")),
        )
    assert [count for count, _ in patches.values()] == [12, 8, 24, 12]
    assert list(patches) == [(0.5, False), (0, False), (0.75, False), (0.5, True)]
    assert len({voxels for _, voxels in patches.values()}) == 4


def test_a_person_learns_where_the_file_is_and_what_was_not_found(tmp_path, package, run, monkeypatch):
    array = np.full((20, 24, 26), -1000, np.int16)
    array[8:14, 8:16, 8:18] = 40
    write_volume(tmp_path / "ct.nii.gz", Volume(array, AFFINE))
    out, corner_of_air = tmp_path / "out.nii.gz", (30, 41, -31, -20, 99, 111)
    given = ["segment", tmp_path / "ct.nii.gz", "-o", out, "--model", package, "--skip-air"]
    in_a_pipe = run(*given, "--roi", *corner_of_air)
    assert (in_a_pipe.returncode, in_a_pipe.stdout, in_a_pipe.stderr) == (0, "", "")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    told = run(*given, "--roi", *corner_of_air)
    found = "Nothing found of: liver, liver tumor, spleen."
    assert told.stdout == f"The segmentation is in {out}.\n{found}\n"


def test_nothing_is_found_outside_the_region_of_interest(tmp_path, package, ct, run):
    box = np.array([(-40, -10), (-20, 20), (110, 150)])
    out = tmp_path / "out.nii.gz"
    edges = [f"{edge:.1e}" for edge in box.ravel()]  # such as -4.0e+01
    assert run("segment", ct, "-o", out, "--model", package, "--roi", *edges).returncode == 0
    voxels = np.argwhere(read_volume(out).array)
    places = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    assert (places.min(axis=0) >= box[:, 0]).all()
    assert (places.max(axis=0) <= box[:, 1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "livr"], r"Unknown task 'livr'.*perhaps you meant liver\.$"),
        (["--task", "liver,splen"], "Unknown task 'splen'"),
        (["--structure", "liver_tumour"], "perhaps you meant liver_tumor"),
        (["--overlap", "1"], "fraction in"),
        (["--device", "gpu"], "Unknown device 'gpu'"),
        (["--model", "no-such-model"], "Unknown model 'no-such-model'"),
        (["--roi", "9000", "9001", "0", "1", "0", "1"], "outside the image"),
        (["--roi", "0", "nan", "0", "1", "0", "1"], "region of interest"),
        (["--roi", "1", "2", "3"], "expected 6 arguments"),
        (["--colour"], "unrecognized arguments: --colour; see"),
        (
            ["--task", "liver", "spleen"],
            "arguments: spleen; repeat --task for each name, as in --task spleen;",
        ),
        (["--overlap", "half"], "invalid float value: 'half'"),
        (["-o", "out.png"], "A segmentation is written as"),
        (["-o", "out.dcm"], "give a folder with their DICOM series"),
        (["-o", ""], "an empty path was given"),
        (["--model", ""], "an empty name was given"),
        (["--region-from", " "], "an empty name was given"),
    ],
)
def test_a_wrong_option_is_answered_by_one_sentence(tmp_path, package, ct, run, options, message):
    given = ["segment", ct, "-o", tmp_path / "out.seg.nrrd", "--model", package, *options]
    assert_one_sentence(run(*given), 2, message)
    assert not list(tmp_path.iterdir())


def test_a_home_folder_that_the_shell_left_alone_is_known(tmp_path, package, ct, run, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copy(ct, tmp_path / "ct.nii.gz")
    before = (tmp_path / "ct.nii.gz").read_bytes()
    refused = run("segment", tmp_path / "ct.nii.gz", "--output=~/ct.nii.gz", "--model", package)
    assert (refused.returncode, "would replace the input" in refused.stderr) == (2, True)
    assert (tmp_path / "ct.nii.gz").read_bytes() == before


def test_outputs_never_replace_the_input_or_each_other(tmp_path, package, ct, run):
    shutil.copy(ct, tmp_path / "ct.nii.gz")
    shutil.copy(ct, tmp_path / "liver.nii.gz")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "slice").touch()
    for folder in ("y.seg.nrrd", "y.nii.gz", "z.labels.csv", "y.png"):
        (tmp_path / folder).mkdir()
    before = sorted(tmp_path.rglob("*"))
    for image, options, message in (
        (
            "ct.nii.gz",
            ["-o", tmp_path / "dicom" / ".." / "ct.nii.gz"],
            "segmentation would replace the input",
        ),
        ("liver.nii.gz", ["-o", tmp_path], "a mask would replace the input"),
        ("dicom", ["-o", tmp_path / "dicom"], "segmentation would replace the input"),
        ("ct.nii.gz", ["-o", tmp_path / "slice"], "a segmentation is written as"),
        ("ct.nii.gz", ["-o", tmp_path / "y.seg.nrrd"], r"y\.seg\.nrrd: A folder .* for the segmentation\."),
        ("ct.nii.gz", ["-o", tmp_path / "y.nii.gz"], r"y\.nii\.gz: A folder has this name; choose another"),
        ("ct.nii.gz", ["-o", tmp_path / "z.nii.gz"], r"z\.labels\.csv: A folder .* the table of the labels"),
        ("ct.nii.gz", ["-o", tmp_path / "x.nii.gz", "--report", tmp_path / "ct.nii.gz"], "a .json file"),
        ("ct.nii.gz", ["-o", tmp_path / "x.nii.gz", "--report", tmp_path / "x.labels.csv"], "a .json file"),
        ("ct.nii.gz", ["-o", tmp_path / "x.nii.gz", "--report", tmp_path / "dicom"], "a .json file"),
        ("ct.nii.gz", ["-o", tmp_path / "x.nii.gz", "--picture", tmp_path / "x.jpg"], "a .png file"),
        ("ct.nii.gz", ["-o", tmp_path / "x.nii.gz", "--picture", tmp_path / "y.png"], "a .png file"),
    ):
        assert_one_sentence(
            run("segment", tmp_path / image, "--model", package, *options), 2, f"(?i){message}"
        )
    assert sorted(tmp_path.rglob("*")) == before


def images_to_refuse():
    shape = (8, 9, 10)
    eight_bit = np.arange(720).reshape(shape) % 256
    in_hu = (eight_bit * 9 - 1000).astype(np.int16)
    return {
        "constant": (np.zeros(shape, np.int16), AFFINE, "constant"),
        "eight_bit": (eight_bit.astype(np.int16), AFFINE, "8-bit"),
        "mr": ((eight_bit * 9).astype(np.int16), AFFINE, "without any air"),
        "tiny": (in_hu, AFFINE @ np.diag([5e-3, 5e-3, 5e-3, 1]), "is 0.2 mm wide; the spacing may be"),
    }


@pytest.mark.parametrize("name", images_to_refuse())
def test_what_is_no_ct_of_a_patient_needs_force(tmp_path, package, run, caplog, name):
    array, affine, message = images_to_refuse()[name]
    write_volume(tmp_path / "image.nii.gz", Volume(array, affine))
    given = ["segment", tmp_path / "image.nii.gz", "-o", tmp_path / "out.seg.nrrd", "--model", package]
    assert_one_sentence(run(*given), 2, f"{message}.*add --force")
    assert re.search(message, run("info", tmp_path / "image.nii.gz").stdout)
    assert not (tmp_path / "out.seg.nrrd").exists()
    assert run(*given, "--force").returncode == 0
    assert len(re.findall(message, caplog.text)) == 1
    assert read_segmentation(tmp_path / "out.seg.nrrd").shape == array.shape


def test_an_image_that_is_a_thousand_times_too_large_is_refused_at_once(tmp_path, package, run):
    array = np.random.default_rng(0).integers(-1000, 200, (20, 24, 26)).astype(np.int16)
    write_volume(tmp_path / "metres.nii.gz", Volume(array, AFFINE @ np.diag([1000, 1000, 1000, 1])))
    given = ["segment", tmp_path / "metres.nii.gz", "-o", tmp_path / "out.nii.gz", "--model", package]
    assert_one_sentence(run(*given), 2, "is 104.0 m wide; the spacing may be in other units than mm; correct")


@pytest.mark.parametrize(
    "content", [None, b"", b"this is text, not an image\n" * 100, b"\x1f\x8b\x08\x00truncated"]
)
def test_a_broken_image_is_answered_by_one_sentence(tmp_path, content):
    image = tmp_path / "image.nii.gz"
    if content is not None:
        image.write_bytes(content)
    for command in (["segment", image, "-o", tmp_path / "out.seg.nrrd"], ["info", image]):
        assert_one_sentence(partialseg(*command), 2, r"image\.nii\.gz")
    assert not (tmp_path / "out.seg.nrrd").exists()


@pytest.mark.parametrize("shape", [(1, 24, 26), (1, 1, 1), (2000, 2, 3)])
def test_volumes_of_any_shape_are_segmented(tmp_path, package, run, shape):
    array = np.resize(np.array([-1000, 40, 60, -100], np.int16), shape)
    write_volume(tmp_path / "ct.nii.gz", Volume(array, AFFINE @ np.diag([0.2, 1, 1, 1])))
    given = [
        "segment",
        tmp_path / "ct.nii.gz",
        "-o",
        tmp_path / "out.seg.nrrd",
        "--model",
        package,
        "--force",
    ]
    assert run(*given).returncode == 0
    assert read_segmentation(tmp_path / "out.seg.nrrd").shape == shape


def test_an_output_below_a_file_is_refused_before_the_work(tmp_path, package, ct):
    (tmp_path / "file").touch()
    for options in (
        ["-o", tmp_path / "file" / "x.nii.gz"],
        ["-o", tmp_path / "x.nii.gz", "--report", tmp_path / "file" / "r.json"],
    ):
        assert_one_sentence(
            partialseg("segment", ct, "--model", package, *options), 2, "Nothing can be written"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="simulates Windows")
def test_an_output_on_a_drive_that_is_not_connected_is_refused(tmp_path, package, ct, run, monkeypatch):
    """As E: on Windows, where not even the first folder of a path need be there; simulated."""
    exists = Path.exists
    drive = [Path("/"), Path("/no such drive"), Path("/no such drive/results")]
    monkeypatch.setattr(Path, "exists", lambda path: path not in drive and exists(path))
    for command in (
        ["segment", ct, "-o", drive[2] / "x.seg.nrrd"],
        ["demo", ct, "-o", drive[2]],
        ["batch", ct, "-o", drive[2]],
    ):
        refused = run(*command, "--model", package)
        assert_one_sentence(refused, 2, "Nothing can be written .*: there is no /; connect the drive or")


def test_a_read_only_folder_is_refused(tmp_path, package, ct):
    tmp_path.chmod(0o500)
    given = ["segment", ct, "-o", tmp_path / "x.nii.gz", "--model", package]
    run = run_unprivileged(sys.executable, "-m", "PartialSegLib", *map(str, given))
    assert_one_sentence(run, 2, "Nothing can")


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz", "out"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, package, ct, run, name):
    with full_disk(64):
        segmented = run("segment", ct, "-o", tmp_path / name, "--model", package)
    assert_one_sentence(segmented, 2, "Cannot write")
    assert not list(tmp_path.iterdir())


def test_a_missing_device_has_its_own_exit_code(tmp_path, package, ct, run):
    given = ["segment", ct, "-o", tmp_path / "out.seg.nrrd", "--model", package, "--device", "cuda:99"]
    assert_one_sentence(run(*given), 3, "cuda:99")
    assert not list(tmp_path.iterdir())


def test_exhausted_memory_has_its_own_exit_code(tmp_path, package, ct, run, monkeypatch):
    def exhaust(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("PartialSegLib.session.InferenceSession.predict", exhaust)
    given = ["segment", ct, "-o", tmp_path / "out.seg.nrrd", "--model", package]
    assert_one_sentence(run(*given), 3, "Out of memory")
    assert not list(tmp_path.iterdir())


def heed_hang_up():
    """Whoever runs the tests with nohup has their processes ignore it, too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def on_terminal(tmp_path, package):
    """Starts a run on a terminal of its own; returns both when a progress bar is shown."""
    termios = pytest.importorskip("termios", reason="pseudo-terminals exist on Unix only")
    array = np.resize(np.array([-1000, 40], np.int16), (96, 128, 128))
    write_volume(tmp_path / "ct.nii.gz", Volume(array, AFFINE))
    command = [sys.executable, "-m", "PartialSegLib", "segment", tmp_path / "ct.nii.gz"]
    command += ["-o", tmp_path / "out.seg.nrrd", "--model", package, "--device", "cpu"]

    def start(*before):
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        process = subprocess.Popen(
            [*before, *command], stderr=theirs, stdout=subprocess.PIPE, cwd=ROOT, preexec_fn=heed_hang_up
        )
        os.close(theirs)
        shown = b""
        while b"patch" not in shown:
            shown += os.read(ours, 1000)
        return process, ours

    return start


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path, on_terminal, sent):
    process, terminal = on_terminal()
    process.send_signal(getattr(signal, sent))
    assert process.communicate(timeout=60)[0] == b""
    shown = os.read(terminal, 100_000)
    os.close(terminal)
    assert process.returncode == 130
    assert b"Interrupted" in shown
    assert b"Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


CTRL_BREAK = """
import signal, sys
signal.SIGBREAK = signal.SIGUSR1
from PartialSegLib import __main__
from PartialSegLib.cli import inspecting
inspecting.models = lambda options: signal.raise_signal(signal.SIGBREAK)
sys.exit(__main__.main(["models"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="another signal stands in for that of Windows")
def test_ctrl_break_on_windows_lets_a_run_tidy_up_as_ctrl_c_does():
    done = subprocess.run([sys.executable, "-c", CTRL_BREAK], capture_output=True, text=True, check=False)
    assert_one_sentence(done, 130, "Interrupted")


def test_a_run_ends_with_its_terminal(tmp_path, on_terminal):
    """A shell passes on that the terminal was closed, and the system says so once more."""
    process, terminal = on_terminal()
    os.close(terminal)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode in (2, 130)  # the bar may be the first to notice
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_a_run_outlives_its_terminal_behind_nohup(tmp_path, on_terminal):
    process, terminal = on_terminal("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz", "out.seg.nrrd"]


def test_a_name_that_begins_with_a_tilde_is_a_file_where_nobody_has_that_name(tmp_path, ct, run, monkeypatch):
    shutil.copy(ct, tmp_path / "~nobody-of-this-name.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert run("info", "~nobody-of-this-name.nii.gz").returncode == 0
    for command in (("info",), ("segment", "-o", "out.seg.nrrd"), ("batch", "-o", "out"), ("install",)):
        refused = run(*command, "~nobody-of-this-name/ct.nii.gz")
        assert_one_sentence(refused, 2, "~nobody-of-this-name/ct.nii.gz")


def test_demo_leaves_segments_picture_and_report(tmp_path, package, ct, run):
    done = run("demo", ct, "-o", tmp_path / "demo", "--model", package)
    assert done.returncode == 0
    names = ["overview.png", "report.json", "segmentation.seg.nrrd"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    assert "liver tumor" in done.stdout


def test_demo_without_matplotlib_says_so_before_the_work(tmp_path, package, ct, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = run("demo", ct, "-o", tmp_path / "demo", "--model", package)
    assert_one_sentence(refused, 2, "Pictures need matplotlib; install it with: pip install matplotlib")
    assert not (tmp_path / "demo").exists()


def test_demo_without_a_ct_compares_with_the_phantom(tmp_path, package, run, monkeypatch):
    import PartialSegLib.phantom as phantom

    small = phantom.make_phantom(1, (12.0, 8.0, 8.0), (24, 40, 48))
    monkeypatch.setattr(phantom, "make_phantom", lambda seed: small)
    done = run("demo", "-o", tmp_path / "demo", "--model", package)
    assert done.returncode == 0
    assert re.search(r"structure +volume \(ml\) +true \(ml\) +Dice", done.stdout)
    assert np.array_equal(read_volume(tmp_path / "demo" / "phantom.nii.gz").array, small.volume.array)


def test_a_demo_leaves_nothing_of_an_earlier_one_beside_its_segmentation(tmp_path, package, ct, run):
    demo = tmp_path / "demo"
    (demo / "overview.png").mkdir(parents=True)  # so that the picture cannot be written
    for name in ("notes.txt", "report.json"):
        (demo / name).write_text("old")
    phantom = Path(shutil.copy(ct, demo / "phantom.nii.gz"))
    with full_disk(64):
        assert run("demo", ct, "-o", demo, "--model", package).returncode == 2
    assert (demo / "report.json").exists()
    for image, is_kept in ((phantom, True), (ct, False)):  # an input is never removed
        segmented = run("demo", image, "-o", demo, "--model", package)
        assert_one_sentence(segmented, 2, r"overview\.png: Is a directory")
        assert phantom.exists() == is_kept
    names = ["notes.txt", "overview.png", "segmentation.seg.nrrd"]
    assert sorted(path.name for path in demo.iterdir()) == names


def test_models_and_info_describe_a_package(package, run, monkeypatch):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(package.parent))
    assert re.search(r"tiny 1\.2\.3 +CC0-1\.0 +\S+ MB +liver +liver, liver_tumor\n", run("models").stdout)
    for name in ("tiny", package, package / "model.json"):
        text = run("info", name).stdout
        assert re.search(r"parameters +[\d,]+\n", text)
        shares = r"[\d.]+ for all tasks: features [\d.]+ \([\d.]+%\), each task [\d.]+"
        assert re.search(rf"GFLOPs per patch +{shares}\n", text)
        assert re.search(r"spacing \(z, y, x\) +5 × 4 × 4 mm\n", text)
        assert re.search(r"training: data +none\n", text)


def test_info_prints_figures_that_somebody_else_noted_as_they_are(tmp_path, run):
    preprocessing = Preprocessing("SPL", (5.0, 4.0, 4.0), (-200, 300))
    figures = {"held_out": {"dice": {"liver": 0.9}}}
    folder = write_tiny_model(tmp_path / "other", TASKS, preprocessing, training=figures)
    assert re.search(r"training: held_out +\{'dice': \{'liver': 0.9\}\}\n", run("info", folder).stdout)


def test_info_describes_a_volume_and_a_segmentation(tmp_path, package, ct, run):
    text = run("info", ct).stdout
    assert re.search(r"size \(x, y, z\) +26 × 24 × 20\n", text)
    assert re.search(r"spacing \(x, y, z\) +4 × 4 × 5 mm\n", text)
    assert re.search(r"orientation +LAS", text)
    assert re.search(r"size of a patient +plausible\nCT in HU +plausible\n", text)
    for name in ("out.seg.nrrd", "out.nii.gz", "out"):
        run("segment", ct, "-o", tmp_path / name, "--model", package)
        text = run("info", tmp_path / name).stdout
        assert re.search(r"spacing \(x, y, z\) +4 × 4 × 5 mm\n", text)
        assert re.search(r"\nspleen +spleen +[\d.]+\n", text)
    text = run("info", tmp_path / "out.seg.nrrd").stdout
    assert re.search(r"model +tiny\n", text)
    assert re.search(r"selection +patches 12 of 12, slices off\n", text)
    assert max(map(len, text.splitlines())) < 150


def test_import_names_the_package_it_wrote_or_the_fault(tmp_path, run):
    (tmp_path / "checkpoint.pth").write_bytes(b"no checkpoint")
    given = ["dodnet", tmp_path / "checkpoint.pth", "-o", tmp_path / "package"]
    assert_one_sentence(run("import", *given), 2, "checkpoint")
    assert_one_sentence(run("import", "unet", *given[1:]), 2, "Unknown importer 'unet'")
    assert not (tmp_path / "package").exists()


def test_a_package_is_installed_from_its_zip_and_used_by_its_name(tmp_path, package, ct, run):
    archive = zip_package(package, tmp_path / "tiny.zip", "tiny/")
    given = ["segment", ct, "-o", tmp_path / "out.seg.nrrd", "--task", "spleen"]
    assert_one_sentence(
        run(*given, "--model", archive), 2, "is a file, .*'partialseg install' and give the name"
    )
    assert run("install", archive).stdout.rstrip().endswith(" MB")
    assert run(*given, "--model", "tiny").returncode == 0
    assert_one_sentence(run("install", package), 2, "tiny is installed already, .* --replace")
    assert run("install", package, "--replace").returncode == 0
    assert_one_sentence(run("install", tmp_path / "no.zip"), 2, "There is no model package at")


def test_info_of_nothing_names_what_was_looked_for(run):
    assert_one_sentence(run("info", "missing.nii.gz"), 2, "There is no file or model missing.nii.gz; check")
    assert_one_sentence(run("info", "trunk-7task"), 2, "no file or model trunk-7task; .*meant trunk-7tasks")


def test_evaluate_scores_files_and_folders(tmp_path, package, ct, run, caplog):
    for name in (
        "predictions/a.seg.nrrd",
        "predictions/b.nii.gz",
        "references/a.nii.gz",
        "references/b.seg.nrrd",
    ):
        assert (
            run("segment", ct, "-o", tmp_path / name, "--model", package, "--task", "spleen").returncode == 0
        )
    single = run("evaluate", tmp_path / "predictions" / "a.seg.nrrd", tmp_path / "references" / "a.nii.gz")
    assert re.search(r"spleen +spleen +1\.000 +1\.000 +0\.0", single.stdout)
    folders = [tmp_path / "predictions", tmp_path / "references"]
    assert "mean of 2" in run("evaluate", *folders).stdout
    assert run("evaluate", *folders, "--structure", "spleen", "-o", tmp_path / "scores.csv").stdout == ""
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [(row["case"], row["dice"]) for row in csv.DictReader(file)] == [("a", "1.0"), ("b", "1.0")]
    assert_one_sentence(run("evaluate", *folders, "-o", tmp_path / "x.txt"), 2, r"\.csv or \.json")
    place = tmp_path / "scores.csv" / "scores.csv"
    assert_one_sentence(run("evaluate", *folders, "-o", place), 2, "is no writable folder; choose another")
    assert_one_sentence(run("evaluate", *folders, "--structure", "liver"), 2, "No prediction has liver")
    assert_one_sentence(
        run("evaluate", *folders, "--tolerance", "-1"), 2, "distance in mm, such as 3, not -1"
    )


def test_means_tell_apart_who_has_a_structure(tmp_path, run):
    for case, has_tumor in (("a", True), ("b", False), ("c", False)):
        found, truth = Segmentation((8, 12, 12), AFFINE), Segmentation((8, 12, 12), AFFINE)
        organ = np.zeros((8, 12, 12), bool)
        organ[2:6, 2:9, 2:9] = True
        tumor = organ & has_tumor
        tumor[4:] = False
        for segmentation, mask in ((found, tumor & False), (truth, tumor)):
            segmentation.add("liver", "liver", None, organ)
            segmentation.add("liver", "liver_tumor", None, mask)
        write_segmentation(tmp_path / "found" / f"{case}.seg.nrrd", found)
        write_segmentation(tmp_path / "truth" / f"{case}.seg.nrrd", truth)
    table = run("evaluate", tmp_path / "found", tmp_path / "truth").stdout
    assert re.search(r"mean of 3 +liver +liver_tumor +0\.667", table)
    assert re.search(r"mean of 1 with it +liver +liver_tumor +0\.000", table)
    assert "with it  liver  liver " not in re.sub(" +", "  ", table)


def test_evaluate_heeds_its_tolerance_and_what_shall_be_empty(tmp_path, run):
    predicted, expected = (Segmentation((8, 12, 12), AFFINE) for _ in range(2))
    for row, segmentation in enumerate((predicted, expected), start=3):
        mask = np.zeros(segmentation.shape, bool)
        mask[2:6, row : row + 5, 3:8] = True  # 4 mm apart
        segmentation.add("liver", "liver", None, mask)
    predicted.add("liver", "liver_tumor", None, mask)
    files = [tmp_path / "p.seg.nrrd", tmp_path / "r.seg.nrrd"]
    for file, segmentation in zip(files, (predicted, expected), strict=True):
        write_segmentation(file, segmentation)

    def scores(*options):
        assert run("evaluate", *files, "-o", tmp_path / "s.json", *options).returncode == 0
        return json.loads((tmp_path / "s.json").read_text())

    for options, tolerance, agrees in (((), 3, False), (("--tolerance", 4), 4, True)):
        (liver,) = scores(*options)
        assert (liver["structure"], liver["tolerance_mm"], liver["nsd"] == 1) == ("liver", tolerance, agrees)
    found = {score["structure"]: score["dice"] for score in scores("--absent-is-empty")}
    both = scores("--absent-is-empty", "--structure", "Liver, liver_tumor")
    assert {score["structure"]: score["dice"] for score in both} == found
    assert found == {"liver": liver["dice"], "liver_tumor": 0}


def test_evaluate_scores_what_can_be_scored_and_names_the_rest(tmp_path, run, caplog):
    array = np.zeros((6, 8, 8), np.uint8)
    array[:3], array[:1] = 1, 2
    for name in ("p/a_0000", "p/b_0000", "labelsTr/a", "labelsTr/b"):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(array, AFFINE))
    (tmp_path / "p" / "dataset.json").write_text(
        '{"labels": {"background": 0, "Liver": [1, 2], "cancer": 2}}'
    )
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver", "2": "cancer"}}')
    given = ["evaluate", tmp_path / "p", tmp_path / "labelsTr", "-o", tmp_path / "scores.csv"]

    def scores(*options):
        assert run(*given, *options).returncode == 0
        with (tmp_path / "scores.csv").open(newline="") as file:
            return {(row["case"], row["structure"]): float(row["dice"]) for row in csv.DictReader(file)}

    perfect = {(case, structure): 1 for case in "ab" for structure in ("liver", "liver_tumor")}
    for labels in ("1=liver,2=liver,2=liver_tumor", "1=liver,2=liver_tumor", "lits", "MSD-Liver"):
        assert scores("--labels", labels) == perfect
    assert scores() == perfect
    assert scores("--structure", "Liver tumour").keys() == {("a", "liver_tumor"), ("b", "liver_tumor")}
    assert_one_sentence(run(*given, "--labels", "liver=1"), 2, "expected VALUE=STRUCTURE")
    assert_one_sentence(run(*given, "--labels", "kits"), 2, "or a data set; perhaps you meant kits19.")
    (tmp_path / "labelsTr" / "b.nii.gz").write_text("no image")
    (tmp_path / "scores.csv").unlink()
    assert_one_sentence(run(*given), 2, "1 of 2 cases could not be scored")
    assert re.search(r"^b: .*b\.nii\.gz", caplog.messages[-1])
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3
    (tmp_path / "p" / "b_0000.nii.gz").unlink()
    assert_one_sentence(run(*given), 2, "1 of 2 cases could not be scored")
    assert caplog.messages[-1] == "1 reference has no prediction and is left out: b."
    (tmp_path / "dataset.json").unlink()
    write_volume(tmp_path / "labelsTr" / "a.nii.gz", Volume(array // 2, AFFINE))
    assert_one_sentence(run(*given), 2, "No case could be scored")
    assert re.search(
        r"^a: .*a\.nii\.gz: Nothing says which .* --labels 1=liver_tumor\.$", caplog.messages[-1]
    )
    assert_one_sentence(run(*given, "--labels", "1=liver"), 2, "1 of 2 cases")


def test_labels_of_references_do_not_overrule_those_of_predictions(tmp_path, run):
    array = np.zeros((6, 8, 8), np.uint8)
    array[:3], array[4:] = 1, 6  # spleen and liver of BTCV
    write_volume(tmp_path / "r.nii.gz", Volume(array, AFFINE))
    array[:3], array[4:] = 2, 1
    (tmp_path / "p").mkdir()
    write_volume(tmp_path / "p" / "a.nii.gz", Volume(array, AFFINE))

    def dice(*options):
        given = ["evaluate", tmp_path / "p" / "a.nii.gz", tmp_path / "r.nii.gz", "-o", tmp_path / "s.json"]
        assert run(*given, "--labels", "1=spleen,6=liver", *options).returncode == 0
        scores = json.loads((tmp_path / "s.json").read_text())
        return {score["structure"]: score["dice"] for score in scores if score["reference_ml"]}

    assert dice() == {"spleen": 0, "liver": 0}
    assert dice("--prediction-labels", "1=liver,2=spleen") == {"spleen": 1, "liver": 1}
    (tmp_path / "p" / "dataset.json").write_text('{"labels": {"liver": 1, "spleen": 2}}')
    assert dice() == {"spleen": 1, "liver": 1}
    assert dice("--prediction-labels", "2=liver,1=spleen") == {"spleen": 0, "liver": 0}


def test_masks_of_other_origin_are_refused_before_the_work(tmp_path, package, ct, run):
    given = ["segment", ct, "--model", package, "--task", "spleen", "-o", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spleen.nii.gz").write_text("by hand")
    assert_one_sentence(run(*given), 2, r"not of an earlier run .*: spleen\.nii\.gz; choose another folder")
    (tmp_path / "out" / "labels.csv").write_text("label,task,structure\nliver.nii.gz,,liver\n")
    assert_one_sentence(run(*given), 2, r"not of an earlier run .*: spleen\.nii\.gz; choose another folder")
    (tmp_path / "out" / "spleen.nii.gz").unlink()
    assert run(*given).returncode == run(*given).returncode == 0


def test_without_a_command_the_usage_is_pointed_to(run):
    assert_one_sentence(run(), 2, "COMMAND; see partialseg --help")
    assert run("--help").returncode == 0
    assert run("--version").stdout.startswith("partialseg ")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["Segment", "ct.nii.gz"], "there is no command 'Segment'; perhaps you meant segment;"),
        (["ct.nii.gz"], "there is no command 'ct.nii.gz'; choose from segment, demo, batch,"),
        (["--device", "cpu", "segment"], "options follow the command, as in partialseg segment CT"),
        (["segment", "--task", "liver", "kidney", "a.nii", "-o", "b"], "as in --task kidney; see"),
        (["segment", "--task=liver", "kidney", "a.nii", "-o", "b"], "as in --task kidney; see"),
    ],
)
def test_slips_in_the_order_of_words_are_told_by_what_was_meant(run, given, sentence):
    assert_one_sentence(run(*given), 2, re.escape(sentence))


def test_devices_and_formats_may_be_in_capitals(tmp_path, package, ct, run):
    given = ["batch", ct, "-o", tmp_path / "out", "--model", package, "--task", "spleen"]
    assert run(*given, "--device", "CPU", "--format", "NII.GZ").returncode == 0
    assert (tmp_path / "out" / "ct.nii.gz").exists()
    scores = tmp_path / "out" / "summary.csv"
    evaluated = run("evaluate", tmp_path / "out", tmp_path / "out", "-o", scores)
    assert_one_sentence(evaluated, 2, "is the table of a batch; choose another name")


def test_labels_given_as_nothing_are_refused(run):
    for option in ("--labels", "--prediction-labels"):
        assert_one_sentence(run("evaluate", "a", "b", option, ""), 2, f"{option} '': expected VALUE=STRUC")


def test_the_current_folder_and_names_with_dots_are_folders(tmp_path, package, ct, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "patient.001", "1.2.840.10"):
        given = ["segment", ct, "-o", folder, "--model", package, "--task", "spleen"]
        assert run(*given).returncode == 0
        assert [path.name for path in Path(folder).glob("*.*z")] == ["spleen.nii.gz"]
    assert sorted(os.listdir()) == ["1.2.840.10", "labels.csv", "patient.001", "spleen.nii.gz"]


def test_characters_that_an_encoding_lacks_and_closed_streams_are_no_error(ct):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1251"}
    described = partialseg("info", ct, env=environment)
    assert described.returncode == 0
    assert "26 ? 24 ? 20" in described.stdout
    closed = subprocess.run(f"{sys.executable} -m PartialSegLib info {ct} >&- 2>&-", shell=True, cwd=ROOT)
    assert closed.returncode == 0


def test_a_reader_that_closes_the_pipe_is_no_error(package):
    command = f"{sys.executable} -m PartialSegLib info {package} | head -n 1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_fault_of_ours_is_not_hidden(run, monkeypatch, ct):
    """Only the user's mistakes lose their traceback."""

    def fail(path, any_modality, series):
        raise ZeroDivisionError

    monkeypatch.setattr("PartialSegLib.cli.inspecting.read_volume", fail)
    with pytest.raises(ZeroDivisionError):
        run("info", ct)
    assert issubclass(InputError, ValueError)
