"""The batch section of the panel as a person uses it: real widget, .ui, worker and files."""

import csv
from pathlib import Path
from threading import Event

import pytest
import pythonqt
from panel_steps import itemNamed, picture

from PartialSegLib import write_volume
from PartialSegLib.phantom import make_phantom


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("CTs é")
    volume = make_phantom(5, (10.0, 5.0, 5.0), (30, 64, 72)).volume
    for name in ("anna", "berta"):
        write_volume(folder / f"{name}.nii.gz", volume)
    (folder / "broken.nii.gz").write_text("no image")
    return folder


def waitForEnd(widget):
    pythonqt.wait_until(lambda: not widget.panel.batchSection.isRunning, 120)


@pytest.fixture
def section(widget, images, dialogs, tmp_path):
    pythonqt.click(widget.ui.batchCollapsibleButton)
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    dialogs.choose_path(images, tmp_path / "results")
    pythonqt.click(widget.ui.batchFolderButton)
    pythonqt.click(widget.ui.batchOutputButton)
    return widget


def rowsOf(folder: Path):
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_a_folder_of_images_becomes_a_folder_of_segmentations(section, tmp_path):
    pythonqt.click(section.ui.batchButton)
    assert section.ui.batchButton.text == "Cancel"
    picture(section, "panel-batch")
    waitForEnd(section)
    assert section.ui.batchStatusLabel.text.startswith("2 of 3 cases done, 1 failed")
    assert section.ui.batchButton.text == "Segment these files"
    rows = rowsOf(tmp_path / "results")
    assert float(rows["anna"]["spleen/spleen [ml]"]) == float(rows["berta"]["spleen/spleen [ml]"]) > 0
    assert "broken.nii.gz" in rows["broken"]["message"]
    pythonqt.click(section.ui.batchButton)
    pythonqt.wait_until(lambda: section.ui.batchStatusLabel.text.startswith("1 of 3 images are left"))
    waitForEnd(section)


def test_a_structure_can_be_left_out_of_one_task_and_kept_in_another(section, tmp_path):
    for task in ("liver", "hepatic vessel"):
        pythonqt.tick(section.ui.taskTree, itemNamed(section, task))
    tree = section.panel.taskTree
    pythonqt.tick(section.ui.taskTree, tree._structures["hepatic vessel/liver_tumor"])
    pythonqt.click(section.ui.batchButton)
    waitForEnd(section)
    columns = [column for column in rowsOf(tmp_path / "results")["anna"] if column.endswith("[ml]")]
    assert "liver/liver_tumor [ml]" in columns
    assert "hepatic vessel/hepatic_vessel [ml]" in columns
    assert "hepatic vessel/liver_tumor [ml]" not in columns


def test_without_a_structure_no_batch_begins(section, dialogs, tmp_path):
    pythonqt.tick(section.ui.taskTree, section.panel.taskTree._structures["spleen/spleen"])
    pythonqt.click(section.ui.batchButton)
    assert dialogs.texts("error")[-1].startswith(("All structures of these tasks", "Tick at least one task"))
    assert not (tmp_path / "results").exists()


def test_a_dropped_file_is_a_path(widget, tmp_path):
    from PartialSegSlicer.widgets import batchSection  # there once the module is loaded

    path = tmp_path / "My CT é"
    assert Path(batchSection._unquoted(path.as_uri())) == path
    assert batchSection._unquoted(f' "{path}" ') == str(path)


def test_a_cancelled_batch_keeps_what_is_finished(section, tmp_path):
    pythonqt.click(section.ui.batchButton)
    pythonqt.wait_until(lambda: "1 / 3" in section.ui.batchStatusLabel.text, 120)
    pythonqt.click(section.ui.batchButton)
    waitForEnd(section)
    assert "cancelled" in section.ui.batchStatusLabel.text
    assert section.ui.batchButton.enabled
    assert (tmp_path / "results" / "anna.seg.nrrd").exists()


@pytest.mark.parametrize("missing", ["paths", "file", "drive", "home", "error", "output", "tasks"])
def test_what_is_missing_is_said(section, dialogs, missing, tmp_path, monkeypatch):
    if missing == "paths":
        section.ui.batchPathsEdit.setPlainText("")
    elif missing == "file":
        section.ui.batchPathsEdit.setPlainText(f' "{tmp_path / "gone.nii"}" ')  # as Windows copies it
    elif missing == "drive":
        section.ui.batchPathsEdit.setPlainText("/" + 300 * "a")  # refused as a drive is that does not answer
    elif missing == "home":
        section.ui.batchPathsEdit.setPlainText("~nobody-of-this-name/cts")
    elif missing == "error":
        monkeypatch.setattr("PartialSegSlicer.batchRun.find_package", lambda name: 1 / 0)
    elif missing == "output":
        section.ui.batchOutputEdit.text = ""
    else:
        pythonqt.click(section.ui.noneButton)
    pythonqt.click(section.ui.batchButton)
    waitForEnd(section)
    expected = {
        "paths": "No images",
        "file": f"no file or folder {tmp_path / 'gone.nii'};",
        "drive": "cannot be read (File name too long); check its permissions",
        "home": "no file or folder",
        "error": "Something unexpected happened: ZeroDivisionError: division by zero",
        "output": "Choose a folder",
        "tasks": "Tick at least one task",
    }
    assert expected[missing] in dialogs.texts("error")[-1] == section.ui.batchStatusLabel.text
    assert not section.panel.batchSection.isRunning
    assert not (tmp_path / "results").exists()


def test_what_is_left_out_is_logged_once_and_by_the_main_thread(section, scene, images, tmp_path, caplog):
    folder = tmp_path / "hospital"
    (folder / "anna" / "scans").mkdir(parents=True)
    (folder / "anna" / "scans" / "ct.nii.gz").write_bytes((images / "anna.nii.gz").read_bytes())
    section.ui.batchPathsEdit.setPlainText(f"{images / 'anna.nii.gz'}\n{folder}")
    (folder / "berta.nii.gz").write_bytes((images / "berta.nii.gz").read_bytes())
    pythonqt.click(section.ui.batchButton)
    pythonqt.wait_until(lambda: section.ui.batchStatusLabel.text.startswith("2 of 2 images are left"))
    assert sum("In subfolders 1 image file is left out" in text for text in caplog.messages) == 1
    assert scene.messages == []


@pytest.mark.parametrize("cancels", [True, False])
def test_a_folder_that_does_not_answer_leaves_slicer_usable(section, dialogs, tmp_path, monkeypatch, cancels):
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "slice").touch()
    answers = Event()
    monkeypatch.setattr("PartialSegLib.batch.images._is_dicom", lambda path: not answers.wait())
    section.ui.batchPathsEdit.setPlainText(str(tmp_path / "share"))
    pythonqt.click(section.ui.batchButton)
    assert section.ui.batchStatusLabel.text == "Looking for images…"
    if cancels:
        pythonqt.click(section.ui.batchButton)
        assert section.ui.batchButton.text == "Segment these files"
    answers.set()
    waitForEnd(section)
    assert [text for text in dialogs.texts("error") if "holds no images" in text] == [
        *([] if cancels else [section.ui.batchStatusLabel.text])
    ]


def test_closing_the_module_ends_the_batch(section):
    pythonqt.click(section.ui.batchButton)
    section.cleanup()
    assert not section.panel.batchSection.isRunning
    assert section.panel.batchSection.client.pid is None
