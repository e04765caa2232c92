"""A real MRML scene for tests, without the Slicer application.

Nodes, module logics, storage nodes and `slicer.util` are Slicer's own, from the slicer-core package.
Stand-ins are said to be such in their docstrings and fill only what the application would bring:
`slicer.app`, `slicer.modules`, `slicer.i18n`, `slicer.ScriptedLoadableModule`. What they do not know raises
AttributeError. Not covered: Qt plugins of the subject hierarchy, terminology files, settings, discovery and
reload of modules.
"""

import atexit
import logging
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import scripted_module
import slicer
import slicer.util
import vtk

MODULE_FOLDER = Path(__file__).parents[2] / "PartialSeg"
"""The folder of PartialSeg.py; Slicer puts the folder of each scripted module on the path."""

_booted: list["Scene"] = []


class Scene:
    """The booted scene: Slicer's own logics around one vtkMRMLScene.

    Attributes:
        node: the vtkMRMLScene, also `slicer.mrmlScene`.
        applicationLogic: the vtkSlicerApplicationLogic.
        messages: errors and warnings of VTK and MRML, exceptions in observers, and what was logged by another
            than the main thread, since the last `reset`.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._record_messages()
        self.folder = Path(tempfile.mkdtemp(prefix="partialseg-scene-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.node = slicer.vtkMRMLScene()
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        self.applicationLogic.SetTemporaryPath(str(self.folder))
        self.applicationLogic.SetMRMLScene(self.node)
        self._prepare_views_and_colors()
        self._prepare_remote_files()
        self.modules = SimpleNamespace(
            **{name.lower(): Module(name, logic) for name, logic in self._logics()}
        )

    def subjectHierarchyItem(self, node, parentItem: int | None = None) -> int:
        """Give a node its item in the subject hierarchy, as the application's Qt plugins do by themselves."""
        hierarchy = self.node.GetSubjectHierarchyNode()
        return hierarchy.CreateItem(hierarchy.GetSceneItemID() if parentItem is None else parentItem, node)

    def _record_messages(self) -> None:
        """Keep what VTK would print and what Python would print of a failed observer."""
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
        self._window = vtk.vtkOutputWindow()
        self._window.SetDisplayModeToNever()

        @vtk.calldata_type(vtk.VTK_STRING)
        def record(caller, event, text):
            self.messages.append(text)

        for event in ("ErrorEvent", "WarningEvent"):
            self._window.AddObserver(event, record)
        vtk.vtkOutputWindow.SetInstance(self._window)

    def _prepare_views_and_colors(self) -> None:
        self.applicationLogic.GetColorLogic().SetMRMLScene(self.node)
        self.applicationLogic.GetColorLogic().AddDefaultColorNodes()
        self.applicationLogic.SetSliceLogics(vtk.vtkCollection())
        self.applicationLogic.SetViewLogics(vtk.vtkCollection())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.node, True)

    def _prepare_remote_files(self) -> None:
        """Scenes in .mrb files are read only where the scene knows a cache for remote files."""
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLScene(self.node)
        self._remote.SetMRMLApplicationLogic(self.applicationLogic)
        self._remote.GetCacheManager().SetRemoteCacheDirectory(str(self.folder))
        self._transfers = slicer.vtkDataIOManagerLogic()
        self._transfers.SetMRMLScene(self.node)
        self._transfers.SetMRMLApplicationLogic(self.applicationLogic)
        self._transfers.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._remote.AddDataIOToScene()

    def _logics(self):
        """The module logics in the order in which they need each other, registered with the application's."""
        for name, make in {
            "Colors": slicer.vtkMRMLColorLogic,
            "Volumes": slicer.vtkSlicerVolumesLogic,
            "Terminologies": slicer.vtkSlicerTerminologiesModuleLogic,
            "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
            "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
            "Markups": slicer.vtkSlicerMarkupsLogic,
            "Models": slicer.vtkSlicerModelsLogic,
            "Sequences": slicer.vtkSlicerSequencesLogic,
        }.items():
            logic = make()
            if name != "Terminologies":  # it would look for files that only the application brings
                logic.SetMRMLScene(self.node)
            logic.SetMRMLApplicationLogic(self.applicationLogic)
            self.applicationLogic.SetModuleLogic(name, logic)
            yield name, logic


class ApplicationLogHandler(logging.Handler):
    """Stand-in for Slicer's handler of that kind, which puts a row into a model of Qt: not in any thread.

    Args:
        messages: gets what was logged by another thread.
    """

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._messages.append(f"logged outside the main thread: {self.format(record)}")


class Module:
    """Stand-in for an entry of `slicer.modules`: name, real logic, and the path of a scripted module."""

    def __init__(self, name: str, logic=None, path: str = "") -> None:
        self.name, self.path, self._logic = name, path, logic

    def logic(self):
        return self._logic


class Application:
    """Stand-in for `slicer.app`: what `slicer.util` asks of it when it reads and writes nodes."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self.temporaryPath = scene, str(scene.folder)

    def mrmlScene(self):
        return self._scene.node

    def applicationLogic(self):
        return self._scene.applicationLogic

    def coreIOManager(self) -> "FileManager":
        return FileManager(self._scene)

    ioManager = coreIOManager

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        """There is no event loop."""


class FileManager:
    """Stand-in for qSlicerCoreIOManager: volumes and segmentations, by the real logics and storage nodes."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def fileType(self, path: str) -> str:
        return "SegmentationFile" if path.endswith((".seg.nrrd", ".seg.nhdr")) else "VolumeFile"

    def loadNodes(self, fileType: str, properties: dict, loaded, messages=None) -> bool:
        path = properties["fileName"]
        name = properties.get("name") or Path(path).name.split(".")[0]
        modules = self._scene.modules
        node = {
            "VolumeFile": lambda: modules.volumes.logic().AddArchetypeVolume(path, name, 0),
            "SegmentationFile": lambda: modules.segmentations.logic().LoadSegmentationFromFile(
                path, True, name
            ),
        }[fileType]()
        if node:
            loaded.AddItem(node)
        return node is not None

    def fileWriterFileType(self, node) -> str:
        return node.GetClassName()

    def saveNodes(self, fileType: str, properties: dict, messages=None) -> bool:
        node = self._scene.node.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(properties["fileName"]))
        return bool(node.GetStorageNode().WriteData(node))


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(f"slicer.{name}")
    vars(module).update(contents, __all__=list(contents))
    sys.modules[module.__name__] = module
    setattr(slicer, name, module)
    return module


def boot() -> Scene:
    """Start the scene on first use and return it; one process has one."""
    if not _booted:
        scene = Scene()
        slicer.mrmlScene, slicer.modules, slicer.app = scene.node, scene.modules, Application(scene)
        _module("i18n", tr=lambda text, *context: text, translate=lambda context, text: text)
        _module("ScriptedLoadableModule", **{base.__name__: base for base in scripted_module.CLASSES})
        if str(MODULE_FOLDER) not in sys.path:
            sys.path.insert(0, str(MODULE_FOLDER))
        logging.getLogger().addHandler(ApplicationLogHandler(scene.messages))
        _booted.append(scene)
    return _booted[0]


def reset() -> Scene:
    """Empty the scene and forget its messages."""
    scene = boot()
    scene.node.GetSubjectHierarchyNode().RemoveAllItems()  # the application's Qt plugins do so
    scene.node.Clear(0)
    scene.messages.clear()
    return scene
