"""Stand-ins for the classes that Slicer's scripted modules are made of, for `slicer_scene`."""

import sys
import unittest
from pathlib import Path

import slicer


class ScriptedLoadableModule:
    """Stand-in for Slicer's class of that name: a description in `parent`."""

    def __init__(self, parent) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """Stand-in for Slicer's class of that name: a parent with a layout, and the module's resources."""

    def __init__(self, parent=None) -> None:
        self.parent = parent
        self.layout = parent.layout() if parent is not None else None
        self.moduleName = type(self).__name__.removesuffix("Widget")

    def resourcePath(self, name: str) -> str:
        return str(Path(sys.modules[type(self).__module__].__file__).parent / "Resources" / name)

    def setup(self) -> None:
        """The application adds its developer's section here; there is none."""

    def onReload(self) -> None:
        """The application reads the module's file anew, and calls `cleanup` before it makes a new widget."""

    def cleanup(self) -> None:
        """The application stops its own observations here; there are none."""


class ScriptedLoadableModuleLogic:
    """Stand-in for Slicer's class of that name: one parameter node per module, kept in the real scene."""

    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        kind = "vtkMRMLScriptedModuleNode"
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, kind)
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass(kind)
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Stand-in for Slicer's class of that name."""

    def runTest(self) -> None:
        """Subclasses run their tests here."""

    def delayDisplay(self, message: str, *args, **options) -> None:
        """The application shows the message for a moment."""


CLASSES = (
    ScriptedLoadableModule,
    ScriptedLoadableModuleWidget,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)
