"""Preprocessed cases: on the grid of inference, complete or absent, made once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from collection_on_disk import LIVER, PREPROCESSING, SHAPE, affine_of, arrays, write_collection_files
from full_disk import full_disk

from PartialSegLib.errors import InputError
from PartialSegLib.files.json_fields import to_json
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.training.collection import Collection
from PartialSegLib.training.preparation import prepared_cases
from PartialSegLib.training.preparation.prepared_cases import (
    find_case,
    prepare_collection,
    settings_folder,
)
from PartialSegLib.training.preparation.preparing import resample_labels
from PartialSegLib.volume import Volume, read_volume, reorient, write_volume

CPU = torch.device("cpu")


def everything(folder: Path, collection: Collection, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    prepared = find_case(folder, collection, collection.cases[number])
    whole = (0, 0, 0), prepared.summary.shape
    return prepared.read_image(*whole), prepared.read_labels(*whole)


def place_of(folder: Path, name: str) -> Path:
    """Where the case of a name lies."""
    (place,) = folder.glob(f"{name}-????????")
    return place


def names_in(folder: Path) -> list[str]:
    """Names of cases without their digits, and of other files."""
    return sorted(re.sub("-[0-9a-f]{8}$", "", name) for name in os.listdir(folder))


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("rule", ["linear", "nearest"])
@pytest.mark.parametrize("orientation", ["SAR", "LPI", "ASL"])
@pytest.mark.parametrize("resampling", ["linear", "cubic"])
def test_labels_lie_where_preprocessing_puts_the_image(tmp_path, rule, orientation, resampling):
    collection = write_collection_files(tmp_path, a="livers")
    settings = Preprocessing(orientation, (1.4, 1.2, 1.1), (-1000, 1000), 0, 1000, resampling)
    prepare_collection(collection, settings, tmp_path / "prepared", rule=rule)
    image, labels = everything(tmp_path / "prepared", collection)
    expected = preprocess(read_volume(tmp_path / "a.nii"), settings, CPU).tensor.numpy()
    np.testing.assert_allclose(image[0], expected, atol=1e-3)
    bright, liver = image[0] > 0.25, (labels == 1) | (labels == 2)
    assert 2 * (bright & liver).sum() / (bright.sum() + liver.sum()) > 0.94  # one voxel off: 0.9
    assert set(np.unique(labels)) == {0, 1, 2, 3}


@pytest.mark.parametrize("rule", ["linear", "nearest"])
@pytest.mark.parametrize("orientation", ["SAR", "IPL", "RSA", "PLS"])
def test_on_a_grid_of_the_same_spacing_labels_are_only_turned(rule, orientation):
    image, labels = arrays()
    volume = Volume(image, affine_of((1, 1, 1)))
    prepared = preprocess(volume, Preprocessing(orientation, (1, 1, 1), (-1000, 1000)), CPU)
    expected = reorient(volume.with_array(labels), orientation).array
    np.testing.assert_array_equal(resample_labels(labels, prepared, rule), expected)


def test_a_line_that_takes_half_of_the_coarse_voxels_survives_and_the_larger_share_wins():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[:, :, 2] = 7
    labels[:, 4:] = 3
    volume = Volume(np.zeros(labels.shape, np.int16), affine_of((1, 1, 1)))
    prepared = preprocess(volume, Preprocessing("SAR", (1, 2, 2), (-1, 1), resampling="trilinear"), CPU)
    assert resample_labels(labels, prepared, "linear")[0].tolist() == [[0, 7, 0, 0]] * 2 + [[3] * 4] * 2


def test_cropping_to_the_body_crops_labels_alike(tmp_path):
    image, labels = arrays()
    air = np.pad(image, 20, constant_values=-1000)
    write_volume(tmp_path / "a.nii", Volume(air, affine_of()))
    write_volume(tmp_path / "a-label.nii", Volume(np.pad(labels, 20), affine_of()))
    collection = write_collection_files(tmp_path / "other", a="livers")
    collection = replace(collection, folder=tmp_path)
    settings = replace(PREPROCESSING, crop_to_body=True)
    prepare_collection(collection, settings, tmp_path / "prepared")
    image, found = everything(tmp_path / "prepared", collection)
    assert np.prod(found.shape) < air.size / 2
    np.testing.assert_array_equal(image[0] > 0.25, (found == 1) | (found == 2))


def test_values_are_counted_boxed_and_sampled(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    case = find_case(tmp_path / "prepared", collection, collection.cases[0])
    _, labels = everything(tmp_path / "prepared", collection)
    assert [value.value for value in case.summary.values] == [1, 2, 3]
    for value in case.summary.values:
        voxels = np.argwhere(labels == value.value)
        assert value.voxels == len(voxels)
        assert (value.low, value.high) == (tuple(voxels.min(0)), tuple(voxels.max(0) + 1))
        assert (labels[tuple(case.voxels_of(value.value).T)] == value.value).all()


def test_values_above_255_and_parts_beyond_the_border(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    labels = np.zeros(SHAPE, np.uint16)
    labels[LIVER] = 40000
    write_volume(tmp_path / "a-label.nii", Volume(labels, affine_of()))
    prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    case = find_case(tmp_path / "prepared", collection, collection.cases[0])
    start, size = (-3, 2, 20), (10, 12, 30)
    image, part = case.read_image(start, size), case.read_labels(start, size)
    assert image.shape == (1, *size)
    assert (image[:, :3] == -1).all()
    assert (image[..., 8:] == -1).all()
    padded = np.pad(labels, ((3, 0), (0, 0), (0, 30)))[:10, 2:14, 20:50]
    np.testing.assert_array_equal(part, padded)


def test_an_interrupted_preparation_goes_on_where_it_was(tmp_path):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="spleens")
    folder = tmp_path / "prepared"

    def stop_after_one(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_collection(collection, PREPROCESSING, folder, on_progress=stop_after_one)
    first = files_of(place_of(folder, "a"))
    for name, age in ((".node-98-0.partial-b", 7 * 3600), (".node-99-0.partial-b", 0)):
        (folder / name).mkdir()  # what a process leaves that was killed long ago, or one that is still at it
        os.utime(folder / name, times=(time.time() - age,) * 2)
    prepare_collection(collection, PREPROCESSING, tmp_path / "other")
    shutil.copytree(place_of(tmp_path / "other", "c"), folder / place_of(tmp_path / "other", "c").name)
    (place_of(folder, "c") / "case.json").unlink()
    reports: list[tuple[int, int]] = []
    prepare_collection(collection, PREPROCESSING, folder, on_progress=lambda *report: reports.append(report))
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert files_of(place_of(folder, "a")) == first
    assert names_in(folder) == [".node-99-0.partial-b", "a", "b", "c", "settings.json"]
    images = [everything(folder, collection, number)[0] for number in range(3)]
    assert not np.array_equal(images[0], images[2])


def test_what_another_process_has_prepared_meanwhile_is_kept(tmp_path):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="spleens")
    folder, found = tmp_path / "prepared", {}

    def prepare_all_after_one(done: int, total: int) -> None:
        if done == 1:
            prepare_collection(collection, PREPROCESSING, folder)
            found.update(files_of(folder))

    prepare_collection(collection, PREPROCESSING, folder, on_progress=prepare_all_after_one)
    assert files_of(folder) == found


def test_many_at_once_fill_a_folder_and_replace_what_has_changed(tmp_path):
    collection = write_collection_files(tmp_path, **dict.fromkeys("abcd", "livers"))
    folder = tmp_path / "prepared"
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(prepare_collection, collection, PREPROCESSING, folder) for _ in range(4)]
        assert [run.result() for run in runs] == [None] * 4
        assert names_in(folder) == ["a", "b", "c", "d", "settings.json"]
        for number, case in enumerate(collection.cases):
            everything(folder, collection, number)
            write_volume(tmp_path / f"{case.name}-label.nii", Volume(np.ones(SHAPE, np.uint8), affine_of()))


def test_settings_lie_side_by_side_and_say_what_they_are(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    other = replace(PREPROCESSING, pad_value=-325)
    folders = [settings_folder(tmp_path, how) for how in (PREPROCESSING, other)]
    for folder, how in zip(folders, (PREPROCESSING, other), strict=True):
        prepare_collection(collection, how, folder)
        assert json.loads((folder / "settings.json").read_text())["preprocessing"] == to_json(how)
        assert len(folder.name) == 8
    assert find_case(folders[0], collection, collection.cases[0]).summary.background == (-1.0,)
    assert settings_folder(tmp_path, other, "nearest") not in folders


def test_prepared_cases_do_without_their_files(tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="spleens")
    folder = tmp_path / "prepared"
    prepare_collection(collection, PREPROCESSING, folder)
    before = files_of(folder)
    (tmp_path / "a.nii").unlink()
    prepare_collection(collection, PREPROCESSING, folder)
    assert files_of(folder) == before
    assert caplog.messages == [
        "1 of 2 cases, such as a, are taken as they were prepared: their images or label maps are not there."
    ]
    with pytest.raises(InputError, match=r"of the case a cannot be read .*; check the collection's paths"):
        prepare_collection(collection, PREPROCESSING, folder, rule="nearest")


@pytest.mark.parametrize("change", ["preprocessing", "rule", "label"])
def test_what_has_changed_is_prepared_again(tmp_path, change):
    collection = write_collection_files(tmp_path, a="livers", b="spleens")
    folder = tmp_path / "prepared"
    prepare_collection(collection, PREPROCESSING, folder)
    settings, rule, again = PREPROCESSING, "linear", {"a", "b"}
    if change == "preprocessing":
        settings = replace(settings, divide=500)
    elif change == "rule":
        rule = "nearest"
    else:
        write_volume(tmp_path / "a-label.nii", Volume(np.ones(SHAPE, np.uint8), affine_of()))
        again = {"a"}
    before = {name: files_of(place_of(folder, name)) for name in ("a", "b")}
    prepare_collection(collection, settings, folder, rule=rule)
    assert {name for name in before if files_of(place_of(folder, name)) != before[name]} == again
    image, labels = everything(folder, collection)
    assert image.max() > (1 if change == "preprocessing" else 0.5)
    assert labels.all() == (change == "label")


def test_collections_with_cases_of_one_name_keep_their_labels(tmp_path):
    """Label maps of one name in folders of one name, as two rounds of pseudo-labels make them."""
    collections = []
    for stage in ("one", "two"):
        (tmp_path / stage / "labels").mkdir(parents=True)
        collection = write_collection_files(tmp_path / stage / "labels", a="livers")
        collections.append(collection)
    write_volume(collection.folder / "a-label.nii", Volume(np.ones(SHAPE, np.uint8), affine_of()))
    first, second = collections
    prepare_collection(first, PREPROCESSING, tmp_path / "prepared")
    case = find_case(tmp_path / "prepared", first, first.cases[0])
    before = files_of(case.folder)
    prepare_collection(second, PREPROCESSING, tmp_path / "prepared")
    assert everything(tmp_path / "prepared", second)[1].all()
    assert files_of(case.folder) == before
    assert find_case(tmp_path / "prepared", first, first.cases[0]) == case
    moved = replace(first, folder=(tmp_path / "one").rename(tmp_path / "three") / "labels")
    assert find_case(tmp_path / "prepared", moved, moved.cases[0]) == case
    shutil.rmtree(moved.folder)  # the case of either stage may be meant
    with pytest.raises(InputError, match="The case a is not prepared"):
        find_case(tmp_path / "prepared", moved, moved.cases[0])


def test_two_processes_write_the_same(tmp_path):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="organs")
    reports: list[tuple[int, int]] = []
    prepare_collection(collection, PREPROCESSING, tmp_path / "one")
    prepare_collection(
        collection, PREPROCESSING, tmp_path / "two", processes=2, on_progress=lambda *r: reports.append(r)
    )
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert {name: contents for name, (_, contents) in one.items()} == {
        name: contents for name, (_, contents) in two.items()
    }
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_windows_is_asked_for_no_more_processes_than_it_can_wait_for(tmp_path, monkeypatch):
    """Python refuses more than 61 there, and a workstation may have more cores."""
    asked = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count, *context):
            asked.append(count)
            super().__init__(count)

    monkeypatch.setattr(prepared_cases, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(prepared_cases, "_MOST_PROCESSES", 2)
    collection = write_collection_files(tmp_path, a="livers", b="livers", c="spleens")
    prepare_collection(collection, PREPROCESSING, tmp_path / "prepared", processes=64)
    assert asked == [2]


KILLED = """
import os, signal, sys
from pathlib import Path
from collection_on_disk import PREPROCESSING, write_collection_files
from PartialSegLib.training.preparation.prepared_cases import prepare_collection

def die(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
collection = write_collection_files(folder, a="livers", b="spleens", c="organs")
prepare_collection(collection, PREPROCESSING, folder / "prepared", processes=2, on_progress=die)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_killed_preparation_leaves_no_process_behind(tmp_path):
    """Whatever lives has its output open still."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], env=environment, **how) as process:
        try:
            process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == -signal.SIGKILL
    assert "settings.json" in names_in(tmp_path / "prepared")


def test_test_cases_and_cases_without_labels_are_passed_over(tmp_path):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="organs")
    a, b, c = collection.cases
    collection = replace(collection, cases=(a, replace(b, split="test"), replace(c, label=None)))
    prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    assert names_in(tmp_path / "prepared") == ["a", "settings.json"]
    with pytest.raises(InputError, match=r"The case b is not prepared in .*; prepare the collection first"):
        find_case(tmp_path / "prepared", collection, b)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    with full_disk(), pytest.raises(InputError, match=r"Cannot write .*a-[0-9a-f]{8}: .*free some space\.$"):
        prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    assert os.listdir(tmp_path / "prepared") == ["settings.json"]


def test_a_disk_that_will_not_do_is_told_before_anything_is_written(tmp_path, monkeypatch):
    collection = write_collection_files(tmp_path, a="livers")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1.4 * np.prod(SHAPE)))
    with pytest.raises(InputError, match=r"1 cases takes about 0\.0 GB, but .* has 0\.0 GB free; free some"):
        prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def broken_label(kind: str, folder: Path) -> None:
    label = folder / "a-label.nii"
    match kind:
        case "missing":
            label.unlink()
        case "other grid":
            write_volume(label, Volume(np.ones(SHAPE, np.uint8), affine_of((2, 1, 1.6))))
        case "other shape":
            write_volume(label, Volume(np.ones((20, 24, 27), np.uint8), affine_of()))
        case "fractions":
            write_volume(label, Volume(np.full(SHAPE, 0.5, np.float32), affine_of()))
        case "negative":
            write_volume(label, Volume(np.full(SHAPE, -1, np.int16), affine_of()))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "of the case a cannot be read .*; check the collection's paths"),
        ("other grid", "does not lie on the grid of its image"),
        ("other shape", r"\(shape \(20, 24, 27\)\) does not lie on the grid of its image"),
        ("fractions", "whole numbers from 0 to 65535, this one has values from 0.5 to 0.5"),
        ("negative", "values from -1 to -1; give the label map of the case"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, kind, message):
    collection = write_collection_files(tmp_path, a="livers")
    broken_label(kind, tmp_path)
    with pytest.raises(InputError, match=message):
        prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")


def test_a_case_name_stays_in_the_folder(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    collection = replace(collection, cases=(replace(collection.cases[0], name="../a"),))
    with pytest.raises(InputError, match=r"The case name '\.\./a' is no file name"):
        prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")


def test_what_a_file_manager_put_into_a_case_does_not_keep_it(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    prepare_collection(collection, PREPROCESSING, tmp_path)
    place = place_of(tmp_path, "a")
    for name in (".DS_Store", "Thumbs.db"):
        (place / name).touch()
    prepare_collection(collection, replace(PREPROCESSING, pad_value=-7.0), tmp_path)
    assert not (place / ".DS_Store").exists()


def test_folders_of_others_are_not_touched(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    prepare_collection(collection, PREPROCESSING, tmp_path)
    place = place_of(tmp_path, "a")
    (place / "1.dcm").write_bytes(b"precious")
    (place / "case.json").unlink()
    with pytest.raises(InputError, match=f"{place.name} is no prepared case; choose a new folder"):
        prepare_collection(collection, PREPROCESSING, tmp_path)
    assert (place / "1.dcm").read_bytes() == b"precious"


def test_a_damaged_file_is_named(tmp_path):
    collection = write_collection_files(tmp_path, a="livers")
    prepare_collection(collection, PREPROCESSING, tmp_path / "prepared")
    place = place_of(tmp_path / "prepared", "a")
    case = find_case(tmp_path / "prepared", collection, collection.cases[0])
    for name, read in (
        ("image.b2nd", lambda: case.read_image((0, 0, 0), SHAPE)),
        ("voxels.npz", lambda: case.voxels_of(1)),
    ):
        (place / name).write_bytes((place / name).read_bytes()[:100])
        for _ in ("truncated", "missing"):
            with pytest.raises(
                InputError, match=f"{name} cannot be read .*; delete its folder and start again"
            ):
                read()
            (place / name).unlink(missing_ok=True)
