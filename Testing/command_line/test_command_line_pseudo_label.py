"""The command `pseudo-label`: real files, two stages, limits, a stop, failures, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import DeviceError, Volume, __main__, read_volume, write_volume
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.training.collection import (
    Case,
    Collection,
    DataSet,
    read_collection,
    write_collection,
)
from PartialSegLib.training.pseudo_labels.record import lock_path

AFFINE = np.array([[0, 0, -4.0, 40], [0, 4.0, 0, -30], [5.0, 0, 0, 100], [0, 0, 0, 1]])
SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A model whose predictions can be mirrored."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    preprocessing = Preprocessing("SAR", (5.0, 4.0, 4.0), (-325, 325), divide=325)
    return write_tiny_model(folder, TASKS, preprocessing, gain=20, mirror_axes=(2,))


@pytest.fixture
def source(tmp_path):
    """Two cases annotated for tumours of the liver, one without labels, one for validation."""
    folder = tmp_path / "source"
    folder.mkdir()
    cases = []
    for number, name in enumerate(("a", "b", "free", "held")):
        image = np.random.default_rng(number).integers(-1000, 200, SHAPE).astype(np.int16)
        write_volume(folder / f"{name}.nii.gz", Volume(image, AFFINE))
        labels = np.zeros(SHAPE, np.uint8)
        labels[5:9, 6:12, 6:12] = 255
        labels[0, 0] = 3
        write_volume(folder / f"{name}-label.nii.gz", Volume(labels, AFFINE))
        split = "validation" if name == "held" else "training"
        label = None if name == "free" else f"{name}-label.nii.gz"
        cases.append(Case(name, "tumors", f"{name}.nii.gz", label, split))
    data_set = DataSet("tumors", "liver", {"liver_tumor": (255,)}, (3,), "hospital", "CC0-1.0")
    write_collection(folder / "all.json", Collection("all", folder, {"tumors": data_set}, tuple(cases)))
    return folder / "all.json"


@pytest.fixture
def run(package, source, tmp_path, capsys):
    """Run the command; the new collection is written to another folder."""

    def run(*options, collection=source, output=tmp_path / "out" / "stage1.json"):
        arguments = [
            "pseudo-label",
            collection,
            "-o",
            output,
            "--model",
            package,
            "--device",
            "cpu",
            *options,
        ]
        code = __main__.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def record_of(collection: Path) -> dict:
    return json.loads(collection.with_name(f"{collection.stem}.pseudo_labels.json").read_text())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels_of(collection: Collection, name: str) -> tuple[np.ndarray, DataSet]:
    case = next(case for case in collection.cases if case.name == name)
    labels = read_volume(collection.path(case.label))
    assert labels.same_geometry(read_volume(collection.path(case.image)))
    return labels.array, collection.data_sets[case.data_set]


def test_a_new_collection_has_original_and_predicted_labels(run, source, tmp_path):
    before = contents(source.parent)
    assert run()[0] == 0
    assert contents(source.parent) == before
    new = read_collection(tmp_path / "out" / "stage1.json")
    assert {case.name: case.data_set for case in new.cases} == {
        "a": "tumors-merged", "b": "tumors-merged", "free": "tumors-pseudo", "held": "tumors",
    }  # fmt: skip
    assert [case.split for case in new.cases] == ["training"] * 3 + ["validation"]
    labels, rules = labels_of(new, "a")
    original = read_volume(source.parent / "a-label.nii.gz").array
    assert (np.isin(labels, rules.structures["liver_tumor"]) == (original == 255)).all()
    assert ((labels == 3) == (original == 3)).all()
    liver = np.isin(labels, rules.structures["liver"])
    assert liver[original == 255].all()
    assert liver.sum() > (original == 255).sum()
    assert (rules.task, rules.ignore, rules.license) == ("liver", (3,), "CC0-1.0")
    assert rules.source == "hospital; liver, spleen predicted by tiny 1.2.3"
    labels, rules = labels_of(new, "free")
    assert set(rules.structures) == {"liver", "liver_tumor", "spleen"}
    assert labels.any()
    assert labels_of(new, "held")[1].structures == {"liver_tumor": (255,)}


def test_the_record_says_where_labels_come_from(run, tmp_path):
    assert run("--format", ".nrrd")[0] == 0
    output = tmp_path / "out" / "stage1.json"
    record, new = record_of(output), read_collection(output)
    assert set(record["cases"]) == {"a", "b", "free"}
    structures = record["cases"]["a"]["structures"]
    assert {name: found["origin"] for name, found in structures.items()} == {
        "liver_tumor": "original", "liver": "pseudo", "spleen": "pseudo",
    }  # fmt: skip
    assert structures["spleen"]["model"] == "tiny 1.2.3"
    assert len(structures["spleen"]["weights_sha256"]) == 64
    labels, rules = labels_of(new, "a")
    assert (tmp_path / "out" / "stage1-labels" / "a.nrrd").exists()
    for name, found in structures.items():
        assert found["voxels"] == np.isin(labels, rules.structures[name]).sum()
        assert found["volume_ml"] == pytest.approx(found["voxels"] * 0.08, abs=1e-3)
    assert structures["spleen"]["conflicts"] > 0
    values = record["values"]["tumors-merged"]
    assert set(values) >= set(map(str, np.unique(labels)))
    assert values["255"] == {"original": 255, "pseudo": ["liver"]}
    for name in ("liver", "spleen"):
        listed = [int(value) for value, meaning in values.items() if name in meaning["pseudo"]]
        assert tuple(listed) == rules.structures[name]


def test_a_second_stage_keeps_what_is_known_of_the_first(run, tmp_path):
    first, second = tmp_path / "out" / "stage1.json", tmp_path / "stage2.json"
    assert run("--data-set", "tumors", "--structure", "spleen")[0] == 0
    options = ("--data-set", "tumors-merged", "--structure", "liver", "--new-task", "all")
    assert run(*options, collection=first, output=second)[0] == 0
    new, record = read_collection(second), record_of(second)
    labels, rules = labels_of(new, "a")
    assert set(rules.structures) == {"liver_tumor", "spleen", "liver"}
    assert rules.task == "all"
    assert {name: found["origin"] for name, found in record["cases"]["a"]["structures"].items()} == {
        "liver_tumor": "original", "spleen": "pseudo", "liver": "pseudo",
    }  # fmt: skip
    assert record["cases"]["free"] == record_of(first)["cases"]["free"]
    assert labels_of(new, "free")[1].name == "tumors-pseudo"
    earlier, known = labels_of(read_collection(first), "a")
    was_spleen = np.isin(earlier, known.structures["spleen"])
    assert (np.isin(labels, rules.structures["spleen"]) == was_spleen).all()


def test_a_second_call_has_nothing_to_do_and_new_cases_are_added(run, source, tmp_path):
    assert run()[0] == 0
    files = contents(tmp_path / "out")
    code, out, _ = run()
    assert (code, out.splitlines()[0]) == (0, "3 of 3 cases were done before.")
    assert contents(tmp_path / "out") == files
    collection = read_collection(source)
    more = replace(collection, cases=(*collection.cases, Case("c", "tumors", "a.nii.gz")))
    write_collection(source, more)
    (tmp_path / "out" / "stage1-labels" / "b.nii.gz").unlink()
    code, out, _ = run()
    assert out.splitlines()[:3] == [
        "2 of 4 cases were done before.", "1 of 2: b, done", "2 of 2: c, done",
    ]  # fmt: skip


def test_other_settings_need_another_output_or_a_new_start(run):
    assert run()[0] == 0
    code, _, err = run("--no-mirror")
    assert code == 2
    assert "holds pseudo-labels of another model" in err
    assert run("--no-mirror", "--overwrite")[0] == 0


def test_changed_rules_of_a_data_set_make_its_labels_anew(run, source):
    assert run()[0] == 0
    collection = read_collection(source)
    changed = replace(collection.data_sets["tumors"], structures={"liver_tumor": (254, 255)})
    write_collection(source, replace(collection, data_sets={"tumors": changed}))
    assert run()[1].splitlines()[0] == "1 of 3 cases were done before."


def test_bad_cases_fail_alone_and_keep_their_labels(run, source, tmp_path):
    (source.parent / "free.nii.gz").write_text("no image")
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    write_volume(source.parent / "b-label.nii.gz", Volume(np.zeros(SHAPE, np.uint8), shifted))
    code, out, err = run()
    assert code == 2
    assert err.startswith("2 of 3 cases failed")
    assert err.count("\n") == 1
    assert "lies on another grid than its image" in out
    new = read_collection(tmp_path / "out" / "stage1.json")
    assert [case.data_set for case in new.cases] == ["tumors-merged", "tumors", "tumors", "tumors"]
    assert new.path(new.cases[1].label).resolve() == source.parent / "b-label.nii.gz"
    assert not (tmp_path / "out" / "stage1-labels" / "b.nii.gz").exists()
    write_volume(source.parent / "b-label.nii.gz", Volume(np.zeros(SHAPE, np.uint8), AFFINE))
    assert run()[1].splitlines()[:2] == ["1 of 3 cases were done before.", "1 of 2: b, done"]


def test_faults_of_ours_fail_a_case_alone_and_those_of_the_device_end_the_run(run, monkeypatch, caplog):
    failures = [MemoryError(), ZeroDivisionError("division by zero")]

    def label_case(*arguments, **options):
        raise failures.pop(0) if failures else DeviceError("The graphics card is gone.")

    monkeypatch.setattr("PartialSegLib.cli.pseudo_labelling.label_case", label_case)
    code, out, err = run()
    assert (code, err) == (3, "The graphics card is gone.\n")
    assert "1 of 3: a, Out of memory. Close other programs" in out
    assert "2 of 3: b, Something unexpected happened: ZeroDivisionError: division by zero" in out
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_doubtful_image_needs_force_and_is_warned_of(run, source, caplog):
    image = source.parent / "a.nii.gz"
    write_volume(image, Volume(np.full(SHAPE, 7, np.int16), AFFINE))
    code, out, _ = run("--structure", "spleen")
    assert code == 2
    assert f"{image}: The image is constant" in out
    assert "; give a CT in HU, or accept it with --force." in out
    assert run("--structure", "spleen", "--force")[0] == 0
    assert any(text.startswith(f"{image}: The image is constant") for text in caplog.messages)


def test_a_label_map_holds_whole_numbers(run, source):
    write_volume(source.parent / "a-label.nii.gz", Volume(np.full(SHAPE, 0.5, np.float32), AFFINE))
    code, out, _ = run("--structure", "spleen")
    assert code == 2
    assert "a label map holds whole numbers only" in out


def test_cases_on_which_predictions_disagree_are_left_out(run, tmp_path):
    code, out, _ = run("--max-disagreement", "0", "--max-disagreement", "liver=1", "--unlabelled")
    assert code == 0
    assert "free  left out  " in out
    assert "spleen: the predictions disagree by" in out
    assert "liver:" not in out
    new, record = (read(tmp_path / "out" / "stage1.json") for read in (read_collection, record_of))
    assert new.cases[2].label is None
    assert record["cases"]["free"]["doubts"]
    assert 0 < record["cases"]["free"]["structures"]["spleen"]["disagreement"] <= 1
    code, out, _ = run("--max-disagreement", "1", "--unlabelled")  # other limits need no new predictions
    assert out.splitlines() == [
        "1 of 1 cases were done before.",
        f"1 of 1 cases have pseudo-labels in {tmp_path / 'out' / 'stage1.json'}.",
    ]


def test_two_models_can_be_compared(run, package, tmp_path):
    assert run("--compare", package, "--max-disagreement", "0", "--unlabelled")[0] == 0
    structures = record_of(tmp_path / "out" / "stage1.json")["cases"]["free"]["structures"]
    assert [found["disagreement"] for found in structures.values()] == [0, 0, 0]


def test_cases_of_unusual_volume_are_left_out(run, tmp_path):
    code, out, _ = run("--volume-percentiles", "1", "99", "--unlabelled")
    assert code == 0
    assert "No case is labelled for liver, spleen: such volumes have no limits." in out
    record = record_of(tmp_path / "out" / "stage1.json")
    assert record["limits"]["volume_ml"] == {"liver_tumor": [11.52, 11.52]}
    assert record["cases"]["free"]["doubts"][0].endswith("ml, not 11.5 to 11.5 ml")
    assert read_collection(tmp_path / "out" / "stage1.json").cases[2].label is None


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--structure", "livre"), 2, "No chosen task yields 'livre'"),
        (("--data-set", "tumor"), 2, "Unknown data set 'tumor'; perhaps you meant tumors"),
        (
            ("--data-set", "tumors", "--structure", "liver_tumor", "--task", "spleen"),
            2,
            "No chosen task yields",
        ),
        (("--max-disagreement", "much"), 2, "expected a share such as 0.2"),
        (("--max-disagreement", "colon=0.1"), 2, "colon is not added"),
        (("--max-disagreement", "2"), 2, "a share from 0 to 1, not 2"),
        (("--max-disagreement", "0.2", "--no-mirror"), 2, "nothing to compare"),
        (("--volume-percentiles", "9", "1"), 2, "as 1 and 99"),
        (("--volume-percentiles", "1", "99", "--structure", "spleen"), 2, "leave the limits on volumes out"),
        (("--compare", "nowhere"), 2, "Unknown model 'nowhere'"),
        (("--device", "cuda:9"), 3, "cuda:9"),
        (("--overlap", "2"), 2, "The overlap is a fraction"),
    ],
)
def test_wrong_usage_has_its_exit_code(run, tmp_path, options, code, sentence):
    given, _, err = run(*options)
    assert given == code
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_originals_are_never_replaced(run, source):
    for output in (source, source.with_suffix(".nii.gz")):
        before = contents(source.parent)
        code, _, err = run(output=output)
        assert code == 2
        assert "choose " in err
        assert contents(source.parent) == before


def test_nothing_but_an_earlier_collection_is_replaced(run, tmp_path):
    (tmp_path / "my-config.json").write_text('{"output": "runs"}')
    code, _, err = run(output=tmp_path / "my-config.json")
    assert code == 2
    assert "something else than a collection" in err
    assert (tmp_path / "my-config.json").read_text() == '{"output": "runs"}'


def test_a_label_map_that_no_record_lists_stays(run, tmp_path):
    label = tmp_path / "out" / "stage1-labels" / "b.nii.gz"
    label.parent.mkdir(parents=True)
    label.write_bytes(b"drawn by hand")
    code, _, err = run()
    assert (code, label.read_bytes()) == (2, b"drawn by hand")
    assert err.startswith(f"{label} is in no record of pseudo-labels and would be replaced; move it away")
    assert err.count("\n") == 1
    assert run("--overwrite")[0] == 0
    assert label.read_bytes() != b"drawn by hand"


@pytest.fixture
def two_data_sets(source):
    """The source with its case b in a data set of its own."""
    collection = read_collection(source)
    other = replace(collection.data_sets["tumors"], name="others")
    cases = tuple(replace(case, data_set="others") if case.name == "b" else case for case in collection.cases)
    write_collection(
        source, replace(collection, data_sets={**collection.data_sets, "others": other}, cases=cases)
    )
    return source


def test_runs_for_one_data_set_after_the_other_share_a_collection(run, two_data_sets, tmp_path):
    output = tmp_path / "out" / "stage1.json"
    assert run("--data-set", "tumors")[0] == 0
    assert run("--data-set", "others")[0] == 0
    assert {case.name: case.data_set for case in read_collection(output).cases} == {
        "a": "tumors-merged", "b": "others-merged", "free": "tumors-pseudo", "held": "tumors",
    }  # fmt: skip
    assert {"tumors-merged", "tumors-pseudo", "others-merged"} == set(record_of(output)["values"])
    one_by_one = read_collection(output)
    assert run("--overwrite")[0] == 0
    assert read_collection(output) == one_by_one


def test_labels_of_an_earlier_run_that_no_longer_fit_are_told_of(run, two_data_sets, tmp_path, caplog):
    assert run("--data-set", "others")[0] == 0
    collection = read_collection(two_data_sets)
    changed = replace(collection.data_sets["others"], structures={"liver_tumor": (254, 255)})
    data_sets = {**collection.data_sets, "others": changed}
    write_collection(two_data_sets, replace(collection, data_sets=data_sets))
    assert run("--data-set", "tumors")[0] == 0
    assert any(text.startswith("Pseudo-labels of 1 cases, such as b, are left") for text in caplog.messages)
    assert read_collection(tmp_path / "out" / "stage1.json").cases[1].data_set == "others"


def test_two_runs_do_not_share_an_output_at_the_same_time(run, tmp_path):
    output = tmp_path / "out" / "stage1.json"
    output.parent.mkdir()
    hold = (
        "import pathlib, sys; from PartialSegLib.training.loop.run_lock import held\n"
        "with held(pathlib.Path(sys.argv[1]), ''): print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(lock_path(output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        code, _, err = run()
        other.communicate(b"\n")
    assert code == 2
    assert err == f"Another run is at work on {output}; wait for its end, or choose another output.\n"
    assert [path.name for path in output.parent.iterdir()] == [lock_path(output).name]
    assert run()[0] == 0


def test_changed_images_and_label_maps_are_labelled_anew(run, source, tmp_path):
    assert run()[0] == 0
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1:3, 1:3] = 255
    write_volume(source.parent / "a-label.nii.gz", Volume(labels, AFFINE))
    image = np.random.default_rng(9).integers(-1000, 200, SHAPE).astype(np.int16)
    write_volume(source.parent / "free.nii.gz", Volume(image, AFFINE))
    out = run()[1]
    assert out.splitlines()[:3] == [
        "1 of 3 cases were done before.", "1 of 2: a, done", "2 of 2: free, done",
    ]  # fmt: skip
    found, rules = labels_of(read_collection(tmp_path / "out" / "stage1.json"), "a")
    assert (np.isin(found, rules.structures["liver_tumor"]) == (labels == 255)).all()


def test_labels_stay_where_originals_are_away_or_an_earlier_version_made_them(run, source, tmp_path):
    assert run()[0] == 0
    (source.parent / "a.nii.gz").rename(source.parent / "away.nii.gz")
    path = tmp_path / "out" / "stage1.pseudo_labels.json"
    record = json.loads(path.read_text())
    record["cases"]["b"]["fingerprint"] = record["cases"]["b"]["fingerprint"].partition("-")[0]
    path.write_text(json.dumps(record))
    assert run()[1].splitlines()[0] == "3 of 3 cases were done before."


def test_a_rounded_header_of_a_label_map_is_no_other_grid(run, source):
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.05
    labels = read_volume(source.parent / "b-label.nii.gz").array
    write_volume(source.parent / "b-label.nii.gz", Volume(labels, shifted))
    assert run()[0] == 0


def test_a_case_name_must_be_a_file_name(run, source):
    collection = read_collection(source)
    write_collection(source, replace(collection, cases=(replace(collection.cases[0], name="../a"),)))
    assert "cannot be a file's; rename the case" in run()[2]


def test_an_interrupted_run_leaves_whole_files_and_goes_on(package, source, tmp_path):
    collection = read_collection(source)
    more = (replace(collection.cases[2], name=f"more-{number}") for number in range(30))
    write_collection(source, replace(collection, cases=(*collection.cases, *more)))
    output = tmp_path / "out" / "new.json"
    command = [sys.executable, "-m", "PartialSegLib", "pseudo-label", source, "-o", output]
    command = list(map(str, [*command, "--model", package, "--device", "cpu"]))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not output.with_name("new.pseudo_labels.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"Interrupted; unfinished output was removed.\n")
    assert not [path for path in output.parent.rglob("*") if ".partial-" in path.name]
    assert __main__.main(command[3:]) == 0
    assert [case.data_set for case in read_collection(output).cases].count("tumors") == 1
