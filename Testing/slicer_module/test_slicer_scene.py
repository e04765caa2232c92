"""The scene that the tests of the module stand on: real where it says so, strict where it is a stand-in."""

import ast
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import slicer_scene
import vtk
from scene_nodes import ctArray, ctNode

slicer_scene.boot()

from slicer.i18n import tr as _  # noqa: E402
from slicer.ScriptedLoadableModule import (  # noqa: E402
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin  # noqa: E402


class AnyLogic(ScriptedLoadableModuleLogic):
    pass


class AnyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.seen = []

    def setup(self):
        super().setup()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)

    def onSceneStartClose(self, caller, event):
        self.seen.append(event)

    def cleanup(self):
        self.removeObservers()
        super().cleanup()


def test_the_scene_is_booted_once_and_emptied_between_tests(scene):
    assert slicer_scene.boot() is scene
    ctNode()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
    slicer_scene.reset()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert slicer.mrmlScene.GetSubjectHierarchyNode() is not None


def test_volumes_are_saved_and_loaded_by_slicers_own_functions(scene, tmp_path):
    node = ctNode()
    assert slicer.util.saveNode(node, str(tmp_path / "ct.nrrd"))
    back = slicer.util.loadVolume(str(tmp_path / "ct.nrrd"))
    assert back.GetName() == "ct"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), ctArray())


def test_modules_have_their_real_logics(scene):
    assert slicer.modules.volumes.logic().IsA("vtkSlicerVolumesLogic")
    assert slicer.modules.segmentations.logic().GetMRMLScene() is slicer.mrmlScene
    assert slicer.app.applicationLogic().GetModuleLogic("Markups") is slicer.modules.markups.logic()


@pytest.mark.parametrize("owner", [slicer.app, slicer.modules], ids=["app", "modules"])
def test_what_a_stand_in_does_not_know_raises(owner):
    with pytest.raises(AttributeError):
        owner.somethingElse  # noqa: B018


def test_complaints_of_vtk_and_exceptions_in_observers_are_recorded(scene):
    reader = vtk.vtkXMLImageDataReader()
    reader.SetFileName("missing.vti")
    reader.Update()

    def fail(caller, event):
        raise ValueError("in an observer")

    reader.AddObserver("ModifiedEvent", fail)
    reader.Modified()
    assert any("missing.vti" in message for message in scene.messages)
    assert any("in an observer" in message for message in scene.messages)
    scene.messages.clear()


def test_a_logic_keeps_one_parameter_node_in_the_scene_which_is_saved_with_it(scene, tmp_path):
    node = AnyLogic().getParameterNode()
    assert AnyLogic().getParameterNode() is node
    assert (node.GetName(), node.GetAttribute("ModuleName")) == ("Any", "Any")
    node.SetParameter("tasks", "liver")
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    assert slicer.mrmlScene.Commit()
    slicer_scene.reset()
    assert AnyLogic().getParameterNode().GetParameter("tasks") == ""
    slicer_scene.reset()
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    assert slicer.mrmlScene.Connect()
    assert AnyLogic().getParameterNode().GetParameter("tasks") == "liver"


def test_a_widget_observes_the_scene_until_it_is_cleaned_up(scene):
    widget = AnyWidget()
    widget.setup()
    slicer_scene.reset()
    widget.cleanup()
    slicer_scene.reset()
    assert len(widget.seen) == 1
    assert widget.resourcePath("UI/Any.ui").endswith("UI/Any.ui")


def test_texts_are_returned_as_they_are():
    assert _("Nothing was found.") == "Nothing was found."
    assert ScriptedLoadableModule("description").parent == "description"
    assert ScriptedLoadableModuleTest().runTest() is None


def test_what_runs_in_slicers_process_loads_no_torch():
    code = (
        "import sys; sys.path.insert(0, 'Testing/slicer_module'); import slicer_scene; slicer_scene.boot(); "
        "from PartialSegSlicer.scene import mrml; sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, cwd=slicer_scene.MODULE_FOLDER.parent).returncode == 0


def test_the_modules_file_is_read_by_the_python_of_slicer_5_8():
    text = (slicer_scene.MODULE_FOLDER / "PartialSeg.py").read_text("utf-8")
    nodes = list(ast.walk(ast.parse(text, feature_version=(3, 9))))
    annotations = [getattr(node, "annotation", None) or getattr(node, "returns", None) for node in nodes]
    never_evaluated = {id(part) for one in annotations if one is not None for part in ast.walk(one)}
    unions = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    assert unions
    assert [ast.unparse(node) for node in unions if id(node) not in never_evaluated] == []


def test_what_slicer_shows_of_the_module_names_its_page_and_its_sources(scene, monkeypatch):
    import PartialSeg

    started = []
    monkeypatch.setattr(slicer.app, "connect", lambda *connection: started.append(connection), raising=False)
    parent = SimpleNamespace()
    PartialSeg.PartialSeg(parent)
    root = slicer_scene.MODULE_FOLDER.parent
    (page,) = re.findall(r'EXTENSION_HOMEPAGE "(.+)"', (root / "CMakeLists.txt").read_text("utf-8"))
    assert f'href="{page}"' in parent.helpText
    assert page in parent.acknowledgementText
    papers = re.findall(r"\((\w+ et al\., [^)]+ \d{4})\)", (root / "README.md").read_text("utf-8"))
    assert len(papers) >= 4
    assert all(paper in parent.acknowledgementText for paper in papers)
    assert started == [("startupCompleted()", PartialSeg.registerSampleData)]
