"""Data sets on disk: every layout keeps every voxel in its place, and its labels mean what is declared."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import data_set_folders as folders
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from PartialSegLib import InputError, Volume, read_volume, write_volume
from PartialSegLib.importers.dodnet import MOTS_TASKS
from PartialSegLib.importers.multitalent import TASKS as MULTITALENT_TASKS
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.training.collection import Case, Collection, DataSet, read_collection, write_collection
from PartialSegLib.training.data_sets import LAYOUTS, MOTS, MULTITALENT
from PartialSegLib.training.data_sets.dataset_json import data_set_of, read_dataset_json
from PartialSegLib.training.data_sets.joining import joined
from PartialSegLib.training.data_sets.label_rules import parse_label_rules, structures_of_values
from PartialSegLib.training.data_sets.mask_merging import merge_cases, merge_masks
from PartialSegLib.training.data_sets.protocols import PROTOCOLS
from PartialSegLib.training.data_sets.recipe import find_parts, part_rows, recipe_collection
from PartialSegLib.training.data_sets.splits import (
    with_listed_splits,
    with_nnunet_fold,
    with_test_cases,
    with_validation_fold,
)
from PartialSegLib.training.data_sets.totalsegmentator import (
    mask_names,
    totalsegmentator_cases,
    totalsegmentator_data_set,
)
from PartialSegLib.volume import reorient

NETWORK = Preprocessing("SPL", (3.0, 1.5, 1.5), (-1000.0, 1000.0), -1000.0)


def center_on_network_grid(volume):
    """Centre of what is brighter than air after preprocessing, RAS mm; both grids cover the same space."""
    prepared = preprocess(volume, NETWORK, torch.device("cpu")).tensor.double().numpy()
    index = [
        float((np.moveaxis(prepared, axis, 0).sum((1, 2)) * np.arange(size)).sum() / prepared.sum())
        for axis, size in enumerate(prepared.shape)
    ]
    upright = reorient(volume, "SPL")
    scale = np.array(upright.shape) / prepared.shape
    return (upright.affine @ (*((np.array(index) + 0.5) * scale - 0.5), 1))[:3]


def assert_marker_in_place(case):
    image, label = read_volume(case.image), read_volume(case.label)
    hounsfield = np.where(label.array > 0, 1000, -1000)
    mask = label.with_array(hounsfield.astype(np.int16))
    for volume, atol in ((image, 0.05), (mask, 0.5)):  # a mask's centre is known to part of a voxel only
        np.testing.assert_allclose(center_on_network_grid(volume), folders.MARKER, atol=atol)


@pytest.mark.parametrize("layout", folders.LAYOUT_FOLDERS)
def test_a_marker_keeps_its_place_from_every_layout_to_the_network_grid(layout, tmp_path):
    cases = LAYOUTS[layout](folders.LAYOUT_FOLDERS[layout](tmp_path), layout)
    labelled = [case for case in cases if case.label]
    assert labelled
    for case in labelled:
        assert_marker_in_place(case)


@pytest.mark.parametrize("write", [folders.nnunet_v1, folders.nnunet_v2], ids=["version 1", "version 2"])
def test_a_marker_keeps_its_place_from_nnunet_folders(write, tmp_path):
    for case in LAYOUTS["nnunet"](write(tmp_path), "mine"):
        assert_marker_in_place(case)


@pytest.mark.parametrize("name", ["TO_RIGHT_FRONT", "TO_LEFT_BACK", "TO_LEFT_FRONT", "DOWNWARDS", "OBLIQUE"])
def test_the_decathlon_is_read_by_its_affine_whatever_the_convention(name, tmp_path):
    folder = folders.decathlon(tmp_path, getattr(folders, name))
    assert_marker_in_place(LAYOUTS["decathlon"](folder, "spleen")[0])


def test_kits_is_read_along_slices_although_they_are_the_first_axis(tmp_path):
    labelled, unlabelled = LAYOUTS["kits"](folders.kits(tmp_path), "kits19")
    assert read_volume(labelled.image).orientation == "LPI"  # axes (k, j, i); the file's i is the slice
    assert (labelled.name, unlabelled.name) == ("kits19-case_00000", "kits19-case_00210")
    assert unlabelled.label is None


def test_a_merged_label_map_has_the_place_of_its_ct(tmp_path):
    case, *_ = totalsegmentator_cases(folders.totalsegmentator(tmp_path), "total")
    merge_masks(Path(case.image), ("liver",), tmp_path / "label.nii.gz")
    assert_marker_in_place(dataclasses.replace(case, label=str(tmp_path / "label.nii.gz")))


def test_layouts_pair_files_and_keep_images_without_labels(tmp_path):
    cases = LAYOUTS["decathlon"](folders.decathlon(tmp_path), "msd-spleen")
    assert [(case.name, case.label is not None) for case in cases] == [
        ("msd-spleen-spleen_2", True),
        ("msd-spleen-spleen_1", False),
    ]
    assert [case.name for case in LAYOUTS["lits"](folders.lits(tmp_path), "lits")] == ["lits-0", "lits-28"]
    assert [case.name for case in LAYOUTS["btcv"](folders.btcv(tmp_path), "btcv")] == ["btcv-0001"]
    splits = [case.split for case in LAYOUTS["nnunet"](folders.nnunet_v1(tmp_path), "mine")]
    assert splits == ["training", "test"]


def test_the_pelvic_btcv_is_paired_by_its_numbers(tmp_path):
    folders.touch(tmp_path / "Training", "img/0507688-Image.nii.gz", "label/0507688-Label.nii.gz")
    (case,) = LAYOUTS["btcv-pelvis"](tmp_path, "btcv-pelvis")
    assert (case.name, Path(case.image).name) == ("btcv-pelvis-0507688", "0507688-Image.nii.gz")
    with pytest.raises(InputError, match="holds no cases"):
        LAYOUTS["btcv"](tmp_path, "btcv")  # its values mean other organs


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    folder = folders.lits(tmp_path)
    again = folder / "windowed" / "volume-0.nii.gz"
    folders.touch(
        folder, "windowed/volume-0.nii.gz", "segmentations/segmentation-1.nii", "volumes/volume-1.nii"
    )
    with pytest.raises(InputError, match=f"batch1/volume-0.nii and {again} are of one case; move one"):
        LAYOUTS["lits"](folder, "lits")
    with pytest.raises(InputError, match="are of one case"):
        find_parts(MOTS, tmp_path)
    again.unlink()
    assert [case.name for case in LAYOUTS["lits"](folder, "lits")] == ["lits-0", "lits-1", "lits-28"]


def test_a_label_map_without_image_stays_for_the_check_to_find(tmp_path):
    folder = folders.nnunet_v1(tmp_path)
    folders.touch(folder, "labelsTr/k_9.nii.gz")
    case = next(case for case in LAYOUTS["nnunet"](folder, "mine") if case.name == "mine-k_9")
    assert Path(case.image) == folder / "imagesTr/k_9_0000.nii.gz"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_layout_is_refused_with_what_was_expected(layout, tmp_path):
    with pytest.raises(InputError, match=r"holds no cases; expected .* with .*\."):
        LAYOUTS[layout](tmp_path, "any")
    with pytest.raises(InputError, match="There is no folder"):
        LAYOUTS[layout](tmp_path / "nowhere", "any")


def test_a_task_of_the_decathlon_has_declared_rules(tmp_path):
    folder = tmp_path / "Task08_HepaticVessel"
    folders.write_json(
        folder / "dataset.json",
        modality={"0": "CT"},
        labels={"0": "background", "1": "Vessel", "2": "Tumour"},
    )
    data_set = data_set_of(folder, read_dataset_json(folder))
    assert (data_set.name, data_set.task) == ("msd-hepatic-vessel", "hepatic vessel")
    assert data_set.structures == {"hepatic_vessel": (1,), "liver_tumor": (2,)}


@pytest.mark.parametrize(
    ("folder", "licence", "name", "kept"),
    [
        ("Task03_Liver", None, "msd-liver", "CC BY-SA 4.0"),
        ("Task03_Liver", "CC-BY-SA 4.0", "msd-liver", "CC BY-SA 4.0"),
        ("Dataset003_Liver", "CC-BY-SA 4.0", "msd-liver", "CC BY-SA 4.0"),
        ("Dataset003_Liver", None, "liver", ""),
        ("Dataset003_Liver", "Proprietary, Hospital X", "liver", "Proprietary, Hospital X"),
        ("Task03_Liver", "Proprietary, Hospital X", "liver", "Proprietary, Hospital X"),
    ],
)
def test_only_the_decathlon_has_its_name_and_licence(folder, licence, name, kept):
    """Structures are those of the task for all that look like it: an organ includes its tumour."""
    contents = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}}
    contents |= {} if licence is None else {"licence": licence}
    data_set = data_set_of(Path(folder), contents)
    assert (data_set.name, data_set.license) == (name, kept)
    assert ("decathlon" in data_set.source) == (name == "msd-liver")
    assert (data_set.task, data_set.structures) == ("liver", {"liver": (1, 2), "liver_tumor": (2,)})


@pytest.mark.parametrize(
    ("name", "labels", "structures"),
    [
        ("Lung", {"lung": 1}, {"lung": (1,)}),
        ("Lung", {"cancer": 1}, {"lung_tumor": (1,)}),
        ("Colon", {"colon": 1}, {"colon": (1,)}),
        ("Colon", {"colon cancer primaries": 1}, {"colon_tumor": (1,)}),
        ("Liver", {"liver": 1, "vessel": 2}, {"liver": (1,), "vessel": (2,)}),
        ("Pancreas", {"pancreas": 1, "duct": 2}, {"pancreas": (1,), "duct": (2,)}),
        ("Pancreas", {"tumor": 1, "pancreas": 2}, {"pancreas": (2, 1), "pancreas_tumor": (1,)}),
        ("Pancreas", {"pancreas": [1, 2], "tumour": 2}, {"pancreas": (1, 2), "pancreas_tumor": (2,)}),
    ],
)
def test_a_data_set_of_one_s_own_may_have_the_name_of_a_task(name, labels, structures):
    contents = {"labels": {"background": 0, **labels}, "channel_names": {"0": "CT"}}
    assert data_set_of(Path(f"Dataset501_{name}"), contents).structures == structures


def test_labels_of_other_tasks_are_known_by_name(tmp_path):
    folder = folders.nnunet_v1(tmp_path)
    assert data_set_of(folder, read_dataset_json(folder)).structures == {
        "kidney": (1, 2),
        "kidney_tumor": (2,),
    }
    folder = folders.nnunet_v2(tmp_path)
    data_set = data_set_of(folder, read_dataset_json(folder))
    assert data_set.structures == {"left_kidney": (1, 2), "cyst": (2,)}
    assert (data_set.ignore, data_set.name) == ((3,), "regions")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"labels": {"0": "background"}}, 'names no channels; expected "channel_names" .or "modality"'),
        ({"labels": {"a": 1}, "channel_names": {"first": "CT"}}, "names no channels; expected"),
        ({"modality": {"0": "CT"}}, "names no labels"),
        ({"labels": {"liver": "tumor"}, "modality": {"0": "CT"}}, "expected labels as name: value"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(values, sentence, tmp_path):
    folders.write_json(tmp_path / "dataset.json", **values)
    with pytest.raises(InputError, match=sentence):
        data_set_of(tmp_path, read_dataset_json(tmp_path))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"liver": (1,), "cancer": (2,)}, {"liver": (1, 2), "liver_tumor": (2,)}),
        ({"pancreas": (1,), "pancreatic tumour": (2,)}, {"pancreas": (1, 2), "pancreas_tumor": (2,)}),
        ({"kidney": (1, 2), "tumor": (2,)}, {"kidney": (1, 2), "kidney_tumor": (2,)}),
        ({"hepatic vessel": (1,), "liver tumor": (2,)}, {"hepatic_vessel": (1,), "liver_tumor": (2,)}),
        ({"colon cancer": (1,)}, {"colon_tumor": (1,)}),
    ],
)
def test_organs_include_their_tumours_and_vessels_do_not(labels, expected):
    assert structures_of_values(labels) == expected


def test_rules_of_the_user_are_taken_as_given():
    assert parse_label_rules(["Left Kidney=2,3", "tumour = 3"]) == {"left_kidney": (2, 3), "tumor": (3,)}
    assert parse_label_rules(["pancreas=1", "pancreas=2,1"]) == {"pancreas": (1, 2)}
    assert parse_label_rules(["pancreas=4", "tumor=14"]) == {"pancreas": (4,), "tumor": (14,)}
    assert parse_label_rules(["pancreas=4", "tumour=14"]) == {"pancreas": (4,), "pancreas_tumor": (14,)}
    assert parse_label_rules(["Left Kidney=1", "left_kidney=2"]) == {
        "left_kidney_2": (1,),
        "left_kidney": (2,),
    }
    for wrong in ("liver", "liver=", "=1", "liver=0", "liver=one", "liver=1,"):
        with pytest.raises(InputError, match="is no label rule; give NAME=VALUE"):
            parse_label_rules([wrong])


@pytest.mark.parametrize(
    ("recipe", "tasks"), [(MOTS, MOTS_TASKS), (MULTITALENT, MULTITALENT_TASKS)], ids=["mots", "multitalent"]
)
def test_the_data_sets_of_a_recipe_are_the_tasks_of_its_package(recipe, tasks):
    described = {part.data_set.task: list(part.data_set.structures) for part in recipe}
    assert described == {task.name: list(task.structures) for task in tasks}


def test_the_sizes_are_those_of_the_papers():
    assert [part.training for part in MOTS] == [104, 168, 242, 224, 100, 50, 32]
    assert [part.test for part in MOTS] == [27, 42, 61, 57, 26, 13, 9]
    assert [part.data_set.task for part in MOTS] == [task.name for task in MOTS_TASKS]
    assert len(MULTITALENT) == 13
    assert sum(part.cases for part in MULTITALENT) == 1460
    assert sum(len(part.data_set.structures) for part in MULTITALENT) == 47


def test_mots_is_put_together_from_its_downloads(tmp_path):
    folders.touch_mots(tmp_path)
    found = find_parts(MOTS, tmp_path)
    assert all(one.complete for one in found)
    collection = recipe_collection("mots", found, tmp_path, seed=0)
    sizes = Counter((case.data_set, case.split) for case in collection.cases)
    for part in MOTS:
        assert sizes[part.data_set.name, "training"] == part.training
        assert sizes[part.data_set.name, "test"] == part.test
    assert collection == recipe_collection("mots", find_parts(MOTS, tmp_path), tmp_path, seed=0)
    assert collection != recipe_collection("mots", found, tmp_path, seed=1)


def test_multitalent_is_put_together_from_the_folders_of_its_official_code(tmp_path):
    names = [
        *("Task003_Liver", "Task006_Lung", "Task007_Pancreas", "Task008_HepaticVessel", "Task009_Spleen"),
        *("Task010_Colon", "Task017_AbdominalOrganSegmentation", "Task046_AbdOrgSegm2"),
        *("Task051_StructSeg2019_Task3_Thoracic_OAR", "Task055_SegTHOR", "Task062_NIHPancreas"),
        *("Task064_KiTS_labelsFixed", "Task018_PelvicOrganSegmentation"),
    ]
    for name in names:
        folders.touch_task(tmp_path / name, 2)
    found = find_parts(MULTITALENT, tmp_path)
    assert [one.folders[0].name for one in found] == names
    assert {len(one.cases) for one in found} == {2}
    collection = recipe_collection("multitalent", found, tmp_path, seed=0)
    assert {case.split for case in collection.cases} == {"training"}


def test_multitalent_is_also_put_together_from_downloads(tmp_path):
    for write in (folders.kits, folders.btcv, folders.segthor, folders.structseg, folders.decathlon):
        write(tmp_path)
    folders.touch(tmp_path / "nih-pancreas", "images/1.nii.gz", "labels/1.nii.gz")
    counts = {one.part.data_set.name: len(one.cases) for one in find_parts(MULTITALENT, tmp_path)}
    assert {name for name, count in counts.items() if count == 1} == {
        *("kits19", "btcv", "segthor", "structseg", "msd-spleen", "nih-pancreas"),
    }
    assert sum(counts.values()) == 6


def test_what_is_missing_is_said_with_the_folders_looked_for(tmp_path):
    folders.lits(tmp_path)
    header, rows = part_rows(find_parts(MOTS, tmp_path))
    cells = dict(zip(header, rows[0], strict=True))
    assert (cells["FOUND"], cells["OF"], cells["FOLDER"]) == ("2", "131", "LiTS")
    cells = dict(zip(header, rows[-1], strict=True))
    assert (cells["FOUND"], cells["OF"], cells["SOURCE"]) == ("0", "41", "http://medicaldecathlon.com")
    assert cells["FOLDER"] == "looked for task09_spleen, task009_spleen, msd-spleen"


def test_a_folder_converted_with_other_labels_is_refused(tmp_path):
    folder = tmp_path / "Task051_StructSeg2019_Task3_Thoracic_OAR"
    folders.touch_task(folder, 1)
    labels = {"0": "background", "1": "right lung", "2": "left lung"}
    folders.write_json(folder / "dataset.json", modality={"0": "CT"}, labels=labels)
    with pytest.raises(
        InputError, match="right lung has the value 1, where the recipe expects left_lung; convert"
    ):
        find_parts(MULTITALENT, tmp_path)
    folders.write_json(folder / "dataset.json", labels={"left_lung": 1, "vessels": 2})
    with pytest.raises(InputError, match="vessels has the value 2, where the recipe expects right_lung;"):
        find_parts(MULTITALENT, tmp_path)


def cases_named(count, data_set="lits"):
    return tuple(Case(f"{data_set}-{index}", data_set, f"{index}.nii", "l.nii") for index in range(count))


@given(st.integers(0, 20), st.integers(0, 2**32), st.randoms())
def test_the_drawn_split_depends_on_nothing_but_seed_and_names(count, seed, random):
    cases = cases_named(20)
    split = with_test_cases(cases, count, seed)
    assert sorted(case.split for case in split) == ["test"] * count + ["training"] * (20 - count)
    mixed = list(cases)
    random.shuffle(mixed)
    assert set(with_test_cases(tuple(mixed), count, seed)) == set(split)


@given(st.integers(0, 2**32))
def test_five_folds_hold_every_training_case_once(seed):
    cases = (*cases_named(23), *cases_named(8, "kits19"), Case("x", "lits", "x.nii"))
    held_out = [
        case.name
        for fold in range(5)
        for case in with_validation_fold(cases, fold, seed)
        if case.split == "validation"
    ]
    assert sorted(held_out) == sorted(case.name for case in cases if case.label)
    with pytest.raises(InputError, match="There is no fold 5"):
        with_validation_fold(cases, 5, seed)


def test_cases_are_split_by_lists(tmp_path):
    cases = LAYOUTS["kits"](folders.kits(tmp_path), "kits19") + LAYOUTS["lits"](
        folders.lits(tmp_path), "lits"
    )
    (tmp_path / "train.txt").write_text(
        "# cases\nkits19/data/case_00000/imaging.nii.gz kits19/data/case_00000/segmentation.nii.gz\nlits-0\n"
    )
    (tmp_path / "test.txt").write_text("case_00210\n\nvolume-28.nii\n")
    lists = {"training": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    split = {case.name: case.split for case in with_listed_splits(cases, lists)}
    assert [split[name] for name in ("kits19-case_00000", "lits-0", "kits19-case_00210", "lits-28")] == [
        *("training", "training", "test", "test")
    ]
    for text, sentence in {
        "imaging": "does not name one case",
        "lits-0": "is in the lists of two splits",
        "case_00210": "1 cases are in no list, the first is lits-28",
    }.items():
        (tmp_path / "test.txt").write_text(text)
        with pytest.raises(InputError, match=sentence):
            with_listed_splits(cases, lists)
    with pytest.raises(InputError, match="the list cannot be read"):
        with_listed_splits(cases, {"test": tmp_path / "none.txt"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_windows_are_read(encoding, tmp_path):
    (tmp_path / "list.txt").write_text("lits-0\r\nlits-1\r\n", encoding=encoding)
    split = with_listed_splits(cases_named(2), {"test": tmp_path / "list.txt"})
    assert [case.split for case in split] == ["test", "test"]


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes("Fälle".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt: the list is no text in UTF-8; save it as UTF-8"):
        with_listed_splits(cases_named(2), {"test": tmp_path / "list.txt"})


def nnunet_folds(path, *folds):
    path.write_text(json.dumps([{"train": train, "val": val} for train, val in folds]))
    return path


def test_what_editors_on_windows_save_is_read(tmp_path):
    """They begin UTF-8 with a mark that JSON does not know."""
    folder = folders.decathlon(tmp_path)
    cases = LAYOUTS["decathlon"](folder, "msd")
    collection, folds = tmp_path / "c.json", nnunet_folds(tmp_path / "f.json", (["0"], ["1"]))
    spleens = {"msd": DataSet("msd", "spleen", {"spleen": (1,)})}
    write_collection(collection, Collection("c", tmp_path, spleens, cases))
    for path in (folder / "dataset.json", collection, folds):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_dataset_json(folder)["name"] == "Spleen"
    assert read_collection(collection).cases == cases
    assert [case.split for case in with_nnunet_fold(cases_named(2), folds, 0)] == ["training", "validation"]


def test_folds_of_nnunet_are_taken_and_the_cases_that_they_do_not_name_left_out(tmp_path, caplog):
    cases = (*cases_named(4), Case("lits-9", "lits", "9.nii"), Case("lits-t", "lits", "t", "t", split="test"))
    path = nnunet_folds(tmp_path / "splits_final.json", (["1", "2"], ["0"]), (["0", "2", "3"], ["1"]))

    split = {case.name: case.split for case in with_nnunet_fold(cases, path, 0)}

    assert split == {
        **{"lits-0": "validation", "lits-1": "training", "lits-2": "training"},
        **{"lits-9": "training", "lits-t": "test"},
    }
    assert caplog.messages == [f"{path}: labelled cases that fold 0 does not name are left out: lits-3."]
    assert len(with_nnunet_fold(cases, path, 1)) == 6


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"train": ["0", "1"], "val": ["2"]}]', "has no fold 1; choose one from 0 to 0"),
        ('[{}, {"train": ["0", "1"], "val": ["2"]}]', r"expected a list of folds \{.*splits_final.json"),
        ('[{"train": ["0"], "val": "12"}]', "expected a list of folds"),
        ("{", "expected a list of folds"),
        ("[]", "expected a list of folds"),
        ('[{"train": [], "val": []}, {"train": ["0", "7"], "val": ["1"]}]', "'7' does not name one case"),
        ('[{"train": [], "val": []}, {"train": ["0", "1"], "val": ["1"]}]', "lits-1 is in both parts"),
    ],
)
def test_what_are_no_folds_of_nnunet_is_refused(tmp_path, text, sentence):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        with_nnunet_fold(cases_named(3), tmp_path / "splits.json", 1)
    with pytest.raises(InputError, match="the folds cannot be read"):
        with_nnunet_fold(cases_named(3), tmp_path / "none.json", 0)


def test_joined_paths_are_relative_inside_the_folder_only(tmp_path, monkeypatch):
    inside, outside = tmp_path / "here", tmp_path / "there"
    case = Case("lits-0", "lits", str(inside / "images" / "0.nii"), str(outside / "0.nii"))
    collection = Collection("lits", inside, {"lits": PROTOCOLS["lits"]}, (case,))
    moved = joined("all", [collection], inside)
    assert moved.cases[0].image == "images/0.nii"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert joined("all", [collection], Path()).cases == moved.cases
    assert moved.cases[0].label == (outside / "0.nii").as_posix()
    again = joined("all", [moved], outside)
    assert again.cases[0].label == "0.nii"
    assert again.path(again.cases[0].image) == inside / "images" / "0.nii"


def test_joined_data_sets_of_one_name_have_one_protocol():
    folder = Path("/data")
    other = dataclasses.replace(PROTOCOLS["lits"], task="else")
    pair = [Collection("a", folder, {"lits": data_set}, ()) for data_set in (PROTOCOLS["lits"], other)]
    with pytest.raises(InputError, match="Two data sets are named lits"):
        joined("all", pair, folder)
    assert joined("all", [pair[0], pair[0]], folder).data_sets == pair[0].data_sets


def test_the_later_mask_has_the_voxels_where_masks_overlap(tmp_path):
    folder = folders.totalsegmentator(tmp_path)
    image = folder / "s0000" / "ct.nii.gz"
    for order in itertools.permutations(["liver", "a_tumor"]):
        overlapping = merge_masks(image, order, tmp_path / "label.nii.gz")
        label = read_volume(tmp_path / "label.nii.gz")
        near = folders.distances(folders.TO_RIGHT_FRONT).transpose()
        assert overlapping == np.count_nonzero(near < 6)
        assert set(label.array[near < 6]) == {2 if order[1] == "a_tumor" else order.index("liver") + 1}
        assert label.same_geometry(read_volume(image))


def test_a_rounded_header_of_a_mask_is_no_other_grid(tmp_path):
    image = folders.totalsegmentator(tmp_path) / "s0000" / "ct.nii.gz"
    mask = image.parent / "segmentations" / "liver.nii.gz"
    volume = read_volume(mask)
    affine = volume.affine.copy()
    affine[0, 3] += 0.05
    write_volume(mask, Volume(volume.array, affine))
    merge_masks(image, ("liver",), tmp_path / "label.nii.gz")
    assert read_volume(tmp_path / "label.nii.gz").same_geometry(read_volume(image))


def test_masks_count_in_alphabetical_order_unless_told_otherwise(tmp_path):
    cases = totalsegmentator_cases(folders.totalsegmentator(tmp_path), "total")
    assert mask_names(cases) == ("a_tumor", "kidney_left", "liver")
    assert mask_names(cases, ("liver", "kidney_left")) == ("liver", "kidney_left")
    data_set = totalsegmentator_data_set("total", "all", ("liver", "kidney_left"))
    assert data_set.structures == {"liver": (1,), "left_kidney": (2,)}
    with pytest.raises(InputError, match="No case has a mask livre; perhaps you meant liver"):
        mask_names(cases, ("livre",))


def test_splits_of_totalsegmentator_are_those_of_its_table(tmp_path):
    folder = folders.totalsegmentator(tmp_path, "s0000", "s0001", "s0002")
    (folder / "meta.csv").write_text("image_id;age;split\ns0000;30;train\ns0001;40;val\ns0002;50;test\n")
    splits = [case.split for case in totalsegmentator_cases(folder, "total")]
    assert splits == ["training", "validation", "test"]


def test_merging_goes_on_where_it_was_stopped_and_lists_what_fails(tmp_path):
    folder = folders.totalsegmentator(tmp_path, "s0000", "s0001", "s0002", "s0003")
    cases, masks = totalsegmentator_cases(folder, "total"), ("kidney_left", "liver")
    (folder / "s0001/segmentations/liver.nii.gz").unlink()
    (folder / "s0002/segmentations/liver.nii.gz").write_bytes(b"damaged")
    other = Volume(np.zeros((3, 4, 5), np.int16), np.eye(4))
    folders.save(folder / "s0003/segmentations/liver.nii.gz", other.array, other.affine)
    merged, faults = merge_cases(cases, masks, tmp_path / "labels")
    assert [case.name for case in merged] == ["total-s0000"]
    assert [fault.case for fault in faults] == ["total-s0001", "total-s0002", "total-s0003"]
    assert "an unknown structure is not an absent one" in faults[0].text
    assert "lies on another grid" in faults[2].text
    first = Path(merged[0].label)
    before = first.stat().st_mtime_ns
    for case in ("s0001", "s0002", "s0003"):
        good = folder / "s0000/segmentations/liver.nii.gz"
        (folder / case / "segmentations/liver.nii.gz").write_bytes(good.read_bytes())
    seen = []
    merged, faults = merge_cases(cases, masks, tmp_path / "labels", lambda *step: seen.append(step), 2)
    assert (len(merged), faults, seen[-1]) == (4, [], (4, 4))
    assert first.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="merged from other masks or in another order"):
        merge_cases(cases, masks[::-1], tmp_path / "labels")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"structures": {"liver": (1,)}, "ignore": (-1,)}, "ignore: expected label values from 0 on, got"),
        ({"structures": {"liver": (-1,)}}, "structures.liver: expected label values from 1 on, got"),
    ],
)
def test_label_values_that_cannot_be_prepared_are_refused(values, text):
    with pytest.raises(InputError, match=re.escape(text)):
        DataSet("livers", "liver", **values)


@pytest.mark.parametrize(("data_set", "test", "validation"), [("lits", "259", "46"), ("kits19", "138", "24")])
def test_a_seed_draws_the_same_cases_in_every_version(data_set, test, validation):
    """A split that another version drew otherwise would train on what an earlier run was tested with."""
    cases = cases_named(10, data_set)
    for drawn, split, numbers in (
        (with_test_cases(cases, 3, 7), "test", test),
        (with_validation_fold(cases, 0, 7), "validation", validation),
    ):
        assert [case.name for case in drawn if case.split == split] == [f"{data_set}-{n}" for n in numbers]


def test_a_case_that_may_lack_in_the_lists_keeps_its_split(tmp_path):
    cases = (*cases_named(1), Case("lits-t", "lits", "t.nii", "l.nii", split="test"))
    (tmp_path / "list.txt").write_text("lits-0\n")
    split = with_listed_splits(cases, {"training": tmp_path / "list.txt"}, ["lits-t"])
    assert [case.split for case in split] == ["training", "test"]
