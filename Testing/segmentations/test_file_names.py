"""Names of files that other systems take for the same, refuse, or put there by themselves."""

import ntpath
import os
import unicodedata
from pathlib import Path

import pytest

from PartialSegLib.batch.images import case_names
from PartialSegLib.evaluation.case_matching import matched_cases
from PartialSegLib.files.file_names import allowed, expanded, folded, holds_files, is_from_file_manager

COMPOSED, SEPARATE = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))


def test_names_that_windows_or_macos_take_for_one_are_folded_to_one():
    assert COMPOSED != SEPARATE
    assert folded(COMPOSED) == folded(SEPARATE) == folded("MÜLLER") != folded("Muller")


def test_images_whose_names_macos_takes_for_one_get_two_names(tmp_path):
    images = [tmp_path / "a" / f"{COMPOSED}.nii.gz", tmp_path / "b" / f"{SEPARATE}.nii.gz"]
    assert case_names(images) == [f"a_{COMPOSED}", f"b_{SEPARATE}"]


def test_a_prediction_is_matched_however_accents_are_stored(tmp_path):
    for folder, name in (("predictions", COMPOSED), ("references", SEPARATE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.seg.nrrd").touch()
    ((_, prediction, _),), missing = matched_cases(tmp_path / "predictions", tmp_path / "references")
    assert (prediction.name, missing) == (f"{COMPOSED}.seg.nrrd", [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("liver", "liver"), ("Leber links", "Leber links"), ("a/b:c", "a_b_c"), ("..", "_"), (" ", "_"),
        ("con", "con_"), ("NUL.1", "NUL_.1"), ("COM1", "COM1_"), ("console", "console"), ("com10", "com10"),
    ],
)  # fmt: skip
def test_names_that_some_system_refuses_are_changed(name, expected):
    assert allowed(name) == expected


def test_what_file_managers_put_into_a_folder_is_nothing(tmp_path):
    for name in (".DS_Store", "Thumbs.db", "Desktop.ini", "._liver.nii.gz"):
        (tmp_path / name).touch()
        assert is_from_file_manager(name)
    assert not holds_files(tmp_path)
    (tmp_path / "liver.nii.gz").touch()
    assert holds_files(tmp_path)


def test_windows_makes_up_no_home_folder_for_a_file_that_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("USERNAME", tmp_path.name)
    monkeypatch.setattr(os.path, "expanduser", ntpath.expanduser)
    assert os.path.expanduser("~ct.nii.gz") != "~ct.nii.gz"
    for name in ("~ct.nii.gz", "~nobody/ct.nii.gz", "ct.nii.gz", ""):
        assert expanded(name) == Path(name)
    assert expanded("~") == tmp_path
