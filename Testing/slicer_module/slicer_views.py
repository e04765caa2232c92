"""A segmentation as 3D Slicer shows it.

Called as `python Testing/slicer_module/slicer_views.py CT PICTURE.png [--task TASK]...`.

Slice views and 3D view are drawn offscreen by Slicer's own slice logic and displayable managers, from the
package slicer-core; the views' Qt frames, the layout and the mouse are missing. Drawing needs OpenGL without
a screen: EGL (Debian: libegl1 and libgl1-mesa-dri), else OSMesa (libosmesa6), else a screen (Xvfb will do).
Points are world RAS in mm.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer_scene
import vtk
from PIL import Image
from scene_nodes import labelmapOf, segmentIds
from vtk.util.numpy_support import vtk_to_numpy

from PartialSegLib import InputError, Volume, read_volume
from PartialSegLib.cli.segmenting import bundled_model
from PartialSegLib.manifest import read_manifest
from PartialSegLib.packages.installed import find_package

scene = slicer_scene.boot()

from PartialSegSlicer.scene.mrml import LABELMAP, SURFACE, affineOfNode  # noqa: E402
from PartialSegSlicer.segmenter import Request, Segmenter  # noqa: E402
from PartialSegSlicer.worker.workerClient import WorkerClient, WorkerError  # noqa: E402

LAYOUT = ("Axial", "3D", "Coronal", "Sagittal")
"""As in Slicer's layout "Four-Up", row by row."""
WINDOW_HU, LEVEL_HU = 400, 40
FILL_OPACITY = 0.5
MARGIN = 1.12
"""Width of a slice view, in lengths of the segments' longest side."""
AZIMUTH_DEGREES, ELEVATION_DEGREES = 25, -15
"""Of the 3D view's camera: from the patient's front towards the left, and up."""
GAP_PIXELS = 4
COLORS = 256
SLICE_MANAGERS = (
    slicer.vtkMRMLSegmentationsDisplayableManager2D,
    slicer.vtkMRMLOrientationMarkerDisplayableManager,
    slicer.vtkMRMLRulerDisplayableManager,
)
SPACE_MANAGERS = (
    slicer.vtkMRMLCameraDisplayableManager,
    slicer.vtkMRMLViewDisplayableManager,
    slicer.vtkMRMLSegmentationsDisplayableManager3D,
    slicer.vtkMRMLOrientationMarkerDisplayableManager,
)
WINDOW_CLASSES = ("vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow", "vtkRenderWindow")
_PROBE = """
import sys
from vtkmodules import vtkRenderingCore, vtkRenderingOpenGL2
module = vtkRenderingCore if sys.argv[1] == "vtkRenderWindow" else vtkRenderingOpenGL2
window = getattr(module, sys.argv[1])()
window.SetOffScreenRendering(True)
window.Render()
sys.exit(not window.SupportsOpenGL())
"""


class View:
    """A window offscreen, filled by Slicer's displayable managers.

    Args:
        pixels: width and height.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.renderer = vtk.vtkRenderer()
        self._window = getattr(vtk, renderWindowClass())()
        self._window.SetOffScreenRendering(True)
        self._window.SetSize(pixels, pixels)
        self._window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()  # the managers crash without one
        self._interactor.SetRenderWindow(self._window)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self.renderer)

    def _show(self, node, managers: Iterable[type]) -> None:
        """Let displayable managers of these classes draw what a view node says."""
        for makeManager in managers:
            manager = makeManager()
            manager.SetMRMLApplicationLogic(scene.applicationLogic)
            self._group.AddDisplayableManager(manager)
        self._group.SetMRMLDisplayableNode(node)

    def picture(self) -> np.ndarray:
        """What the view shows: uint8 (row, column, RGB), the uppermost row first."""
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        colors = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return colors.reshape(self.pixels, self.pixels, 3)[::-1].copy()

    def close(self) -> None:
        """Let go of the scene and the window."""
        self._group.SetMRMLDisplayableNode(None)
        self._window.Finalize()


class SliceView(View):
    """A volume cut along a plane of the patient, with the segments over it.

    Args:
        plane: Axial, Coronal or Sagittal.
        volumeNode: the volume behind the segments.
        pixels: width and height.
    """

    def __init__(self, plane: str, volumeNode, pixels: int) -> None:
        super().__init__(pixels)
        self.node = scene.node.AddNewNodeByClass("vtkMRMLSliceNode", plane)
        self.node.SetLayoutName(f"Picture{plane}")
        self.node.SetOrientation(plane)
        self.node.SetOrientationMarkerType(self.node.OrientationMarkerTypeAxes)
        self.node.SetRulerType(self.node.RulerTypeThin)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(scene.applicationLogic)
        self._logic.SetMRMLScene(scene.node)
        self._logic.SetSliceNode(self.node)
        self._logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self._logic.ResizeSliceNode(pixels, pixels)
        self._showVolume()
        self._show(self.node, SLICE_MANAGERS)

    def lookAt(self, center: np.ndarray, width: float, cut: np.ndarray) -> None:
        """Show the plane through one point, with another in the middle.

        Args:
            center: in the middle of the view, but for its distance from the plane.
            width: of the view, mm.
            cut: a point of the plane.
        """
        self.node.SetFieldOfView(width, width, self.node.GetFieldOfView()[2])
        self.node.JumpSliceByCentering(*center)
        self.node.JumpSliceByOffsetting(*cut)

    def pixelOf(self, point: np.ndarray) -> tuple[int, int]:
        """The row and column of `picture` where a point of the patient is projected to."""
        rasToXy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(self.node.GetXYToRAS()))
        x, y = (rasToXy @ (*point, 1))[:2]
        return round(self.pixels - 1 - y), round(x)

    def close(self) -> None:
        super().close()
        self._logic.SetSliceNode(None)
        self._logic.SetMRMLScene(None)

    def _showVolume(self) -> None:
        """Draw the slice logic's image, as the frame around a slice view does, before anything over it."""
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self._logic.GetImageDataConnection())
        image = vtk.vtkActor2D()
        image.SetMapper(mapper)
        image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(image)


class ThreeDView(View):
    """The segments' surfaces, seen from the patient's front, a little from the left and from below.

    Args:
        pixels: width and height.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        node = scene.node.AddNewNodeByClass("vtkMRMLViewNode", "3D")
        node.SetLayoutName("Picture3D")
        node.SetBoxVisible(False)
        node.SetAxisLabelsVisible(False)
        node.SetOrientationMarkerType(node.OrientationMarkerTypeAxes)
        self._show(node, SPACE_MANAGERS)
        camera = self.renderer.GetActiveCamera()
        camera.Azimuth(AZIMUTH_DEGREES)
        camera.Elevation(ELEVATION_DEGREES)
        self.renderer.ResetCameraScreenSpace(1.0)


@contextmanager
def views(volumeNode, segmentationNode, pixels: int = 400) -> Iterator[dict[str, View]]:
    """Views of a segmentation and its volume; at the end their nodes leave the scene.

    How the two nodes are displayed, and the segments' surfaces, stay as they were made for the views.

    Args:
        volumeNode: a vtkMRMLScalarVolumeNode with a CT in HU.
        segmentationNode: a vtkMRMLSegmentationNode with at least one segment.
        pixels: width and height of each view.

    Yields:
        The views by name, in the order of `LAYOUT`. The slice views have one scale, and each cuts where most
        of the segments is seen.
    """
    _display(volumeNode, segmentationNode)
    before = _nodeIds()
    opened: dict[str, View] = {}
    try:
        for name in LAYOUT:
            opened[name] = ThreeDView(pixels) if name == "3D" else SliceView(name, volumeNode, pixels)
        center, width = _middle(segmentationNode)
        cut = cutPoint(volumeNode, segmentationNode)
        for view in opened.values():
            if isinstance(view, SliceView):
                view.lookAt(center, width, cut)
        yield opened
    finally:
        for view in opened.values():
            view.close()
        for id in _nodeIds() - before:
            scene.node.RemoveNode(scene.node.GetNodeByID(id))


def drawViews(volumeNode, segmentationNode, pixels: int = 400) -> np.ndarray:
    """Axial and 3D view above coronal and sagittal view, as uint8 (row, column, RGB); see `views`."""
    with views(volumeNode, segmentationNode, pixels) as opened:
        pictures = [view.picture() for view in opened.values()]
    side = 2 * pixels + GAP_PIXELS
    combined = np.full((side, side, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = (place * (pixels + GAP_PIXELS) for place in divmod(number, 2))
        combined[row : row + pixels, column : column + pixels] = picture
    return combined


def cutPoint(volumeNode, segmentationNode) -> np.ndarray:
    """The point through which axial, coronal and sagittal planes show most of the segments.

    Every segment counts as much as any other, however large it is.
    """
    affine = affineOfNode(volumeNode)
    scores = [np.zeros(size) for size in slicer.util.arrayFromVolume(volumeNode).shape]
    for id in segmentIds(segmentationNode):
        mask, maskAffine = labelmapOf(segmentationNode, id)
        toVolume = np.linalg.solve(affine, maskAffine)
        indices = np.rint(np.argwhere(mask) @ toVolume[:3, :3].T + toVolume[:3, 3]).astype(int)
        for score, index in zip(scores, indices.T, strict=True):
            areas = np.bincount(index.clip(0, len(score) - 1), minlength=len(score))
            score += areas / areas.max()
    return (affine @ [*(score.argmax() for score in scores), 1])[:3]


@functools.cache
def renderWindowClass() -> str:
    """The VTK class of windows that can be drawn here.

    Each is tried in a child process, because VTK crashes where it finds no OpenGL.

    Raises:
        RuntimeError: there is none.
    """
    for name in WINDOW_CLASSES:
        if hasattr(vtk, name):
            probe = subprocess.run([sys.executable, "-c", _PROBE, name], capture_output=True)
            if probe.returncode == 0:
                return name
    raise RuntimeError("OpenGL cannot draw offscreen here: neither EGL nor OSMesa nor a screen was found")


def segmentVolume(volumeNode, model: Path, tasks: Sequence[str]) -> slicer.vtkMRMLSegmentationNode:
    """Run tasks of a model package in the worker and return the new segmentation node.

    Raises:
        InputError: the volume cannot be segmented.
        WorkerError: the worker has failed.
    """
    answers: list[Any] = []
    options = {"path": str(model), "device": "cpu"}
    segmenter = Segmenter(WorkerClient())
    try:
        segmenter.start(
            Request(volumeNode, tuple(tasks), options, onFinished=answers.append, onFailed=answers.append)
        )
        segmenter.wait()
    finally:
        segmenter.stop()
    if isinstance(answers[0], WorkerError):
        raise answers[0]
    return answers[0].segmentationNode


def addVolume(volume: Volume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Put a volume of the library into the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, volume.array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine[:, [2, 1, 0, 3]]))
    return node


def writePicture(path: Path, picture: np.ndarray) -> None:
    """Write RGB as a PNG of 256 colours, half as large as one of all."""
    image = Image.fromarray(picture)
    palette = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3)
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, "PNG", optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment a CT and write what Slicer shows of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ct", help="any image that PartialSeg reads, or a folder with one DICOM series")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--task", action="append", help="may be given more than once; default: all")
    parser.add_argument("--model", help="name or folder of a model package; default: the bundled one")
    parser.add_argument("--pixels", type=int, default=400, help="width and height of each view")
    options = parser.parse_args(arguments)
    try:
        renderWindowClass()  # says at once when nothing can be drawn
        model = find_package(options.model or bundled_model())
        tasks = options.task or [task.name for task in read_manifest(model).tasks]
        volumeNode = addVolume(read_volume(options.ct), "CT")
        segmentationNode = segmentVolume(volumeNode, model, tasks)
        if not segmentIds(segmentationNode):
            raise InputError("Nothing was found; there is nothing to draw.")
        writePicture(options.picture, drawViews(volumeNode, segmentationNode, options.pixels))
    except (InputError, RuntimeError, OSError) as error:
        parser.exit(1, f"{error}\n")
    return 0


def _display(volumeNode, segmentationNode) -> None:
    """Make the CT window that for soft tissue; show segments by outline and fill, and by their surfaces."""
    volumeNode.CreateDefaultDisplayNodes()
    volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
    volumeNode.GetDisplayNode().SetWindowLevel(WINDOW_HU, LEVEL_HU)
    segmentationNode.CreateDefaultDisplayNodes()
    segmentationNode.CreateClosedSurfaceRepresentation()
    display = segmentationNode.GetDisplayNode()
    display.SetPreferredDisplayRepresentationName2D(LABELMAP)
    display.SetPreferredDisplayRepresentationName3D(SURFACE)
    display.SetOpacity2DFill(FILL_OPACITY)
    display.SetOpacity2DOutline(1.0)


def _middle(segmentationNode) -> tuple[np.ndarray, float]:
    """The middle of all segments, and how wide a view of them all is."""
    bounds = np.zeros(6)
    segmentationNode.GetRASBounds(bounds)
    low, high = bounds.reshape(3, 2).T
    return (low + high) / 2, MARGIN * (high - low).max()


def _nodeIds() -> set[str]:
    return {scene.node.GetNthNode(number).GetID() for number in range(scene.node.GetNumberOfNodes())}


if __name__ == "__main__":
    sys.exit(main())
