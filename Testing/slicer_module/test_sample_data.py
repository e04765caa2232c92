"""The phantom in Sample Data: registered as Slicer wants it, computed by a child, given up by a click."""

import os
from pathlib import Path

import pytest
import pythonqt
import SampleData
import slicer
from panel_steps import nodeIds


@pytest.fixture
def source(dialogs):
    """What the module has registered, twice."""
    import PartialSeg

    PartialSeg.registerSampleData()
    PartialSeg.registerSampleData()
    (source,) = SampleData.SampleDataLogic.sampleDataSourcesByCategory("PartialSeg")
    return source


def test_the_phantom_is_offered_once_by_the_name_that_the_readme_says(source):
    assert (source.sampleName, source.fileNames) == ("PartialSeg phantom", ["PartialSegPhantom.nii.gz"])
    assert pythonqt.qt.QPixmap(source.thumbnailFileName).width() > 0


def test_a_button_without_url_would_be_refused_by_slicer():
    with pytest.raises(TypeError):
        SampleData.SampleDataLogic.registerCustomSampleDataSource("Any", "Any", customDownloader=print)


def test_a_window_says_what_is_computed_and_cancel_leaves_nothing(source):
    before, seen = nodeIds(), []

    def cancel():
        windows = pythonqt.application.topLevelWidgets()
        (window,) = (one for one in windows if isinstance(one, pythonqt.qt.QProgressDialog) and one.visible)
        seen.append(window.labelText)
        window.cancel()

    timer = pythonqt.qt.QTimer()
    timer.connect("timeout()", cancel)
    timer.setSingleShot(True)
    timer.start(50)
    source.customDownloader(source)
    assert seen == ["Computing a phantom CT; nothing is downloaded."]
    assert nodeIds() == before
    assert not list(Path(slicer.app.temporaryPath).glob("PartialSeg-*/PartialSegPhantom*"))


def test_nothing_in_the_scene_names_the_file_that_goes_away(dialogs):
    from PartialSegSlicer import sampleData

    before = nodeIds()
    node = sampleData.addPhantom(spacing=[16.0, 12.0, 12.0], shape=[24, 32, 36])
    added = [slicer.mrmlScene.GetNodeByID(id) for id in nodeIds() if id not in before]
    assert node in added
    assert not any(one.IsA("vtkMRMLStorageNode") for one in added)


def test_what_the_child_process_died_of_is_said(dialogs):
    from PartialSegSlicer import sampleData

    with pytest.raises(RuntimeError, match="unexpected keyword argument 'colour'"):
        sampleData.addPhantom(colour=1)


def test_a_file_that_a_virus_scanner_holds_on_to_is_no_error(scene, monkeypatch):
    from PartialSegSlicer import sampleData

    unlink = os.unlink

    def refuse(path, **options):
        if Path(path).name == "errors.txt":
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    assert sampleData.addPhantom(goesOn=lambda: False) is None
