"""The panel and the scene: settings saved and loaded, nodes deleted or exchanged during a run."""

import pytest
import pythonqt
import slicer
from panel_steps import addPhantomNode, itemNamed, segmentationNode, waitForEnd
from scene_nodes import ctNode
from scene_nodes import segmentationNode as newSegmentation
from small_packages import write_package
from tiny_model import write_tiny_model

from PartialSegLib.manifest import Preprocessing, Task

from PartialSegSlicer.parameters import Parameters
from PartialSegSlicer.widgets.parameterBinding import CHOICES, NODES, NUMBERS, SWITCHES


def addRoi():
    """A region around the upper half of the phantom."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Upper half")
    node.SetXYZ(0, 0, 80)
    node.SetRadiusXYZ(220, 220, 100)
    return node


def shown(ui):
    """Everything the panel shows of its settings."""
    nodes = {name: getattr(ui, name).currentNode() for name in NODES}
    return {
        **{name: node.GetName() if node is not None else None for name, node in nodes.items()},
        **{name: getattr(ui, name).currentText for name in CHOICES},
        **{name: getattr(ui, name).value for name in NUMBERS},
        **{name: getattr(ui, name).checked for name in SWITCHES},
    }


def setEverything(widget):
    """Set everything to another value than it has; the selectors choose the one node they list."""
    ui = widget.ui
    pythonqt.click(ui.advancedCollapsibleButton)
    newSegmentation("Mine")
    addRoi()
    pythonqt.choose(ui.outputSelector, "Mine")
    pythonqt.choose(ui.roiSelector, "Upper half")
    pythonqt.choose(ui.modelComboBox, ui.modelComboBox.itemText(ui.modelComboBox.findData("tiny")))
    pythonqt.choose(ui.deviceComboBox, "Processor (CPU)")
    pythonqt.choose(ui.engineComboBox, "PyTorch")
    pythonqt.choose(ui.precisionComboBox, "float32")
    pythonqt.type_text(ui.overlapSpinBox, "40")
    pythonqt.choose(ui.coarseComboBox, ui.coarseComboBox.itemText(1))
    ui.effortSlider.value = 30
    pythonqt.type_text(ui.cacheSpinBox, "512")
    for name in SWITCHES:
        getattr(ui, name).click()
    pythonqt.choose(ui.selectionComboBox, "All: look at everything")
    pythonqt.tick(ui.taskTree, itemNamed(widget, "kidney"))
    pythonqt.tick(ui.taskTree, widget.panel.taskTree._structures["liver/liver_tumor"])


@pytest.mark.parametrize("suffix", ["mrml", "mrb"])
def test_all_settings_come_back_with_the_scene(widget, models, tmp_path, suffix, volumeNode):
    write_package(models / "tiny")
    widget.panel.refreshModels()
    before = shown(widget.ui)
    setEverything(widget)
    saved = shown(widget.ui)
    assert [name for name in saved if saved[name] == before[name]] == ["inputSelector"]
    save(tmp_path / f"scene.{suffix}")
    slicer.mrmlScene.Clear(0)
    assert shown(widget.ui) == {**before, "inputSelector": None}
    load(tmp_path / f"scene.{suffix}")
    assert shown(widget.ui) == saved
    assert widget.panel.taskTree.ticked == ["kidney"]
    assert widget.panel.taskTree.excluded == ["liver/liver_tumor"]


def save(path):
    """Save the scene with its data."""
    if path.suffix == ".mrb":
        assert slicer.mrmlScene.WriteToMRB(str(path))
        return
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is not None and not node.GetHideFromEditors():
            extension = storage.GetDefaultWriteFileExtension()
            storage.SetFileName(str(path.parent / f"{node.GetName()}.{extension}"))
            assert storage.WriteData(node)
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Commit()


def load(path):
    slicer.mrmlScene.SetURL(str(path))
    if path.suffix == ".mrb":
        assert slicer.mrmlScene.ReadFromMRB(str(path))
    else:
        assert slicer.mrmlScene.Connect()


def test_a_scene_without_settings_leaves_those_of_the_panel(widget, volumeNode, tmp_path):
    """Adding data to the scene, as with the module Data, changes nothing in the panel and ends no run."""
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    before = shown(widget.ui)
    other = tmp_path / "other.mrml"
    other.write_text("<MRML></MRML>")
    slicer.mrmlScene.SetURL(str(other))
    assert slicer.mrmlScene.Import()
    assert shown(widget.ui) == before
    assert widget.panel.taskTree.ticked == ["spleen"]


def test_a_scene_loaded_while_the_module_is_not_shown_gets_no_settings(widget, tmp_path):
    (tmp_path / "other.mrml").write_text("<MRML></MRML>")
    widget.parent._entered = False
    slicer.mrmlScene.RemoveNode(widget.panel.parameters.node)
    load(tmp_path / "other.mrml")
    assert not widget.logic.hasParameters()
    widget.parent._entered = True
    volumeNode = ctNode()
    widget.enter()
    assert widget.ui.inputSelector.currentNode() is volumeNode
    widget.panel.advanced.software.stop()


def test_a_model_with_tasks_of_the_same_names_shows_its_own_structures(widget, models):
    for name, structures in (("organ", {"liver": 0}), ("both", {"liver": 0, "liver_tumor": 1})):
        preprocessing = Preprocessing("SAR", (24, 24, 24), (-325, 325), divide=325)
        write_tiny_model(models / name, (Task("liver", structures),), preprocessing, name=name)
        widget.panel.refreshModels()
        widget.panel.parameters.model = name
        shown = list(widget.panel.taskTree._structures)
        assert shown == [f"liver/{structure}" for structure in structures]


@pytest.fixture
def quick(widget, models):
    """The panel with a small model of random weights."""
    tasks = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("spleen", {"spleen": 0}))
    preprocessing = Preprocessing("SAR", (24, 24, 24), (-325, 325), divide=325)
    write_tiny_model(models / "tiny", tasks, preprocessing, gain=20)
    widget.panel.refreshModels()
    widget.panel.parameters.model = "tiny"
    return widget


def click(widget, task):
    pythonqt.click(widget.panel.taskTree._buttons[task])
    assert widget.panel.segmenter.isBusy


def test_deleted_nodes_are_told_and_the_next_run_works(quick, volumeNode, dialogs):
    widget = quick
    for name, make, selector in (
        ("volume", addPhantomNode, widget.ui.inputSelector),
        ("segmentation", newSegmentation, widget.ui.outputSelector),
    ):
        node = make("Short-lived")
        pythonqt.choose(selector, "Short-lived")
        click(widget, "spleen")
        slicer.mrmlScene.RemoveNode(node)
        waitForEnd(widget)
        assert dialogs.texts("error")[-1].startswith(f"The {name} was deleted")
        assert segmentationNode() is None
        assert widget.panel.parameters.inputVolume is volumeNode
    assert len(dialogs.texts("error")) == 2
    click(widget, "spleen")
    waitForEnd(widget)
    assert widget.ui.outputSelector.currentNode() is segmentationNode()


def test_volume_region_and_settings_may_change_during_a_run(quick, volumeNode, dialogs):
    widget = quick
    other, roi = addPhantomNode("Other"), addRoi()
    pythonqt.choose(widget.ui.roiSelector, "Upper half")
    click(widget, "liver")
    slicer.mrmlScene.RemoveNode(roi)
    pythonqt.choose(widget.ui.inputSelector, "Other")
    waitForEnd(widget)
    assert segmentationNode().GetName() == "Phantom segmentation"
    assert widget.panel.parameters.inputVolume is other
    assert widget.panel.parameters.segmentation is None  # that of the phantom is not for the other volume
    assert "known after the first run" in widget.ui.modelLabel.text  # the time of a part tells nothing
    click(widget, "liver")
    old = widget.panel.parameters.node
    slicer.mrmlScene.RemoveNode(old)
    waitForEnd(widget)
    assert slicer.mrmlScene.GetFirstNodeByName("Other segmentation") is not None
    assert widget.panel.parameters.node is slicer.mrmlScene.GetNodeByID(widget.panel.parameters.node.GetID())
    assert widget.panel.parameters.node is not old
    pythonqt.choose(widget.ui.inputSelector, "Phantom")
    assert Parameters(widget.logic.getParameterNode()).inputVolume is volumeNode
    assert dialogs.texts("error") == []


@pytest.fixture
def parameters(scene):
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


@pytest.mark.parametrize("text", ["40 %", '"40"', "null", ""])
def test_a_setting_that_cannot_be_read_has_its_default(parameters, text):
    parameters.node.SetParameter("overlap", text)
    assert parameters.overlap == -1


def test_every_setting_of_a_model_reaches_the_worker(parameters):
    parameters.model, parameters.regionFrom, parameters.selection = "fine", "coarse", "fast"
    parameters.device, parameters.engine, parameters.precision = "cuda:1", "openvino", "bfloat16"
    parameters.overlap, parameters.effort, parameters.cacheMegabytes = 40, 30, 512
    parameters.mirror = parameters.skipAir = True
    assert parameters.modelOptions().forWorker() == {
        "path": "fine", "device": "cuda:1", "engine": "openvino", "precision": "bfloat16", "overlap": 0.4,
        "mirror": True, "selection": "fast", "skip_air": True, "region_from": "coarse", "effort": 0.3,
        "cache_bytes": 512 * 2**20,
    }  # fmt: skip


def test_an_overlap_and_a_budget_of_nothing_are_no_defaults(parameters):
    parameters.overlap = parameters.cacheMegabytes = 0
    options = parameters.modelOptions()
    assert (options.overlap, options.cacheBytes) == (0.0, 0)


def test_air_is_not_skipped_where_slices_are_chosen_exactly(parameters):
    parameters.skipAir, parameters.selection = True, "exact"
    assert not parameters.modelOptions().skipAir
