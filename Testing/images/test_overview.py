import numpy as np
import pytest

from PartialSegLib import Segmentation, Volume
from PartialSegLib.overview.picture import write_overview
from PartialSegLib.overview.scene import Scene
from PartialSegLib.overview.surface_view import AMBIENT, Body, render_surfaces
from PartialSegLib.volume import reorient

ORIENTATIONS = ["SAR", "IPL", "SPL", "RAS", "AIL", "PLS"]
RED, BLUE, BLACK = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)


@pytest.fixture
def patient():
    """A volume (SAR) with an ellipse of soft tissue in air, and a liver on the patient's right."""
    affine = np.array([[0, 0, 4.0, -60], [0, 4.0, 0, -50], [8.0, 0, 0, -40], [0, 0, 0, 1]])
    z, y, x = np.indices((10, 25, 30))
    body = ((y - 12) / 10) ** 2 + ((x - 14.5) / 13) ** 2 < 1
    volume = Volume(np.where(body, 40, -1000).astype(np.int16), affine)
    liver = body & (x > 17) & (y > 8) & (z > 3) & (z < 8)
    return volume, liver


def turned(patient, orientation):
    """The same patient with the array in another orientation."""
    volume, liver = patient
    mask = reorient(volume.with_array(liver), orientation)
    segmentation = Segmentation(mask.shape, mask.affine)
    segmentation.add("liver", "liver", None, mask.array)
    segmentation.add("liver", "liver_tumor", None, np.zeros(mask.shape, bool))
    return reorient(volume, orientation), segmentation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_lie_on_the_image_however_the_array_is_turned(patient, orientation):
    scene = Scene(*turned(patient, orientation))
    expected = reorient(patient[0].with_array(patient[1]), "IPL").array
    for axis in range(3):
        index = scene.best_index(axis)
        assert np.array_equal(
            scene.findings[0].plane(axis, index, scene.image.shape), expected.take(index, axis)
        )


def test_cuts_go_through_the_largest_area(patient):
    scene = Scene(*turned(patient, "SAR"))
    liver = reorient(patient[0].with_array(patient[1]), "IPL").array
    for axis in range(3):
        areas = liver.sum(axis=tuple({0, 1, 2} - {axis}))
        assert areas[scene.best_index(axis)] == areas.max()


def test_lesions_are_drawn_over_organs(patient):
    assert [finding.name for finding in Scene(*turned(patient, "SAR")).findings] == ["liver", "liver tumor"]


def test_without_findings_cuts_go_through_the_middle_of_the_body(patient):
    scene = Scene(patient[0], Segmentation(patient[0].shape, patient[0].affine))
    assert [scene.best_index(axis) for axis in range(3)] == pytest.approx([5, 12, 15], abs=1)


def test_the_field_of_view_holds_body_and_findings(patient):
    volume, _ = patient
    segmentation = Segmentation(volume.shape, volume.affine)
    segmentation.add("spleen", "spleen", (slice(0, 1),) * 3, np.ones((1, 1, 1), bool))  # a corner, in the air
    z, y, x = Scene(volume, segmentation).field_of_view
    assert (z, y.stop, x.stop) == (slice(0, 10), 25, 30)


def ball(center_mm, color=RED, opacity=1.0, radius=10):
    axes = np.indices((21, 21, 21)) - 10
    mask = (axes**2).sum(0) <= radius**2
    return Body(mask, np.array(center_mm) - 10.0, np.ones(3), color, opacity)


def test_a_ball_is_drawn_as_a_disc():
    picture = render_surfaces([ball((0, 0, 0))], 0.5, BLACK)
    is_drawn = picture[..., 0] > AMBIENT / 2
    assert np.count_nonzero(is_drawn) * 0.25 == pytest.approx(np.pi * 100, rel=0.1)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_light_comes_from_above_and_the_left():
    picture = render_surfaces([ball((0, 0, 0))], 0.5, BLACK).sum(axis=2)
    rows, columns = picture.shape
    assert picture[rows // 4, columns // 3] > picture[3 * rows // 4, 2 * columns // 3]


def test_a_ball_within_an_opaque_one_is_hidden_and_within_glass_it_shows():
    inner = ball((0, 0, 0), BLUE, radius=5)
    opaque, glass = ball((0, 0, 0), RED), ball((0, 0, 0), RED, opacity=0.3)
    for bodies in ([inner, opaque], [opaque, inner]):
        assert np.array_equal(render_surfaces(bodies, 1.0, BLACK), render_surfaces([opaque], 1.0, BLACK))
    assert blue_in_the_middle([inner, glass]) > 0.3 > blue_in_the_middle([glass])


def blue_in_the_middle(bodies):
    picture = render_surfaces(bodies, 1.0, BLACK)
    rows, columns, _ = picture.shape
    return picture[rows // 2, columns // 2, 2]


@pytest.mark.parametrize("shape", [(10, 25, 30), (1, 25, 30), (1, 1, 1), (400, 12, 10)])
@pytest.mark.parametrize("is_found", [True, False])
def test_a_picture_is_drawn_for_any_shape(tmp_path, shape, is_found):
    volume = Volume(np.zeros(shape, np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    segmentation = Segmentation(shape, volume.affine)
    segmentation.add("liver", "liver", None, np.full(shape, is_found))
    write_overview(tmp_path / "overview.png", volume, segmentation, "a title")
    assert (tmp_path / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_input_gives_an_equal_picture(tmp_path, patient):
    for name in ("one.png", "two.png"):
        write_overview(tmp_path / name, *turned(patient, "RAS"), "cost_$1_and_$2_x^.nii.gz")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
