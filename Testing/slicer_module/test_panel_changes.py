"""What the panel says when volume, region of interest or ticks change in ways that a run depends on."""

import pytest
import pythonqt
import qt
import slicer
from panel_steps import addPhantomNode, itemNamed
from PySide6.QtGui import QTextDocument
from scene_nodes import nonLinearTransformNode, rigid, transformNode
from small_packages import write_package

from PartialSegSlicer import expectedTime
from PartialSegSlicer.scene import mrml
from PartialSegSlicer.widgets.advancedSection import AdvancedSection
from PartialSegSlicer.widgets.messages import showError


def test_apply_follows_the_region_and_the_transform(widget, volumeNode, dialogs):
    ui = widget.ui
    pythonqt.tick(ui.taskTree, itemNamed(widget, "spleen"))
    assert ui.applyButton.enabled
    roiNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    pythonqt.choose(ui.roiSelector, "R")
    assert "is empty; draw it" in ui.applyButton.toolTip
    roiNode.SetXYZ(0, 0, 80)
    roiNode.SetRadiusXYZ(40, 40, 40)
    assert ui.applyButton.enabled
    volumeNode.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    assert "which is not linear" in ui.applyButton.toolTip
    volumeNode.SetAndObserveTransformNodeID(None)
    assert ui.applyButton.enabled
    roiNode.SetAndObserveTransformNodeID(transformNode(rigid(shift=(0, 0, 0))).GetID())
    dialogs.answer(False)
    pythonqt.click(ui.applyButton)
    assert "The region of interest R is rotated" in dialogs.shown[-1].text
    assert not widget.panel.segmenter.isBusy


def test_a_new_region_of_interest_lies_around_the_volume(widget, volumeNode, dialogs):
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    pythonqt.choose(widget.ui.roiSelector, "Create new ROI")
    roiNode = widget.panel.parameters.regionOfInterest
    limits = [0.0] * 6
    volumeNode.GetRASBounds(limits)
    assert mrml.roiLimits(roiNode) == pytest.approx(limits)
    assert roiNode.GetDisplayNode().GetVisibility()
    assert widget.ui.applyButton.enabled


def test_an_effort_that_no_slider_gives_is_told(widget, volumeNode, dialogs, models):
    write_package(models / "tiny")
    widget.panel.refreshModels()
    parameters = widget.panel.parameters
    parameters.effort, parameters.regionFrom = 500, "tiny"  # as a scene edited by hand may say
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    pythonqt.click(widget.ui.applyButton)
    assert dialogs.texts("error") == ["effort: expected 0 (fast) to 1 (thorough), got 5.0"]
    assert not widget.panel.segmenter.isBusy


def test_tags_in_the_names_of_packages_and_volumes_are_shown_as_they_are(widget, volumeNode, dialogs, models):
    tag = "<img src='//host/x.png'>"
    task = {"name": f"liver {tag}", "title": "Liver", "structures": {"liver": 0, "liver_tumor": 1}}
    write_package(models / "tagged", name="tagged", license=f"CC0 {tag}", tasks=[task])
    widget.panel.refreshModels()
    widget.panel.parameters.model = "tagged"
    ui = widget.ui
    assert tag in ui.modelLabel.text
    for label in (ui.modelLabel, ui.statusLabel, ui.softwareLabel, ui.batchStatusLabel):
        assert label.textFormat == qt.Qt.PlainText
    button = ui.taskTree.itemWidget(itemNamed(widget, task["name"]), 1)
    volumeNode.SetName(tag)
    pythonqt.tick(ui.taskTree, itemNamed(widget, task["name"]))
    volumeNode.SetAndObserveTransformNodeID(nonLinearTransformNode().GetID())
    for shown in (button.toolTip, ui.applyButton.toolTip):
        document = QTextDocument()
        document.setHtml(shown)
        assert shown.startswith("<qt>")
        assert tag in document.toPlainText()
    showError(f"{tag}\nis no image")
    assert dialogs.texts("error") == ["<qt>&lt;img src='//host/x.png'&gt;<br>is no image</qt>"]


def test_a_warped_volume_leaves_the_panel_at_work(widget, volumeNode, monkeypatch):
    panel, ui = widget.panel, widget.ui
    device = AdvancedSection.expectedDevice(panel.advanced, panel.parameters.device)
    expectedTime.remember(panel.manifest, panel.modelOptions(panel.parameters), device, 3.0)
    panel.update()
    assert "Expected time: " in ui.modelLabel.text
    warp = nonLinearTransformNode()
    addPhantomNode("Warped", 6).SetAndObserveTransformNodeID(warp.GetID())
    pythonqt.choose(ui.inputSelector, "Warped")
    assert "is not known" in ui.modelLabel.text
    assert "which is not linear" in ui.applyButton.toolTip
    widget.enter()
    pythonqt.choose(ui.inputSelector, "Phantom")
    pythonqt.tick(ui.taskTree, itemNamed(widget, "spleen"))
    assert ui.applyButton.enabled


def test_tasks_without_a_ticked_structure_are_not_computed(widget, volumeNode, dialogs):
    spleen = itemNamed(widget, "spleen")
    pythonqt.tick(widget.ui.taskTree, spleen)
    spleen.setExpanded(True)
    pythonqt.tick(widget.ui.taskTree, widget.panel.taskTree._structures["spleen/spleen"])
    pythonqt.click(widget.ui.applyButton)
    assert not widget.panel.segmenter.isBusy
    assert "All structures of these tasks are unticked" in dialogs.shown[-1].text
