"""What Slicer's own displayable managers show of segments: pixels against places in the patient."""

import numpy as np
import pytest
import slicer_views
from PIL import Image
from scene_nodes import PROVENANCE, ctNode, found, segmentationNode, segmentIds
from scipy.ndimage import zoom
from slicer_views import cutPoint, drawViews, views, writePicture
from tiny_model import write_tiny_model

from PartialSegLib import Volume, write_volume
from PartialSegLib.manifest import Preprocessing, Task

from PartialSegSlicer.scene.mrml import addSegments

SHAPE = (40, 60, 80)
BOX = (slice(20, 34), slice(12, 42), slice(50, 74))
AFFINE = np.array([[0, 0, -1.5, 70.0], [0, -2, 0, -30], [3, 0, 0, -500], [0, 0, 0, 1]])
"""(k, j, i, 1) to RAS mm, as CT comes from most scanners: i to the left, j to the back, k upwards."""
PIXELS, WIDTH = 200, 150.0
GREY = 127.5
"""What a slice view shows of the tissue, in the middle of the CT window."""
ACROSS_AND_UP = {"Axial": (0, 1), "Coronal": (0, 2), "Sagittal": (1, 2)}
"""The patient's axes in each view: right and front are at the left, front and head at the top."""


@pytest.fixture(scope="module", autouse=True)
def drawable():
    try:
        slicer_views.renderWindowClass()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def nodes(scene):
    """Uniform tissue, and a box in it that lies high, to the left and a little to the front."""
    volumeNode, node = ctNode(AFFINE, np.full(SHAPE, slicer_views.LEVEL_HU, np.int16)), segmentationNode()
    addSegments(node, volumeNode, [found("liver", "liver", *BOX)], PROVENANCE)
    return volumeNode, node


def ras(*index) -> np.ndarray:
    """World RAS mm of a place in the volume, in voxels (k, j, i)."""
    return (AFFINE @ (*index, 1))[:3]


def boxLimits() -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest RAS of the box, mm: the faces of its outermost voxels."""
    faces = np.array([ras(*(part.start - 0.5 for part in BOX)), ras(*(part.stop - 0.5 for part in BOX))])
    return faces.min(0), faces.max(0)


def nodeIds(scene) -> list[str]:
    return [scene.node.GetNthNode(number).GetID() for number in range(scene.node.GetNumberOfNodes())]


def colorOf(node) -> np.ndarray:
    return 255 * np.array(node.GetSegmentation().GetSegment(segmentIds(node)[0]).GetColor())


def isSurface(picture, color) -> np.ndarray:
    """Where a picture shows a colour, however brightly lit; shape (row, column)."""
    pixels = picture / np.linalg.norm(picture, axis=2, keepdims=True).clip(1)
    return (pixels @ (color / np.linalg.norm(color)) > 0.99) & (picture.max(2) > 20)


def test_each_slice_view_shows_the_segment_where_it_is_in_the_patient(nodes):
    center = ras(*(size / 2 for size in SHAPE))
    low, high = boxLimits()
    filled = (1 - slicer_views.FILL_OPACITY) * GREY + slicer_views.FILL_OPACITY * colorOf(nodes[1])
    with views(*nodes, PIXELS) as opened:
        for plane, axes in ACROSS_AND_UP.items():
            opened[plane].lookAt(center, WIDTH, (low + high) / 2)
            isFilled = (np.abs(opened[plane].picture() - filled) < 3).all(2)
            rows, columns = np.nonzero(isFilled)
            shown = np.array([columns.min(), columns.max() + 1, rows.min(), rows.max() + 1])
            across, up = (PIXELS / 2 + PIXELS / WIDTH * (center - [high, low])[:, list(axes)]).T
            np.testing.assert_allclose(shown, [*across, *up], atol=2)  # the outline is drawn over the fill
            assert isFilled.sum() > 0.99 * np.prod(shown[[1, 3]] - shown[[0, 2]])


def test_each_slice_view_knows_the_pixel_of_a_point(nodes):
    low, high = boxLimits()
    with views(*nodes, PIXELS) as opened:
        for plane in ACROSS_AND_UP:
            picture = opened[plane].picture()
            row, column = opened[plane].pixelOf((low + high) / 2)
            assert np.ptp(picture[row, column]) > 20
            row, column = opened[plane].pixelOf(high + 1.5)
            np.testing.assert_allclose(picture[row, column], GREY, atol=1)


def test_planes_cut_where_most_of_the_segments_is(nodes):
    addSegments(nodes[1], nodes[0], [found("spleen", "spleen", slice(20, 22), *BOX[1:])], PROVENANCE)
    index = np.linalg.solve(AFFINE, [*cutPoint(*nodes), 1])[:3]
    inBoth = (slice(20, 22), *BOX[1:])
    assert all(part.start <= k < part.stop for part, k in zip(inBoth, np.rint(index), strict=True))


def test_the_3d_view_shows_the_surface_in_its_colour(nodes):
    color = colorOf(nodes[1])
    with views(*nodes, PIXELS) as opened:
        shown = isSurface(opened["3D"].picture(), color)
        nodes[1].GetDisplayNode().SetVisibility(False)
        hidden = isSurface(opened["3D"].picture(), color)
    assert shown.mean() > 0.2
    assert shown[PIXELS // 2, PIXELS // 2]
    assert not hidden[: PIXELS // 2].any()


def test_pictures_leave_no_nodes_behind(nodes, scene):
    nodes[0].CreateDefaultDisplayNodes()
    before = nodeIds(scene)
    for _ in range(2):
        drawViews(*nodes, 50)
    assert nodeIds(scene) == before


def test_four_views_make_one_picture(nodes, tmp_path):
    with views(*nodes, 100) as opened:
        axial, sagittal = opened["Axial"].picture(), opened["Sagittal"].picture()
    picture = drawViews(*nodes, 100)
    np.testing.assert_array_equal(picture[:100, :100], axial)
    np.testing.assert_array_equal(picture[-100:, -100:], sagittal)
    writePicture(tmp_path / "views.png", picture)
    with Image.open(tmp_path / "views.png") as image:
        np.testing.assert_allclose(np.asarray(image.convert("RGB"), int), picture, atol=40)


def test_the_script_segments_a_ct_and_draws_it(scene, tmp_path):
    noise = np.random.default_rng(0).normal(0, 250, (6, 7, 8))
    write_volume(tmp_path / "ct.nrrd", Volume(zoom(noise, 5, order=1).astype(np.int16), AFFINE))
    tasks = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("spleen", {"spleen": 0}))
    preprocessing = Preprocessing("SAR", (4, 4, 4), (-325, 325), divide=325)
    model = write_tiny_model(tmp_path / "tiny", tasks, preprocessing, gain=20)
    arguments = [tmp_path / "ct.nrrd", tmp_path / "views.png", "--model", model, "--task", "liver"]
    assert slicer_views.main([*map(str, arguments), "--pixels", "100"]) == 0
    node = scene.node.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert all(id.startswith("PartialSeg_liver") for id in segmentIds(node))
    with Image.open(tmp_path / "views.png") as image:
        assert image.size == (204, 204)
        assert np.ptp(np.asarray(image.convert("RGB")), axis=2).max() > 20


def test_without_opengl_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(slicer_views, "WINDOW_CLASSES", ("vtkXOpenGLRenderWindow",))
    with pytest.raises(RuntimeError, match="neither EGL nor OSMesa"):
        slicer_views.renderWindowClass.__wrapped__()
