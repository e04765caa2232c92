"""The panel as a person uses it: real widget, .ui, worker and model; Slicer's widgets are stand-ins."""

import pytest
import pythonqt
import slicer
from panel_steps import itemNamed, nodeIds, picture, segmentationNode, waitForEnd
from scene_nodes import segmentIds
from small_packages import write_package, zip_package

from PartialSegSlicer.parameters import Parameters
from PartialSegSlicer.worker import workerProcess


def test_without_a_volume_the_tooltip_says_what_to_do(widget):
    assert not widget.ui.applyButton.enabled
    assert "choose a CT" in widget.ui.applyButton.toolTip
    picture(widget, "panel-empty")


def test_apply_segments_the_ticked_task(widget, volumeNode):
    assert widget.ui.applyButton.toolTip == "Tick at least one task."
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    assert widget.ui.applyButton.enabled
    pythonqt.click(widget.ui.applyButton)
    assert widget.ui.applyButton.text == "Cancel"
    picture(widget, "panel-running")
    waitForEnd(widget)
    assert segmentIds(segmentationNode()) == ["PartialSeg_spleen_spleen"]
    assert "Segments found: 1, in" in widget.ui.statusLabel.text
    assert widget.ui.outputSelector.currentNode() is segmentationNode()
    picture(widget, "panel-finished")


def test_a_further_task_by_its_button_uses_the_features(widget, volumeNode):
    tree = widget.panel.taskTree
    pythonqt.click(tree._buttons["liver"])
    waitForEnd(widget)
    first = segmentationNode()
    pythonqt.click(tree._buttons["spleen"])
    assert "features computed before" in widget.ui.statusLabel.text
    waitForEnd(widget)
    assert segmentationNode() is first
    assert {"PartialSeg_liver_liver", "PartialSeg_spleen_spleen"} <= set(segmentIds(first))


def test_cancel_leaves_the_scene_as_it_was(widget, volumeNode):
    slicer.util.arrayFromVolumeModified(volumeNode)  # everything is computed again
    before = nodeIds()
    pythonqt.click(widget.panel.taskTree._buttons["liver"])
    pythonqt.click(widget.ui.applyButton)
    waitForEnd(widget)
    assert "cancelled" in widget.ui.statusLabel.text
    assert segmentationNode() is None
    assert nodeIds() == before


def test_a_worker_that_is_not_kept_leaves_after_a_cancel_too(widget, volumeNode):
    widget.panel.parameters.keepWorker = False
    pythonqt.click(widget.panel.taskTree._buttons["liver"])
    pythonqt.click(widget.ui.applyButton)
    waitForEnd(widget)
    assert not widget.panel.segmenter.client.isWarm


def test_while_segments_are_added_cancel_is_not_offered(widget, volumeNode):
    pythonqt.click(widget.panel.taskTree._buttons["liver"])
    widget.panel._timer.stop()
    pythonqt.wait_until(lambda: widget.panel.poll() or widget.panel.segmenter.isAdding, 120)
    button = widget.ui.applyButton
    assert (button.text, button.enabled, button.toolTip) == ("Cancel", False, "Adding the segments.")
    widget.panel._timer.start()
    waitForEnd(widget)
    assert button.toolTip != "Adding the segments."


def test_a_worker_that_cannot_be_started_is_told_and_nothing_stays_busy(
    widget, volumeNode, dialogs, tmp_path, monkeypatch
):
    monkeypatch.setattr(workerProcess, "pythonProgram", lambda: str(tmp_path / "none"))
    pythonqt.click(widget.panel.taskTree._buttons["spleen"])
    sentence = widget.ui.statusLabel.text
    assert sentence.startswith("The worker could not be started: ")
    assert dialogs.texts("error") == [sentence]
    assert not widget.ui.progressBar.visible
    waitForEnd(widget)


def test_a_person_reads_what_the_model_was_trained_on_and_how_well_it_does(widget):
    label = widget.ui.modelLabel
    assert "Trained on: Synthetic CT only. Many lesions are missed and a few are false;" in label.text
    assert "procedural phantoms" in label.toolTip
    colon = itemNamed(widget, "colon").child(0)
    assert colon.text(1) == "0.36"
    assert colon.toolTip(0).startswith("Mean Dice 0.36, lowest 0.00, on 7 of 16 synthetic phantoms. In the")
    assert itemNamed(widget, "colon").text(1) == ""
    assert widget.panel.taskTree.excluded == []


def test_apply_leaves_a_run_of_a_script_alone(widget, volumeNode, dialogs):
    results = []
    widget.logic.segmentAsync(volumeNode, "liver", onFinished=results.append)
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    pythonqt.click(widget.ui.applyButton)
    assert dialogs.texts("error") == ["A script is segmenting; wait until it has ended."]
    assert (widget.ui.applyButton.text, widget.ui.applyButton.enabled) == ("Apply", True)
    while widget.logic.segmenter.isBusy:
        widget.logic.segmenter.poll(0.02)
    assert results[0].segmentIds


def test_apply_follows_a_corrected_spacing(widget, volumeNode):
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    spacing = volumeNode.GetSpacing()
    volumeNode.SetSpacing(50, 50, 50)
    assert not widget.ui.applyButton.enabled
    volumeNode.SetSpacing(*spacing)
    assert widget.ui.applyButton.enabled


def test_searching_hides_other_tasks(widget):
    pythonqt.type_text(widget.ui.searchEdit, "vessel")
    tree = widget.panel.taskTree
    shown = [name for name in tree.names if not itemNamed(widget, name).isHidden()]
    assert shown == ["hepatic vessel"]
    tree.fill(widget.panel.manifest.tasks, [], [])  # as when another model is chosen
    shown = [name for name in tree.names if not itemNamed(widget, name).isHidden()]
    assert shown == ["hepatic vessel"]


def test_settings_live_in_the_scene(widget, volumeNode):
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "kidney"))
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    pythonqt.type_text(widget.ui.cacheSpinBox, "512")
    parameters = Parameters(widget.logic.getParameterNode())
    assert parameters.tasks == ["kidney"]
    assert parameters.cacheMegabytes == 512
    assert parameters.inputVolume is volumeNode
    picture(widget, "panel-advanced")


def test_closing_the_scene_during_a_run_is_safe(widget, volumeNode, dialogs):
    pythonqt.click(widget.panel.taskTree._buttons["liver"])
    slicer.mrmlScene.Clear(0)
    pythonqt.wait_until(lambda: not widget.panel._timer.isActive(), 30)
    assert segmentationNode() is None


def test_a_problem_of_the_volume_is_said_in_the_tooltip(widget, volumeNode):
    volumeNode.SetSpacing(50, 50, 50)
    volumeNode.Modified()
    widget.panel.update()
    assert "50" in widget.ui.applyButton.toolTip
    assert not widget.ui.applyButton.enabled


def test_a_model_is_installed_from_a_zip_chosen_and_deleted(widget, dialogs, tmp_path, monkeypatch):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "modèles"))
    archive = zip_package(write_package(tmp_path / "source"), tmp_path / "tiny.zip")
    menu = widget.ui.modelMenuButton.menu()
    dialogs.choose_path(str(archive))
    pythonqt.choose(menu, "Install from a zip file…")
    pythonqt.wait_until(lambda: not widget.panel.modelMenu.isBusy, 60)
    names = [widget.ui.modelComboBox.itemData(row) for row in range(widget.ui.modelComboBox.count)]
    assert "tiny" in names
    widget.ui.modelComboBox.setCurrentIndex(names.index("tiny"))
    assert widget.panel.parameters.model == "tiny"
    pythonqt.choose(menu, "Delete the chosen model…")
    assert not (tmp_path / "modèles" / "tiny").exists()
    assert "not installed" in widget.ui.modelLabel.text
    assert not widget.ui.applyButton.enabled


def test_a_zip_that_is_no_model_is_refused_in_one_sentence(widget, dialogs, tmp_path, monkeypatch):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "models"))
    (tmp_path / "wrong.zip").write_text("not a zip")
    widget.panel.modelMenu.install(str(tmp_path / "wrong.zip"))
    pythonqt.wait_until(lambda: not widget.panel.modelMenu.isBusy, 60)
    (message,) = dialogs.texts("error")
    assert "wrong.zip" in message
    assert not (tmp_path / "models" / "wrong").exists()


def test_the_software_is_checked_in_a_child_process(widget):
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    pythonqt.click(widget.ui.installButton)
    assert widget.ui.softwareLabel.text == "Checking…"
    pythonqt.wait_until(lambda: widget.panel.advanced.software.report.isComplete, 120)
    assert widget.ui.softwareLabel.text.startswith("Ready: torch")


def test_the_folder_of_models_is_remembered(dialogs, tmp_path, monkeypatch):
    from PartialSegSlicer.widgets.modelMenu import FOLDER_SETTING

    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "elsewhere"))
    write_package(tmp_path / "mine" / "tiny")
    pythonqt.qt.QSettings().setValue(FOLDER_SETTING, str(tmp_path / "mine"))
    import PartialSeg

    widget = PartialSeg.PartialSegWidget(pythonqt.module_parent())
    widget.setup()
    assert widget.ui.modelComboBox.findData("tiny") >= 0
    widget.cleanup()


def test_a_screen_reader_is_told_what_each_field_and_button_is(widget, volumeNode):
    buttons = widget.panel.taskTree._buttons
    assert buttons["spleen"].accessibleName == "Segment spleen"
    assert buttons["spleen"].toolTip == "Segment only spleen, now."
    labels = widget.parent.findChildren(pythonqt.qt.QLabel)
    fields = [label.objectName for label in labels if label.text.endswith(":") and label.buddy() is None]
    assert fields == []


def test_what_a_person_chooses_is_stored_also_after_an_error(widget):
    failed = []

    def failOnce(device):
        if not failed:
            failed.append(device)
            raise ValueError(device)
        return device

    widget.panel.parameters.device = "cuda:9"
    with pytest.raises(ValueError, match="cuda:9"):
        widget.panel.binding.offer("deviceComboBox", {"cpu": "Processor (CPU)"}, failOnce)
    pythonqt.click(widget.ui.tableCheckBox)
    assert widget.panel.parameters.volumesTable
