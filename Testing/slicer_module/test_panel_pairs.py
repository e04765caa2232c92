"""Panels that come and go: two at once, one closed while the other works, reload during a run."""

import sys

import pytest
import pythonqt
import slicer
from panel_steps import SHAPE, SPACING, addPhantomNode, itemNamed, makeWidget, segmentationNode, waitForEnd
from scene_nodes import ctNode, segmentIds

from PartialSegLib.evaluation import dice
from PartialSegLib.phantom import make_phantom

SEEDS = {"first": 5, "second": 7}


@pytest.fixture
def pair(dialogs):
    """Two panels and their volumes by name; the panels share the settings in the scene, not the worker."""
    pair = {name: (makeWidget(), addPhantomNode(name, seed)) for name, seed in SEEDS.items()}
    yield pair
    for widget, _ in pair.values():
        widget.cleanup()


def startBoth(pair):
    for name, (widget, _) in pair.items():
        pythonqt.choose(widget.ui.inputSelector, name)
        pythonqt.click(widget.panel.taskTree._buttons["liver"])
    assert all(widget.panel.segmenter.isBusy for widget, _ in pair.values())


def assertRight(name, volumeNode):
    node = slicer.mrmlScene.GetFirstNodeByName(f"{name} segmentation")
    found = slicer.util.arrayFromSegmentBinaryLabelmap(node, "PartialSeg_liver_liver", volumeNode) > 0
    scores = {
        other: dice(found, make_phantom(seed, SPACING, SHAPE).mask("liver")) for other, seed in SEEDS.items()
    }
    assert scores[name] > 0.7
    assert max(scores, key=scores.get) == name


def test_two_panels_work_at_the_same_time_and_closing_one_leaves_the_other_at_work(pair):
    startBoth(pair)
    (first, firstVolume), (second, secondVolume) = pair.values()
    assert first.panel.segmenter.client.pid != second.panel.segmenter.client.pid
    waitForEnd(first)
    waitForEnd(second)
    assertRight("first", firstVolume)
    assertRight("second", secondVolume)
    chosen = first.panel.parameters
    assert chosen.inputVolume is secondVolume
    assert chosen.segmentation.GetName() == "second segmentation"
    for volumeNode in (firstVolume, secondVolume):
        slicer.util.arrayFromVolumeModified(volumeNode)  # everything is computed again
        slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))
    startBoth(pair)
    first.cleanup()
    waitForEnd(second)
    assertRight("second", secondVolume)
    assert slicer.mrmlScene.GetFirstNodeByName("first segmentation") is None


def test_reload_during_a_run_ends_it_and_a_new_panel_works(dialogs):
    widget, volumeNode = makeWidget(), addPhantomNode()
    pythonqt.choose(widget.ui.inputSelector, "Phantom")
    before = slicer.mrmlScene.GetNumberOfNodes()
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    pythonqt.click(widget.ui.applyButton)
    widget.enter()  # a check is under way, too
    process = widget.panel.segmenter.client._process
    widget.cleanup()
    widget.parent.close()
    widget.parent.deleteLater()
    new = makeWidget()
    assert new.panel.parameters.tasks == ["spleen"]
    assert new.ui.inputSelector.currentNode() is volumeNode
    pythonqt.wait_until(lambda: not process.isRunning)
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    pythonqt.click(new.ui.applyButton)
    waitForEnd(new)
    assert segmentIds(segmentationNode()) == ["PartialSeg_spleen_spleen"]
    new.cleanup()


def test_the_first_volume_is_chosen_when_a_panel_opens(dialogs):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    volumeNode = ctNode()
    widget = makeWidget()
    assert widget.panel.parameters.inputVolume is widget.ui.inputSelector.currentNode() is volumeNode
    widget.cleanup()


def test_reload_reads_all_files_anew(widget):
    ours = ("PartialSegSlicer", "PartialSegLib")
    before = {name: module for name, module in sys.modules.items() if name.startswith(ours)}
    try:
        widget.onReload()
        assert [name for name in sys.modules if name.startswith(ours)] == []
    finally:
        sys.modules.update(before)


def test_a_panel_that_cannot_be_closed_leaves_neither_worker_nor_connection(dialogs, monkeypatch):
    widget = makeWidget()

    def fail():
        raise RuntimeError("closing")

    monkeypatch.setattr(widget.panel, "close", fail)
    with pytest.raises(RuntimeError, match="closing"):
        widget.cleanup()
    assert widget.panel.parameters is None
    assert not slicer.app.disconnect("aboutToQuit()", widget.logic.cleanup)
    assert not slicer.app.disconnect("aboutToQuit()", fail)
    assert not widget.hasObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, widget.onSceneEndClose)
    monkeypatch.undo()
    widget.cleanup()


def test_a_slicer_that_is_too_old_gets_a_sentence_instead_of_a_panel(dialogs, monkeypatch):
    import PartialSeg

    monkeypatch.setattr(PartialSeg, "NEEDED_PYTHON", (99, 0))
    widget = makeWidget()
    (label,) = widget.parent.findChildren(pythonqt.qt.QLabel)
    assert "needs Slicer 5.10 or newer" in label.text
    widget.enter()
    widget.cleanup()
    PartialSeg.registerSampleData()
    with pytest.raises(RuntimeError, match="needs Slicer 5"):
        PartialSeg.PartialSegLogic()
