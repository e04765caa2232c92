"""The check before training: every kind of fault in real files, all in one list."""

import time

import data_set_folders as folders
import numpy as np
import pytest

from PartialSegLib import read_volume, write_volume
from PartialSegLib.training.collection import Case, Collection, DataSet
from PartialSegLib.training.collection.case_check import check_cases, fault_rows
from PartialSegLib.training.loop.threads import mapped
from PartialSegLib.volume import reorient

DATA_SET = DataSet("kidneys", "kidney", {"kidney": (1, 2), "kidney_tumor": (2,)}, ignore=(9,))
AFFINE = folders.TO_LEFT_BACK


@pytest.fixture
def case(tmp_path):
    folders.save_pair(tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz", AFFINE)
    return Case("a", "kidneys", "ct.nii.gz", "label.nii.gz")


def faults_of(tmp_path, *cases, **options):
    return check_cases(Collection("c", tmp_path, {"kidneys": DATA_SET}, cases), **options)


def kinds(tmp_path, *cases):
    return [fault.kind for fault in faults_of(tmp_path, *cases)]


def relabel(tmp_path, change, affine=AFFINE):
    label = folders.spot_label(AFFINE).astype(np.float32)
    folders.save(tmp_path / "label.nii.gz", change(label), affine)


def test_a_good_case_has_no_faults_and_progress_is_told(case, tmp_path):
    seen = []
    assert faults_of(tmp_path, case, on_progress=lambda *step: seen.append(step)) == []
    assert seen == [(1, 1)]


def test_a_case_that_waits_for_labels_has_no_faults(case, tmp_path):
    assert kinds(tmp_path, Case("a", "kidneys", "ct.nii.gz")) == []


@pytest.mark.parametrize(
    ("file", "kind"), [("ct.nii.gz", "image unreadable"), ("label.nii.gz", "label map unreadable")]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_files_that_cannot_be_read_are_found(case, tmp_path, file, kind, damage):
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    if damage == "truncated":
        (tmp_path / file).write_bytes(content[: len(content) // 2])
    (fault,) = faults_of(tmp_path, case)
    assert (fault.case, fault.data_set, fault.kind) == ("a", "kidneys", kind)
    assert file in fault.text


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda label: label[:-1], "shapes differ", "image 14 × 24 × 22, label map 14 × 24 × 21"),
        (lambda label: label * 0, "no foreground", "none of the values 1, 2"),
        (lambda label: label * 9, "no foreground", "none of the values 1, 2"),
        (lambda label: label / 2, "label values not whole", "0.5"),
        (lambda label: label + 4 * (label == 0), "label values unknown", "4; known are 0 and 1, 2"),
        (lambda label: label - 3 * (label == 0), "label values unknown", "-3; known are 0 and 1, 2"),
    ],
)
def test_label_maps_that_do_not_fit_are_found(case, tmp_path, change, kind, text):
    relabel(tmp_path, change)
    faults = faults_of(tmp_path, case)
    assert [fault.kind for fault in faults] == [kind]
    assert faults[0].text.startswith(text)


def test_a_ct_that_is_hardly_hu_is_told_of_and_taken(case, tmp_path):
    folders.save(tmp_path / "ct.nii.gz", folders.bright_spot(AFFINE) + 1024, AFFINE)
    (fault,) = faults_of(tmp_path, case)
    assert (fault.kind, fault.is_taken) == ("hardly HU", True)
    assert "not rescaled to HU" in fault.text


def test_ignored_voxels_are_no_fault(case, tmp_path):
    relabel(tmp_path, lambda label: np.where(label == 0, 9, label))
    assert kinds(tmp_path, case) == []


@pytest.mark.parametrize("other", ["flipped", "moved", "slices first"])
def test_a_label_map_of_another_affine_is_found_not_paired(case, tmp_path, other):
    affine = {
        "flipped": AFFINE @ np.diag([-1.0, 1, 1, 1]),
        "moved": AFFINE + np.outer((1, 0, 0, 0), (0, 0, 0, 0.5)),
        "slices first": folders.SLICES_FIRST,
    }[other]
    relabel(tmp_path, lambda label: label, affine)
    (fault,) = faults_of(tmp_path, case)
    assert fault.kind == "affines differ"
    assert fault.text.startswith("image SPL 4 × 2 × 2 mm from (")


def test_rounded_affines_are_no_fault(case, tmp_path):
    relabel(tmp_path, lambda label: label, AFFINE * (1 + 1e-5 * np.eye(4)))
    assert kinds(tmp_path, case) == []


@pytest.mark.parametrize("scale", [0.001, 10])
def test_spacing_in_other_units_is_found(tmp_path, scale):
    affine = AFFINE @ np.diag([scale, scale, scale, 1])
    folders.save(tmp_path / "ct.nii.gz", folders.bright_spot(AFFINE), affine)
    assert kinds(tmp_path, Case("a", "kidneys", "ct.nii.gz")) == ["spacing out of range"]


def test_an_image_without_contents_is_found(tmp_path):
    folders.save(tmp_path / "ct.nii.gz", np.zeros(folders.SHAPE, np.int16), AFFINE)
    assert kinds(tmp_path, Case("a", "kidneys", "ct.nii.gz")) == ["image empty"]


def test_an_image_in_two_splits_is_found_in_any_format_and_orientation(case, tmp_path):
    image = read_volume(tmp_path / "ct.nii.gz")
    write_volume(tmp_path / "copy.nrrd", reorient(image, "IAR"))
    twin = Case("b", "kidneys", "copy.nrrd", split="test")
    (fault,) = faults_of(tmp_path, case, twin)
    assert (fault.case, fault.kind) == ("b", "image in two splits")
    assert fault.text == "test, the same image as a (training)"
    assert kinds(tmp_path, case, Case("b", "kidneys", "copy.nrrd")) == []


def test_all_faults_are_in_one_table_in_the_order_of_the_cases(case, tmp_path):
    relabel(tmp_path, lambda label: label * 5, folders.SLICES_FIRST)
    bad = Case("z", "kidneys", "none.nii.gz")
    for workers in (1, 3):
        faults = faults_of(tmp_path, bad, case, workers=workers)
        header, rows = fault_rows(faults)
        assert header == ["CASE", "DATA SET", "FAULT", "FOUND"]
        assert [row[2] for row in rows] == [
            *("image unreadable", "affines differ", "label values unknown", "no foreground")
        ]


def test_an_interruption_does_not_wait_for_the_cases_not_begun():
    begun = []

    def read(index):
        begun.append(index)
        time.sleep(0.01)

    def interrupted():
        with mapped(read, range(500), 2) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 100
