"""Importing official checkpoints and replacing models from the panel's menu; the children are real."""

import os
import tempfile
import zipfile

import parity
import pytest
import pythonqt
import qt
import slicer
import torch
from nnunet_folder import plans_of, write_model_folder
from parity_data import official_weights
from small_packages import assert_sound, write_package, zip_package

from PartialSegLib.model import load_model

IMPORT = "Import an official checkpoint…"
IMPORT_FOLDER = "Import a model folder of nnU-Net…"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A DoDNet checkpoint of full size as the official code saves it, with random weights."""
    path = tmp_path_factory.mktemp("checkpoints é") / "MOTS_DynConv.pth"
    torch.save(parity.official_dodnet_weights(), path)
    return path


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for temporary files, of this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def choosePath(widget, dialogs, path, entry=IMPORT):
    dialogs.choose_path(path)
    pythonqt.choose(widget.ui.modelMenuButton.menu(), entry)


def waitForMenu(widget):
    pythonqt.wait_until(lambda: not widget.panel.modelMenu.isBusy, 120)


def itemsOf(comboBox):
    return [comboBox.itemText(row) for row in range(comboBox.count)]


def answer(choice, button):
    assert choice.dialog.visible
    pythonqt.click(choice.buttons.button(button))
    assert not choice.dialog.visible


def listed(widget):
    return [widget.ui.modelComboBox.itemData(row) for row in range(widget.ui.modelComboBox.count)]


def test_an_official_checkpoint_becomes_a_model_after_asking_in_place_of_an_older_one(
    widget, dialogs, models, scratch, checkpoint
):
    write_package(models / "dodnet-mots", name="dodnet-mots", title="The old one")
    choosePath(widget, dialogs, checkpoint)
    assert "MOTS_DynConv.pth" in widget.ui.logText.toPlainText()
    waitForMenu(widget)
    (question,) = [shown for shown in dialogs.shown if shown.kind != "file"]
    assert question.title == "Replace the model?"
    assert "dodnet-mots is installed already" in question.text
    assert listed(widget) == ["dodnet-mots", "trunk-7tasks"]
    assert_sound(models / "dodnet-mots")
    assert list(scratch.iterdir()) == []
    widget.ui.modelComboBox.setCurrentIndex(0)
    assert not widget.ui.modelComboBox.currentText.startswith("The old one")
    assert widget.panel.taskTree.names[:2] == ["liver", "kidney"]
    assert widget.panel.parameters.model == "dodnet-mots"


def test_a_wrong_file_is_refused_in_one_sentence_and_nothing_is_left(
    widget, dialogs, models, scratch, tmp_path
):
    (tmp_path / "wrong.pth").write_bytes(b"\x80\x02no checkpoint\xff\xfe")
    choosePath(widget, dialogs, tmp_path / "wrong.pth")
    waitForMenu(widget)
    (message,) = dialogs.texts("error")
    assert "wrong.pth is damaged or not a PyTorch checkpoint" in message
    assert "\n" not in message
    assert not models.exists()
    assert list(scratch.iterdir()) == []
    assert listed(widget) == ["trunk-7tasks"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_model_of_nnunet_is_imported_with_all_folds_from_its_folder_or_a_zip(
    widget, dialogs, models, scratch, tmp_path, zipped
):
    name = "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold in ("fold_0", "fold_1"):
        weights = official_weights("nnunet_v2_plain")
        write_model_folder(tmp_path / name, plans_of("nnunet_v2_plain"), weights, fold=fold)
    if zipped:
        with zipfile.ZipFile(tmp_path / "exported.zip", "w") as file:
            for path in (tmp_path / name).rglob("*.*"):
                file.write(path, f"Dataset003_Liver/{path.relative_to(tmp_path)}")
        choosePath(widget, dialogs, tmp_path / "exported.zip")
    else:
        choosePath(widget, dialogs, tmp_path / name, IMPORT_FOLDER)
    choice = widget.panel.modelMenu.choice
    assert itemsOf(choice.modelComboBox) == ["3d_fullres"]
    assert itemsOf(choice.foldsComboBox) == ["All 2, as nnU-Net does (2 times as long)", "Fold 0", "Fold 1"]
    answer(choice, qt.QDialogButtonBox.Ok)
    waitForMenu(widget)
    assert dialogs.texts("error") == []
    assert "It holds 2 networks and takes 2 times as long as one." in widget.ui.logText.toPlainText()
    assert (models / "dataset003_liver-3d_fullres" / "weights.safetensors").exists()
    assert list(scratch.iterdir()) == []


def test_one_of_several_models_of_nnunet_and_one_of_its_folds_can_be_chosen(
    widget, dialogs, models, scratch, tmp_path
):
    weights = official_weights("nnunet_v2_plain")
    chosen = {name: 2 * weight for name, weight in weights.items()}
    for configuration, folds in {"2d": "0", "3d_fullres": "0", "3d_lowres": "01a"}.items():
        for fold in folds:
            write_model_folder(
                tmp_path / "Dataset003_Liver" / f"nnUNetTrainer__nnUNetPlans__{configuration}",
                plans_of("nnunet_v2_plain"),
                chosen if fold == "1" else weights,
                fold="fold_all" if fold == "a" else f"fold_{fold}",
            )
    choosePath(widget, dialogs, tmp_path / "Dataset003_Liver", IMPORT_FOLDER)
    choice = widget.panel.modelMenu.choice
    assert itemsOf(choice.modelComboBox) == ["3d_fullres", "3d_lowres"]
    assert itemsOf(choice.foldsComboBox) == ["Fold 0"]
    pythonqt.choose(choice.modelComboBox, "3d_lowres")
    several = "All 2, as nnU-Net does (2 times as long)"
    assert itemsOf(choice.foldsComboBox) == [several, "Fold 0", "Fold 1", "The one trained on all cases"]
    answer(choice, qt.QDialogButtonBox.Cancel)
    assert not widget.panel.modelMenu.isBusy
    choosePath(widget, dialogs, tmp_path / "Dataset003_Liver", IMPORT_FOLDER)
    choice = widget.panel.modelMenu.choice
    pythonqt.choose(choice.modelComboBox, "3d_lowres")
    pythonqt.choose(choice.foldsComboBox, "Fold 1")
    answer(choice, qt.QDialogButtonBox.Ok)
    waitForMenu(widget)
    assert dialogs.texts("error") == []
    (package,) = models.iterdir()
    largest = max(weight.abs().max() for weight in load_model(package).network.state_dict().values())
    assert largest == max(weight.abs().max() for weight in chosen.values())


def test_a_damaged_zip_is_refused_before_anything_is_asked(widget, dialogs, models, scratch, tmp_path):
    (tmp_path / "exported.zip").write_bytes(b"PK no archive")
    choosePath(widget, dialogs, tmp_path / "exported.zip")
    (message,) = dialogs.texts("error")
    assert "exported.zip is not a zip archive" in message
    assert widget.panel.modelMenu.choice is None
    assert not models.exists()


@pytest.mark.parametrize(("replace", "version"), [(True, "2.0.0"), (False, "1.0.0")])
def test_a_zip_of_an_installed_model_replaces_it_only_after_asking(
    widget, dialogs, models, archive, tmp_path, replace, version
):
    entry = "Install from a zip file…"
    choosePath(widget, dialogs, archive, entry)
    waitForMenu(widget)
    newer = zip_package(write_package(tmp_path / "newer", version="2.0.0"), tmp_path / "newer.zip")
    dialogs.answer(replace)
    choosePath(widget, dialogs, newer, entry)
    waitForMenu(widget)
    assert "tiny is installed already" in dialogs.shown[-1].text
    assert_sound(models / "tiny", version)


def test_a_second_installation_waits_for_the_first(widget, dialogs, models, archive):
    widget.panel.modelMenu.install(str(archive))
    widget.panel.modelMenu.install(str(archive))
    assert dialogs.texts("error") == ["Another model is being installed; wait until it is ready."]
    waitForMenu(widget)
    assert_sound(models / "tiny")


def test_closing_the_module_ends_an_installation_and_leaves_nothing(widget, dialogs, models, tmp_path):
    entry = {"sha256": "0" * 64, "bytes": 8 << 30}
    package = write_package(tmp_path / "large", files={"weights.safetensors": entry})
    os.truncate(package / "weights.safetensors", entry["bytes"])
    widget.panel.modelMenu.install(str(package))
    pythonqt.wait_until(lambda: list(models.glob(".partial-*/new/weights.safetensors")))
    widget.cleanup()
    assert list(models.iterdir()) == []
    assert dialogs.texts("error") == []


@pytest.mark.parametrize("quitting", [False, True])
def test_closing_the_module_or_slicer_ends_an_import(widget, dialogs, models, scratch, checkpoint, quitting):
    choosePath(widget, dialogs, checkpoint)
    pythonqt.wait_until(lambda: list(scratch.iterdir()))
    if quitting:  # of which Slicer tells modules by this signal alone
        slicer.app.aboutToQuit.emit()
    else:
        widget.cleanup()
    pythonqt.wait_until(lambda: list(scratch.iterdir()) == [])
    assert not models.exists()
    assert dialogs.texts("error") == []


def test_a_long_installation_shows_how_far_it_is_and_can_be_cancelled(
    widget, dialogs, models, tmp_path, monkeypatch
):
    monkeypatch.setattr("PartialSegSlicer.widgets.progressDialog.SHOWN_AFTER_MILLISECONDS", 0)
    entry = {"sha256": "0" * 64, "bytes": 8 << 30}
    package = write_package(tmp_path / "large<b>", files={"weights.safetensors": entry})
    os.truncate(package / "weights.safetensors", entry["bytes"])
    menu = widget.panel.modelMenu
    menu.install(str(package))
    pythonqt.wait_until(lambda: menu.progress.dialog.visible and menu.progress.dialog.value > 0)
    assert "large&lt;b&gt;" in menu.progress.dialog.labelText
    assert menu.progress.dialog.maximum == 1000
    pythonqt.click(menu.progress.dialog.findChildren(qt.QPushButton)[0])
    waitForMenu(widget)
    assert menu.progress is None
    assert widget.ui.logText.toPlainText().endswith("Cancelled; nothing was installed.")
    assert list(models.iterdir()) == []
    assert dialogs.shown == []


def test_an_import_can_be_cancelled(widget, dialogs, models, scratch, checkpoint):
    choosePath(widget, dialogs, checkpoint)
    menu = widget.panel.modelMenu
    assert not menu.progress.dialog.visible  # a short one shows no window
    assert (menu.progress.dialog.minimum, menu.progress.dialog.maximum) == (0, 0)
    menu.progress.dialog.show()
    pythonqt.wait_until(lambda: list(scratch.iterdir()))
    pythonqt.click(menu.progress.dialog.findChildren(qt.QPushButton)[0])
    waitForMenu(widget)
    pythonqt.wait_until(lambda: list(scratch.iterdir()) == [])
    assert not models.exists()
    assert dialogs.texts("error") == []
    choosePath(widget, dialogs, checkpoint)  # and begun anew
    waitForMenu(widget)
    assert listed(widget) == ["dodnet-mots", "trunk-7tasks"]
