"""Steps that tests of the panel share: make it, put a phantom into the scene, wait for the end of a run."""

import os
from pathlib import Path

import numpy as np
import pythonqt
import slicer

from PartialSegLib.phantom import make_phantom

PICTURES = os.environ.get("PARTIALSEG_PICTURES")
"""Folder for screenshots; none are kept without it."""
SPACING, SHAPE = (8.0, 4.0, 4.0), (48, 96, 104)


def makeWidget():
    """The module's widget, shown; the scene and its windows must be there."""
    import PartialSeg

    parent = pythonqt.module_parent()
    widget = PartialSeg.PartialSegWidget(parent)
    widget.setup()
    parent.resize(420, 900)
    parent.show()
    return widget


def addPhantomNode(name="Phantom", seed=5):
    """A coarse phantom CT in the scene."""
    slicer.mrmlScene.GetSubjectHierarchyNode()  # in the application there always is one
    volume = make_phantom(seed, SPACING, SHAPE).volume
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.array(volume.array))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine[:, [2, 1, 0, 3]]))
    return node


def itemNamed(widget, task):
    return widget.panel.taskTree._tasks[task]


def picture(widget, name):
    if PICTURES:
        pythonqt.grab(widget.parent, Path(PICTURES) / f"{name}.png")


def waitForEnd(widget):
    pythonqt.wait_until(lambda: not widget.panel.segmenter.isBusy, 120)
    pythonqt.wait_until(lambda: widget.ui.applyButton.text == "Apply", 10)


def nodeIds():
    scene = slicer.mrmlScene
    return [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]


def segmentationNode():
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
