"""The command `data`: collections from real folders, exit codes, one sentence for a mistake."""

import csv
import json
import re
from dataclasses import replace

import data_set_folders as folders
import numpy as np
import pytest
from collection_on_disk import (
    DATA_SETS,
    PREPROCESSING,
    TASKS,
    UNKNOWN,
    arrays,
    write_collection_files,
)
from tiny_model import write_tiny_model
from training_runs import tiny_values

from PartialSegLib import __main__, read_volume, write_volume
from PartialSegLib.cli import collecting, data_arguments
from PartialSegLib.manifest import Task, read_manifest
from PartialSegLib.training.collection import read_collection, write_collection
from PartialSegLib.training.collection.case_evaluation import read_case
from PartialSegLib.training.data_sets import LAYOUTS


@pytest.fixture
def data(capsys):
    def run(*arguments):
        try:
            code = __main__.main(["data", *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_every_layout_and_recipe_has_a_command():
    assert data_arguments.LAYOUTS.keys() == LAYOUTS.keys()
    assert data_arguments.RECIPES.keys() == collecting.RECIPES.keys()


@pytest.mark.parametrize("layout", ["decathlon", "kits", "lits", "btcv", "segthor", "structseg"])
def test_a_collection_of_each_layout_is_made_and_passes_the_check(data, layout, tmp_path):
    folder, output = folders.LAYOUT_FOLDERS[layout](tmp_path), tmp_path / "collection.json"
    code, out, err = data(layout, folder, "-o", output)
    assert (code, err) == (0, "")
    collection = read_collection(output)
    assert all(not case.image.startswith("/") and case.label for case in collection.cases)
    assert data("check", output) == (0, f"{len(collection.cases)} cases, no faults.\n", "")
    assert data("list", output)[1] == out
    (data_set,) = collection.data_sets
    assert data_set in out


@pytest.mark.parametrize("layout", folders.BRAIN_FOLDERS)
def test_images_of_several_channels_are_collected_and_pass_the_check(data, layout, tmp_path):
    folder, output = folders.BRAIN_FOLDERS[layout](tmp_path), tmp_path / "collection.json"
    code, out, err = data(layout, folder, "-o", output)
    assert (code, err) == (0, "")
    assert "whole_tumor=" in out
    collection = read_collection(output)
    assert all(not path.startswith("/") for case in collection.cases for path in case.images)
    assert data("check", output) == (0, "1 cases, no faults.\n", "")


def test_a_protocol_names_regions_and_dataset_json_the_channels(data, tmp_path):
    folder, output = folders.nnunet_brain(tmp_path), tmp_path / "collection.json"
    code, _, err = data("nnunet", folder, "-o", output, "--protocol", "msd-brain-tumour")
    assert (code, err) == (0, "")
    data_set = read_collection(output).data_sets["msd-brain-tumour"]
    assert data_set.channels == ("t1", "t1ce", "t2", "flair")
    assert data_set.task == "brain tumour"


def test_a_folder_pair_needs_names_for_its_labels(data, tmp_path, caplog):
    folder, output = folders.pair(tmp_path), tmp_path / "c.json"
    code, _, err = data("pair", folder, "-o", output)
    assert (code, err) == (2, "The labels have no names; give --label NAME=VALUE for each structure.\n")
    code, out, err = data("pair", folder, "-o", output, "--label", "Left Kidney=7", "--task", "kidney")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["mine", "kidney", "1", "0", "0", "0", "left_kidney=7"]
    code, _, err = data("pair", folder, "-o", output, "--label", "livre=7,8", "--ignore", "5", "--name", "x")
    assert code == 0
    assert "livre is no structure with a code; it is kept as it is, or perhaps you meant liver" in caplog.text
    data_set = read_collection(output).data_sets["x"]
    assert (data_set.structures, data_set.ignore) == ({"livre": (7, 8)}, (5,))


def test_labels_of_a_dataset_json_without_a_code_are_named(data, tmp_path, caplog):
    assert data("nnunet", folders.nnunet_v2(tmp_path), "-o", tmp_path / "c.json")[0] == 0
    assert caplog.messages == ["cyst is no structure with a code; it is kept as it is"]


def test_unlabelled_images_are_listed_on_request(data, tmp_path, caplog):
    folder, output = folders.decathlon(tmp_path), tmp_path / "c.json"
    data("decathlon", folder, "-o", output)
    assert [case.label is None for case in read_collection(output).cases] == [False]
    left_out = "images without a label map are left out (1): msd-spleen-spleen_1; --unlabelled keeps them."
    assert caplog.messages == [f"{folder}: {left_out}"]
    caplog.clear()
    data("decathlon", folder, "-o", output, "--unlabelled")
    assert caplog.messages == []
    assert [case.label is None for case in read_collection(output).cases] == [False, True]


def test_collections_are_joined_with_contradictory_label_sets(data, tmp_path):
    data("lits", folders.lits(tmp_path), "-o", tmp_path / "a.json")
    data("nnunet", folders.nnunet_v2(tmp_path), folders.nnunet_v1(tmp_path), "-o", tmp_path / "b.json")
    code, out, _ = data("join", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "sub" / "all.json")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["lits", "regions", "my-kidneys"]
    assert data("check", tmp_path / "sub" / "all.json")[0] == 2  # LiTS, nnU-Net: one image in two splits
    assert data("list", tmp_path / "sub" / "all.json")[1] == out


def test_faults_are_written_as_one_table_and_exit_with_2(data, tmp_path):
    folder, output = folders.lits(tmp_path), tmp_path / "c.json"
    folders.save_pair(
        folder / "batch1/volume-1.nii", folder / "batch1/segmentation-1.nii", folders.TO_LEFT_BACK, 5
    )
    (folder / "batch2/segmentation-28.nii").write_bytes(b"damaged")
    data("lits", folder, "-o", output)
    code, out, err = data("check", output, "--workers", "1")
    assert code == 2
    assert err.startswith(
        "2 faults in 2 of 3 cases; repair these files, or make the collection again without"
    )
    assert [line.split()[0] for line in out.splitlines()] == ["CASE", "lits-1", "lits-1", "lits-28"]
    left_out = ("--exclude", "volume-28.nii", "--exclude", "lits-1", "--fold", "0")
    assert data("lits", folder, "-o", output, *left_out)[0] == 0
    assert [case.name for case in read_collection(output).cases] == ["lits-0"]
    code, _, err = data("join", output, "-o", tmp_path / "all.json", "--exclude", "lits-7")
    assert (code, "--exclude: 'lits-7' does not name one case" in err) == (2, True)
    assert data("join", output, "-o", tmp_path / "all.json", "--exclude", "0")[0] == 0
    assert read_collection(tmp_path / "all.json").cases == ()


def test_a_list_may_lack_what_is_excluded(data, tmp_path):
    folder, output, path = folders.lits(tmp_path), tmp_path / "c.json", tmp_path / "list.txt"
    for text in ("lits-0\n", "lits-0\nlits-28\n"):
        path.write_text(text)
        code, _, err = data("lits", folder, "-o", output, "--list", f"training={path}", "--exclude", "28")
        assert (code, err) == (0, "")
        assert [case.name for case in read_collection(output).cases] == ["lits-0"]


def test_the_folds_of_nnunet_are_given_by_their_file(data, tmp_path):
    folder, output, folds = folders.lits(tmp_path), tmp_path / "c.json", tmp_path / "splits_final.json"
    folds.write_text('[{"train": ["0"], "val": ["28"]}]')
    code, _, err = data("lits", folder, "-o", output, "--folds", folds)
    assert (code, "say which one with --fold K" in err, output.exists()) == (2, True, False)
    code, _, err = data("lits", folder, "-o", output, "--folds", folds, "--fold", "0", "--exclude", "0")
    assert (code, err) == (0, "")
    split = {case.name: case.split for case in read_collection(output).cases}
    assert split == {"lits-28": "validation"}
    folds.write_text('[{"train": [], "val": ["28"]}]')  # a case that the fold does not name either
    assert data("lits", folder, "-o", output, "--folds", folds, "--fold", "0", "--exclude", "0")[0] == 0
    assert [case.name for case in read_collection(output).cases] == ["lits-28"]


def test_a_label_map_without_foreground_alone_does_not_fail_the_check(data, tmp_path):
    folder, output = folders.lits(tmp_path), tmp_path / "c.json"
    folders.save_pair(folder / "volume-1.nii", folder / "segmentation-1.nii", folders.TO_LEFT_BACK, 0)
    data("lits", folder, "-o", output)
    code, out, err = data("check", output)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("lits-1")
    assert out.endswith("3 cases, no faults; 1 without foreground, which training takes.\n")


def test_cts_that_are_hardly_hu_are_listed_and_taken(data, tmp_path):
    folder, output = folders.lits(tmp_path), tmp_path / "c.json"
    image = folders.bright_spot(folders.TO_RIGHT_FRONT) + 1024
    folders.save(folder / "batch2/volume-28.nii", image, folders.TO_RIGHT_FRONT)
    data("lits", folder, "-o", output)
    code, out, err = data("check", output)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:4] == ["lits-28", "lits", "hardly", "HU"]
    end = "no faults; 1 with values that are hardly HU: training takes them, the model will not fit CTs."
    assert out.splitlines()[-1].endswith(end)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("images/c0.nrrd", r"c0\.nii\.gz and .*c0\.nrrd are of one case"),
        ("labels/c0.nrrd", r"c0\.nii\.gz and .*c0\.nrrd are of one case"),
        ("labels/c1.seg.nrrd", r"c1\.seg\.nrrd is a segmentation of Slicer.*export it there as a label map"),
        ("images/c1.seg.nrrd", ""),
    ],
)
def test_files_that_no_case_can_be_made_of_are_refused(data, tmp_path, more, sentence):
    folder, affine = tmp_path / "pair", folders.TO_LEFT_BACK
    folders.save_pair(folder / "images/c0.nii.gz", folder / "labels/c0.nii.gz", affine)
    (folder / more).touch()
    given = "pair", folder, "-o", tmp_path / "c.json", "--task", "spleen", "--label", "spleen=1"
    code, _, err = data(*given)
    assert code == (2 if sentence else 0)
    assert re.search(sentence, err)


def test_nothing_but_an_earlier_collection_is_replaced(data, tmp_path):
    raw, output = folders.nnunet_v2(tmp_path), tmp_path / "c.json"
    (tmp_path / "folder.json").mkdir()
    for place in (raw / "dataset.json", raw / "labelsTr/a.nrrd", tmp_path / "folder.json"):
        before = place.is_dir() or place.read_bytes()
        code, out, err = data("nnunet", raw, "-o", place)
        assert (code, out, err.startswith(f"-o {place}: ")) == (2, "", True)
        assert before == (place.is_dir() or place.read_bytes())
    for _ in range(2):
        assert data("nnunet", raw, "-o", output)[0] == 0
    before = output.read_bytes()
    code, _, err = data("join", output, output, "-o", output)
    assert (code, err) == (2, f"-o {output}: this collection is to be joined; choose another name.\n")
    assert output.read_bytes() == before


@pytest.mark.parametrize(("layout", "other"), [("decathlon", "nnunet"), ("nnunet", "decathlon")])
def test_the_folder_of_another_layout_is_refused(data, layout, other, tmp_path):
    folder = folders.nnunet_v1(tmp_path) if other == "nnunet" else folders.decathlon(tmp_path)
    code, _, err = data(layout, folder, "-o", tmp_path / "c.json")
    assert (code, (tmp_path / "c.json").exists()) == (2, False)
    assert "label maps but the image of none; expected imagesTr/NAME" in err
    assert err.endswith(f"; it looks like the layout {other}: `partialseg data {other}`.\n")


def test_totalsegmentator_is_merged_beside_the_collection(data, tmp_path):
    folder, output = folders.totalsegmentator(tmp_path, "s0000", "s0001"), tmp_path / "out" / "ts.json"
    code, out, err = data(
        "totalsegmentator", folder, "-o", output, "--mask", "kidney_left", "--mask", "liver"
    )
    assert (code, err) == (0, "")
    assert "left_kidney=1, liver=2" in out
    labels = [case.label for case in read_collection(output).cases]
    assert labels == ["ts-labels/totalsegmentator-s0000.nii.gz", "ts-labels/totalsegmentator-s0001.nii.gz"]
    assert data("check", output)[0] == 0


def test_masks_of_totalsegmentator_can_make_one_structure(data, tmp_path):
    folder, output = folders.totalsegmentator(tmp_path, "s0000"), tmp_path / "ts.json"
    given = "totalsegmentator", folder, "-o", output, "--task", "liver", "--label"
    assert data(*given, "Liver=liver,a_tumor", "--label", "kidney=kidney_left")[0] == 0
    (data_set,) = read_collection(output).data_sets.values()
    assert data_set.task == "liver"
    assert data_set.structures == {"liver": (1, 2), "kidney": (3,)}
    assert data("check", output)[0] == 0
    for wrong, sentence in {"liver=": "no rule for masks", "liver=lver": "No case has a mask lver"}.items():
        code, _, err = data(*given, wrong)
        assert (code, sentence in err) == (2, True)


def test_cases_whose_masks_cannot_be_merged_are_left_out_on_request(data, tmp_path):
    folder, output = folders.totalsegmentator(tmp_path, "s0000", "s0001"), tmp_path / "ts.json"
    (folder / "s0001/segmentations/liver.nii.gz").unlink()
    code, out, err = data("totalsegmentator", folder, "-o", output)
    assert (code, output.exists()) == (2, False)
    assert err.startswith("1 faults in 1 of 2 cases")
    assert "masks cannot be merged" in out
    assert data("totalsegmentator", folder, "-o", output, "--incomplete")[0] == 0
    assert len(read_collection(output).cases) == 1


def test_what_is_left_out_of_totalsegmentator_changes_no_fold_of_the_others(data, tmp_path):
    names = [f"s{number:04}" for number in range(7)]
    folder, output = folders.totalsegmentator(tmp_path, *names), tmp_path / "ts.json"
    arguments = ("totalsegmentator", folder, "-o", output, "--mask", "liver", "--fold", "0")

    def splits():
        return {case.name: case.split for case in read_collection(output).cases}

    assert data(*arguments)[0] == 0
    before = splits()
    (folder / "s0001/segmentations/liver.nii.gz").unlink()
    (tmp_path / "ts-labels/totalsegmentator-s0001.nii.gz").unlink()
    assert data(*arguments, "--incomplete", "--exclude", "s0002")[0] == 0
    left_out = {"totalsegmentator-s0001", "totalsegmentator-s0002"}
    assert splits() == {name: split for name, split in before.items() if name not in left_out}
    assert data(*arguments, "--exclude", "s0001")[0] == 0  # a case whose masks are damaged, say
    assert splits() == {name: split for name, split in before.items() if name != "totalsegmentator-s0001"}


def test_phantoms_of_other_options_are_not_taken_for_those_asked_for(data, tmp_path):
    folder = tmp_path / "phantoms"
    code, _, err = data("phantom", "-o", folder, "--spacing", "12")
    assert (code, err) == (2, "--spacing: 12 mm given, expected 1 to 10.\n")
    arguments = ("phantom", "-o", folder, "--spacing", "10", "--cases", "1")
    assert data(*arguments)[0] == 0
    before = (folder / "collection.json").read_bytes()
    for other in (("--seed", "5"), ("--spacing", "9")):
        code, out, err = data(*arguments, *other)
        assert (code, out) == (2, "")
        assert err.startswith(f"{folder} holds phantoms of another spacing, size, seed or phase")
    assert (folder / "collection.json").read_bytes() == before
    assert data("phantom", "-o", folder, "--spacing", "10", "--cases", "2")[0] == 0


def test_an_incomplete_recipe_is_a_table_and_exit_code_2(data, tmp_path):
    root, output = tmp_path / "root", tmp_path / "mots.json"
    folders.lits(root)
    folders.decathlon(root)
    code, out, err = data("mots", "--folder", root, "-o", output)
    assert (code, output.exists()) == (2, False)
    assert err == (
        "7 of 7 data sets are not complete; get what the table says, or go on with --incomplete.\n"
    )
    lines = out.splitlines()
    assert len(lines) == 8
    assert lines[1].split()[:4] == ["lits", "liver", "2", "131"]
    code, out, _ = data("mots", "--folder", root, "-o", output, "--incomplete")
    assert code == 0
    assert list(read_collection(output).data_sets) == ["lits", "msd-spleen"]


@pytest.mark.parametrize("recipe", ["mots", "multitalent"])
def test_a_recipe_without_any_data_writes_nothing(data, recipe, tmp_path):
    code, out, err = data(recipe, "--folder", tmp_path, "-o", tmp_path / "c.json", "--incomplete")
    assert (code, (tmp_path / "c.json").exists()) == (2, False)
    assert "holds none of the data sets" in err
    assert "looked for" in out


def test_mots_of_all_downloads_has_the_sizes_of_the_paper_and_takes_lists(data, tmp_path):
    folders.touch_mots(tmp_path)
    output = tmp_path / "mots.json"
    code, out, err = data("mots", "--folder", tmp_path, "-o", output, "--fold", "0")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:5] == ["lits", "liver", "83", "21", "27"]
    names = [case.name for case in read_collection(output).cases]
    (tmp_path / "train.txt").write_text("\n".join(names[1:]))
    (tmp_path / "test.txt").write_text(names[0])
    lists = ("--list", f"training={tmp_path}/train.txt", "--list", f"test={tmp_path}/test.txt")
    assert data("mots", "--folder", tmp_path, "-o", output, *lists)[0] == 0
    assert [case.name for case in read_collection(output).split("test")] == names[:1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lits", "nowhere", "-o", "c.json"), "There is no folder"),
        (("kits", ".", "-o", "c.json"), "holds no cases; expected case_NNNNN/imaging.nii.gz"),
        (("decathlon", ".", "-o", "c.json"), "holds no dataset.json"),
        (
            ("pair", ".", "-o", "c.json", "--protocol", "btcb"),
            "Unknown protocol 'btcb'; perhaps you meant btcv",
        ),
        (("pair", ".", "-o", "c.json", "--label", "liver"), "is no label rule"),
        (("lits", "LiTS", "-o", "c.nii.gz"), "-o c.nii.gz: expected the name of a collection, such as"),
        (
            ("lits", "LiTS", "-o", "c.json", "--name", "a/b"),
            "--name a/b: expected a name without '/', such as b",
        ),
        (("lits", "LiTS", "-o", "c.json", "--fold", "5"), "There is no fold 5; choose one from 0 to 4"),
        (("lits", "LiTS", "-o", "c.json", "--fold", "1", "--seed", "-1"), "A seed is 0 or"),
        (("lits", ".", ".", "-o", "c.json", "--name", "x"), "--name is for one data set"),
        (("mots", "--folder", "nowhere", "-o", "c.json"), "There is no folder"),
        (("check", "none.json"), "No collection at none.json"),
        (("check", "empty.json", "--workers", "0"), "--workers is a number of threads from 1 on, not 0"),
        (("lits",), "the following arguments are required"),
        (("unknown",), "invalid choice"),
        ((), "required"),
    ],
)
def test_mistakes_are_answered_by_one_sentence(data, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = {
        "format": "partialseg-collection",
        "format_version": 1,
        "name": "e",
        "data_sets": [],
        "cases": [],
    }
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    folders.touch(tmp_path / "LiTS", "volume-0.nii", "segmentation-0.nii")
    code, out, err = data(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "c.json").exists()


def test_lists_name_their_split(data, tmp_path):
    arguments = ("lits", folders.lits(tmp_path), "-o", tmp_path / "c.json", "--list", "tests=a.txt")
    code, _, err = data(*arguments)
    assert (code, err) == (
        2,
        "--list tests=a.txt: expected SPLIT=FILE, the split training, validation, test.\n",
    )


def test_a_model_is_scored_on_whole_cases(data, tmp_path, caplog):
    names = {"a": "livers", "b": "organs", "c": "spleens", "d": "livers", "e": "spleens"}
    collection = write_collection_files(tmp_path, **names)
    cases = [replace(case, split="test") for case in collection.cases[:4]]
    ignored = {"livers": (3,), "organs": (2, 3), "spleens": (2, 3)}
    data_sets = {name: replace(DATA_SETS[name], ignore=values) for name, values in ignored.items()}
    collection = replace(collection, data_sets=data_sets, cases=(*cases, collection.cases[4]))
    write_collection(tmp_path / "c.json", collection)
    model = write_tiny_model(tmp_path / "model", TASKS, PREPROCESSING)
    arguments = "evaluate", tmp_path / "c.json", "--model", model, "--device", "cpu"
    (tmp_path / "d-label.nii").unlink()
    code, out, err = data(*arguments, "-o", tmp_path / "scores.csv")
    assert (code, out) == (2, "")
    assert err == "1 of 4 cases could not be scored, the others were; see the sentences above.\n"
    assert caplog.messages[0].startswith("d: ")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = {(row["case"], row["task"], row["structure"]): row for row in csv.DictReader(file)}
    labels = arrays()[1]
    voxels = {"liver": labels > 0, "liver_tumor": labels == 2}
    voxels["liver"][UNKNOWN] = False
    expected = {("a", "liver", name): mask.sum() for name, mask in voxels.items()}
    expected |= {("b", "liver", "liver"): (labels == 1).sum(), ("c", "spleen", "spleen"): (labels == 1).sum()}
    assert {key: float(row["reference_ml"]) for key, row in rows.items()} == pytest.approx(
        {key: count * 0.003 for key, count in expected.items()}
    )
    image, reference = read_case(collection, cases[1], TASKS[0], read_manifest(model))
    np.testing.assert_array_equal(reference.ignored.filled(image.shape), labels >= 2)

    code, out, err = data(*arguments, "--split", "training")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["e", "spleen", "spleen"]]
    assert "has no labelled cases for validation (" in data(*arguments, "--split", "validation")[2]
    kidneys = write_tiny_model(tmp_path / "kidneys", (Task("kidney", {"kidney": 0}),), PREPROCESSING)
    code, _, err = data("evaluate", tmp_path / "c.json", "--model", kidneys)
    assert (code, "is labelled for liver, spleen, model tiny has kidney" in err) == (2, True)


def test_a_model_is_scored_on_the_data_sets_that_it_has_a_task_for(data, tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="livers")
    splits = ("test", "test", "validation")
    cases = [replace(case, split=split) for case, split in zip(collection.cases, splits, strict=True)]
    data_sets = {name: replace(DATA_SETS[name], ignore=(2, 3)) for name in ("livers", "spleens")}
    write_collection(tmp_path / "c.json", replace(collection, data_sets=data_sets, cases=tuple(cases)))
    model = write_tiny_model(tmp_path / "model", (Task("spleen", {"spleen": 0}),), PREPROCESSING)
    arguments = "evaluate", tmp_path / "c.json", "--model", model, "--device", "cpu"
    code, out, _ = data(*arguments)
    assert (code, [line.split()[0] for line in out.splitlines()[1:2]]) == (0, ["b"])
    assert "The data set livers (cases: 1) is left out: the model has no task liver" in caplog.text
    assert data(*arguments, "--split", "validation")[2] == (
        "The model has no task for any validation case of small; choose another.\n"
    )


def test_a_case_whose_label_map_has_faults_is_not_scored(data, tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="spleens", b="spleens")
    spleens = replace(DATA_SETS["spleens"], ignore=(2, 3))
    collection = replace(
        collection,
        data_sets={"spleens": spleens},
        cases=tuple(replace(case, split="test") for case in collection.cases),
    )
    write_collection(tmp_path / "c.json", collection)
    label = collection.path(collection.cases[0].label)
    volume = read_volume(label, any_modality=True)
    write_volume(label, replace(volume, array=np.full_like(volume.array, 77)))
    model = write_tiny_model(tmp_path / "model", (Task("spleen", {"spleen": 0}),), PREPROCESSING)
    code, out, err = data("evaluate", tmp_path / "c.json", "--model", model, "--device", "cpu")
    assert (code, err.startswith("1 of 2 cases could not be scored")) == (2, True)
    assert "label values unknown (77; known are 0 and 1); repair the case, or leave it out." in caplog.text
    assert [line.split()[0] for line in out.splitlines()[1:2]] == ["b"]


def test_cases_are_prepared_before_a_training_and_without_a_gpu(data, tmp_path):
    collection = write_collection_files(tmp_path, a="livers", b="spleens")
    data_sets = {name: replace(one, ignore=(2, 3)) for name, one in collection.data_sets.items()}
    write_collection(tmp_path / "c.json", replace(collection, data_sets=data_sets))
    files = {"collection": str(tmp_path / "c.json"), "prepared": "p"}
    config = tmp_path / "config.json"
    values = tiny_values(tmp_path / "run", synthetic=None, collection=files, only_tasks=["liver", "spleen"])
    config.write_text(json.dumps({**values, "only_tasks": ["liver", "colon"]}))
    code, out, err = data("prepare", config, f"collection.prepared={tmp_path / 'prepared'}")
    assert (code, out, "no labelled training cases for colon" in err) == (2, "", True)
    config.write_text(json.dumps(values))
    place = f"collection.prepared={tmp_path / 'prepared'}"
    code, out, err = data("prepare", config, place, "--processes", "1")
    (folder,) = (tmp_path / "prepared").iterdir()
    assert (code, out, err) == (0, f"{folder}\n", "")
    assert sorted(path.name[0] for path in folder.iterdir()) == ["a", "b", "s"]
    assert not (tmp_path / "run").exists()
    (tmp_path / "a.nii").unlink()
    assert data("prepare", config, place)[:2] == (0, f"{folder}\n")
    assert data("prepare", config, place, "--processes", "0")[0] == 2
    config.write_text(json.dumps(tiny_values(tmp_path / "run")))
    assert "trains on synthetic cases" in data("prepare", config)[2]
