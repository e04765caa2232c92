"""What a run may leave out, as a person sets it in the panel: what goes together, and what is said."""

import numpy as np
import pytest
import pythonqt
import slicer
import torch
from panel_steps import picture, segmentationNode, waitForEnd
from scene_nodes import segmentIds
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import DecisionSpec, Preprocessing
from PartialSegLib.model import save_decision
from PartialSegLib.networks.decision_network import DecisionNetwork

from PartialSegSlicer.scene.provenance import provenanceOf

FINE, COARSE, DECIDING = (f"Random weights ({name} 1.2.3)" for name in ("fine", "coarse", "deciding"))
NONE, ALL = "None: look everywhere", "All: look at everything"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Three packages of random weights: fine, coarse, and one with a decision network."""
    folder = tmp_path_factory.mktemp("models")
    for name, spacing in (("fine", 24), ("coarse", 48), ("deciding", 24)):
        preprocessing = Preprocessing("SAR", (spacing,) * 3, (-325, 325), divide=325)
        write_tiny_model(folder / name, TASKS, preprocessing, gain=20, name=name)
    torch.manual_seed(1)
    spec = DecisionSpec((-1, 0, 1), (0.5, 0.5), input_size=32)
    save_decision(folder / "deciding", spec, DecisionNetwork(3, 2, 32).state_dict())
    return folder


@pytest.fixture
def panel(widget, packages, monkeypatch):
    """The panel with these packages, the section unfolded, the fine model chosen."""
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(packages))
    widget.panel.refreshModels()
    pythonqt.choose(widget.ui.modelComboBox, FINE)
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    return widget


def greyed(ui):
    """The reasons for what is greyed out."""
    widgets = (ui.skipAirCheckBox, ui.coarseComboBox, ui.effortWidget)
    return [widget.toolTip.split(";")[0] for widget in widgets if not widget.enabled]


def titles(box):
    return [box.itemText(row) for row in range(box.count)]


def forbidden(box):
    """Titles of the entries that are greyed out, with their reasons."""
    role = pythonqt.qt.Qt.ToolTipRole
    rows = [row for row in range(box.count) if not box.model().item(row).isEnabled()]
    return {box.itemText(row): box.itemData(row, role) for row in rows}


def test_the_other_models_can_look_first_and_the_slider_comes_with_them(panel):
    ui = panel.ui
    *others, bundled = titles(ui.coarseComboBox)
    assert others == [NONE, COARSE, DECIDING]
    assert "trunk-7tasks" in bundled
    assert greyed(ui) == ["Choose a model to look first with."]
    pythonqt.choose(ui.coarseComboBox, COARSE)
    assert greyed(ui) == []
    assert "longer" in ui.effortWidget.toolTip
    picture(panel, "panel-looking-first")
    ui.effortSlider.value = 25
    assert panel.panel.parameters.regionFrom == "coarse"
    assert panel.panel.parameters.effort == 25
    pythonqt.choose(ui.modelComboBox, DECIDING)
    assert titles(ui.coarseComboBox)[:3] == [NONE, COARSE, FINE]


def test_one_choice_looks_at_everything_and_greys_out_the_rest(panel, packages):
    ui = panel.ui
    pythonqt.choose(ui.coarseComboBox, COARSE)
    pythonqt.click(ui.skipAirCheckBox)
    ui.effortSlider.value = 25
    options = panel.panel.modelOptions(panel.panel.parameters)
    assert (options.skipAir, options.regionFrom, options.effort) == (True, str(packages / "coarse"), 0.25)
    pythonqt.choose(ui.selectionComboBox, ALL)
    assert greyed(ui) == ["Everything is looked at"] * 3
    picture(panel, "panel-everything")
    options = panel.panel.modelOptions(panel.panel.parameters)
    assert (options.selection, options.skipAir, options.regionFrom, options.effort) == ("off", False, None, 1)
    pythonqt.choose(ui.selectionComboBox, "Automatic")
    assert greyed(ui) == []
    assert ui.skipAirCheckBox.checked


def test_slices_are_chosen_where_the_model_can_tell_them(panel, volumeNode):
    ui = panel.ui
    reasons = forbidden(ui.selectionComboBox)
    assert list(reasons) == ["Exact", "Fast"]
    assert all("no decision network" in reason for reason in reasons.values())
    pythonqt.choose(ui.modelComboBox, DECIDING)
    assert forbidden(ui.selectionComboBox) == {}
    pythonqt.choose(ui.selectionComboBox, "Exact")
    assert greyed(ui)[0] == "Exact leaves the scores of air as they are"
    assert ui.applyButton.toolTip == "Tick at least one task."
    pythonqt.choose(ui.modelComboBox, FINE)
    assert "no decision network; choose Automatic or All" in ui.applyButton.toolTip
    pythonqt.choose(ui.selectionComboBox, ALL)
    assert ui.applyButton.toolTip == "Tick at least one task."


def test_a_model_that_is_not_here_or_is_the_model_itself_does_not_look_first(panel, volumeNode):
    ui, parameters = panel.ui, panel.panel.parameters
    for name, title, sentence in (
        ("gone", "gone (not installed)", "The model gone is not installed; "),
        ("fine", "fine (the model itself)", "A model cannot look first for itself; "),
    ):
        parameters.regionFrom = name
        assert ui.coarseComboBox.currentText == title
        assert ui.applyButton.toolTip.startswith(sentence)
    pythonqt.choose(ui.coarseComboBox, NONE)
    assert len(titles(ui.coarseComboBox)) == 4
    assert ui.applyButton.toolTip == "Tick at least one task."


def run(widget, task="liver"):
    pythonqt.click(widget.panel.taskTree._buttons[task])
    assert widget.panel.segmenter.isBusy
    started = widget.ui.statusLabel.text
    waitForEnd(widget)
    return started


def test_what_was_skipped_is_said_and_a_higher_effort_goes_on_from_there(panel, volumeNode, dialogs):
    ui = panel.ui
    pythonqt.choose(ui.coarseComboBox, COARSE)
    ui.effortSlider.value = 0
    run(panel)
    patches = visited()
    assert patches["visited"] == 0
    assert f"Looked closely at 0 of {patches['of']} patches; in {patches['coarse']}" in ui.statusLabel.text
    assert ui.statusLabel.text in ui.logText.toPlainText()
    picture(panel, "panel-skipped")
    ui.effortSlider.value = 100
    assert "features computed before" in run(panel)
    assert visited()["visited"] > 0
    pythonqt.choose(ui.selectionComboBox, ALL)
    assert "features computed before" not in run(panel)
    assert "skipped" not in ui.statusLabel.text
    assert dialogs.texts("error") == []


def visited():
    """What the provenance of the newest segment says of patches."""
    segmentation = segmentationNode().GetSegmentation()
    id = segmentIds(segmentationNode())[-1]
    return provenanceOf(segmentation.GetSegment(id))["selection"]["patches"]


def test_scripts_give_the_same_options_by_name(panel, volumeNode):
    options = {"model": "fine", "regionFrom": "coarse", "effort": 0.5, "skipAir": True, "engine": "torch"}
    node = panel.logic.segment(volumeNode, "liver", **options)
    provenance = provenanceOf(node.GetSegmentation().GetNthSegment(0))
    selection = provenance["selection"]
    assert (provenance["model"], provenance["engine"], selection["skip_air"]) == ("fine", "torch", True)
    assert (selection["region_from"]["model"], selection["region_from"]["effort"]) == ("coarse", 0.5)
    (id,) = node.GetSegmentation().GetSegmentIDs()[:1]
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, id, volumeNode)
    mask[mask.nonzero()[0][0]] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id, volumeNode)
    told = []
    panel.logic.segment(volumeNode, None, node, structures="liver", onWarning=told.append, **options)
    assert any("Edited by hand and replaced by this run" in sentence for sentence in told)
    with pytest.raises(InputError, match="overlap: expected"):
        panel.logic.segment(volumeNode, "liver", model="fine", overlap=np.float32(0.5))
    assert not panel.logic.segmenter.isBusy
    for given, name in (
        (("CT", "liver"), "volumeNode"),
        ((volumeNode, "liver", volumeNode), "segmentationNode"),
    ):
        with pytest.raises(
            InputError, match=f"{name}: expected a vtkMRML.*; find nodes with slicer.util.getNode"
        ):
            panel.logic.segment(*given)
    with pytest.raises(TypeError, match="devise"):
        panel.logic.segment(volumeNode, "liver", devise="cpu")
    with pytest.raises(InputError, match=r"effort: expected 0 \(fast\) to 1 \(thorough\), got 50"):
        panel.logic.segment(volumeNode, "liver", effort=50)


def test_what_the_worker_refuses_is_one_sentence(panel, volumeNode, dialogs):
    panel.panel.parameters.engine = "steam"
    run(panel)
    assert dialogs.texts("error") == [
        "Unknown engine 'steam'; choose from auto, torch, openvino, openvino-int8."
    ]
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
