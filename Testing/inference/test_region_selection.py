"""Region selection: a coarse model, or the air, says where a fine model has nothing to do."""

import dataclasses

import numpy as np
import pytest
import torch
from bright_model import bright_model
from selecting_model import make_model, without_decision

from PartialSegLib.errors import Cancelled, InputError
from PartialSegLib.inference.region_selection import CoarsePass, body_voxels, marked_voxels, marking_keys
from PartialSegLib.manifest import Preprocessing, Task
from PartialSegLib.model import Model
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

SHAPE = (40, 24, 16)
ORGAN = (slice(4, 10), slice(6, 12), slice(6, 12))
AFFINE = np.array([[0, 0, -4.0, 50], [0, -4, 0, -10], [4, 0, 0, 100], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def fine():
    return without_decision(make_model())


def make_volume(brightness: float = 320) -> Volume:
    array = np.random.default_rng(0).normal(0, 60, SHAPE).astype(np.float32)
    array[ORGAN] = brightness
    return Volume(array, AFFINE)


@pytest.fixture(scope="module")
def volume():
    return make_volume()


def session_with(model, volume, **options):
    session = InferenceSession(model, "cpu", precision="float32", **options)
    session.set_image(volume)
    return session


@pytest.fixture(scope="module")
def whole(fine, volume):
    session = session_with(fine, volume)
    return session.predict(), session.patches_encoded


# --- a coarse model ---------------------------------------------------------------------------------------


def test_only_what_the_coarse_model_found_is_looked_at(fine, volume, whole):
    session = session_with(fine, volume, region_from=CoarsePass(bright_model(), margin_mm=8))
    found = session.predict("liver")
    full, patches = whole
    assert 0 < session.patches_encoded < patches
    inside = np.zeros(SHAPE, bool)
    inside[2:12, 4:14, 4:14] = True  # the organ and 8 mm, at the fine model's 4 mm
    for key in found:
        np.testing.assert_array_equal(found[key][inside], full[key][inside])
        assert not found[key][20:].any()
    assert found["liver"].any()
    said = found.provenance["selection"]
    assert said["region_from"]["model"] == "coarse"
    assert said["region_from"]["margin_mm"] == 8
    assert said["tasks"]["liver"]["region"] == "around what the coarse model found"
    assert said["patches"]["visited"] == session.patches_encoded < said["patches"]["of"]


def test_fast_plans_patches_around_what_the_coarse_model_found(fine, volume):
    """The organ and its margin fit one patch, which no patch of the whole image holds."""
    coarse = CoarsePass(bright_model(), margin_mm=8)
    exact = session_with(fine, volume, region_from=coarse)
    exact.predict("liver")
    session = session_with(fine, volume, region_from=coarse, selection="fast")
    found = session.predict("liver")
    assert session.patches_encoded == 1 < exact.patches_encoded
    assert found["liver"].any()
    assert not found["liver"][20:].any()
    said = found.provenance["selection"]
    assert said["slices"] == "fast"
    assert said["patches"] == {"visited": 1, "of": 8, "skipped": 0.875}


def test_fast_visits_nothing_where_nothing_is_to_be_found(fine):
    coarse = CoarsePass(bright_model(), trust_nothing=True)
    session = session_with(fine, make_volume(0), region_from=coarse, selection="fast")
    assert not session.predict("liver")["liver"].any()
    assert session.patches_encoded == 0


def test_a_model_may_be_given_as_it_is(fine, volume):
    session = session_with(fine, volume, region_from=bright_model())
    assert session.predict("liver").provenance["selection"]["region_from"]["margin_mm"] == 20


def test_where_it_finds_nothing_everything_is_looked_at(fine):
    dark = make_volume(0)
    session = session_with(fine, dark, region_from=bright_model())
    found, expected = session.predict("liver"), session_with(fine, dark).predict("liver")
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
    assert session.patches_encoded == session.patches_planned
    remark = "everything: the coarse model found nothing"
    assert found.provenance["selection"]["tasks"]["liver"]["region"] == remark


def test_unless_its_finding_nothing_is_trusted(fine):
    coarse = CoarsePass(bright_model(), trust_nothing=True)
    session = session_with(fine, make_volume(0), region_from=coarse)
    found = session.predict("liver")
    assert session.patches_encoded == 0
    assert all(found.voxel_count(key) == 0 for key in found)
    remark = "nothing: the coarse model found nothing"
    assert found.provenance["selection"]["tasks"]["liver"]["region"] == remark


def test_what_it_does_not_know_is_looked_for_everywhere(fine, volume, whole):
    session = session_with(fine, volume, region_from=bright_model())
    found = session.predict("colon")
    np.testing.assert_array_equal(found["colon_tumor"], whole[0]["colon", "colon_tumor"])
    assert session.patches_encoded == session.patches_planned
    remark = found.provenance["selection"]["tasks"]["colon"]["region"]
    assert remark == "everything: the coarse model does not know all structures"


@pytest.mark.parametrize("cache_bytes", [0, 2 << 30])
def test_results_depend_neither_on_what_is_kept_nor_on_the_order_of_tasks(fine, volume, cache_bytes):
    expected = session_with(fine, volume, region_from=bright_model()).predict("liver")
    session = session_with(fine, volume, region_from=bright_model(), cache_bytes=cache_bytes)
    for names in (["colon", "liver"], ["kidney"], ["liver"]):
        found = session.predict(names)
        if "liver" in names:
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key])


def test_the_coarse_model_forgets_the_image_before(fine, volume):
    session = session_with(fine, make_volume(0), region_from=bright_model())
    session.predict("liver")
    session.set_image(volume)
    session.predict("liver")
    assert session.patches_encoded < session.patches_planned


def test_off_turns_it_off(fine, volume, whole):
    session = session_with(fine, volume, region_from=bright_model(), skip_air=True, selection="off")
    found = session.predict("liver")
    for key in found:
        np.testing.assert_array_equal(found[key], whole[0][key])
    assert found.provenance["selection"]["region_from"] is None


def test_it_can_be_cancelled_while_the_coarse_model_looks(fine, volume):
    def stop(done, total):
        raise Cancelled

    session = session_with(fine, volume, region_from=bright_model())
    with pytest.raises(Cancelled):
        session.predict("liver", on_progress=stop)
    assert session.patches_encoded == 0
    assert session.predict("liver")["liver"].any()


def test_a_margin_is_a_distance():
    with pytest.raises(InputError, match="distance of 0 mm or more, not -3"):
        CoarsePass(bright_model(), margin_mm=-3)
    with pytest.raises(InputError, match="distance of 0 mm or more, not 'x'"):
        CoarsePass(bright_model(), margin_mm="x")


def test_a_coarse_pass_takes_the_name_of_a_model():
    assert CoarsePass("trunk-7tasks", effort=0.5).describe()["model"] == "trunk-7tasks"
    with pytest.raises(InputError, match="Unknown model 'nowhere'"):
        CoarsePass("nowhere")


def test_structures_are_matched_by_name_and_by_the_organ_they_are_in():
    found = [("a", "liver"), ("a", "liver_tumor"), ("b", "kidney"), ("c", "colon_tumor")]
    assert marking_keys(["liver"], found) == [("a", "liver")]
    assert marking_keys(["liver_tumor"], found) == [("a", "liver"), ("a", "liver_tumor")]
    assert marking_keys(["hepatic_vessel", "kidney_tumor"], found) == [("a", "liver"), ("b", "kidney")]
    assert marking_keys(["colon_tumor"], found) == [("c", "colon_tumor")]
    assert marking_keys(["kidney", "spleen"], found) is None


def test_parts_that_lie_apart_are_marked_apart(fine, volume):
    found = Segmentation(SHAPE, AFFINE)
    mask = np.zeros(SHAPE, bool)
    mask[5, 5, 5] = mask[30, 18, 10] = True
    found.add("kidney", "kidney", None, mask)
    prepared = preprocess(volume, fine.manifest.preprocessing, torch.device("cpu"))
    kept = marked_voxels(found, found.keys(), 8, prepared)
    expected = np.zeros(SHAPE, bool)
    expected[3:8, 3:8, 3:8] = expected[28:33, 16:21, 8:13] = True
    np.testing.assert_array_equal(kept, expected)


# --- air --------------------------------------------------------------------------------------------------


def in_air(clip: tuple[float, float]) -> tuple[Model, Volume]:
    """A body with lungs, and a table below it."""
    array = np.full((16, 50, 44), -1000, np.float32)
    array[:, 26:46, 18:40] = np.random.default_rng(0).normal(0, 60, (16, 20, 22))
    array[5:15, 32:38, 24:30] = -900  # a lung
    array[:, 4:6, 10:40] = -100  # a table
    model = make_model(orientation="SAR", overlap=0.25)
    manifest = dataclasses.replace(
        model.manifest,
        preprocessing=Preprocessing("SAR", (4, 4, 4), clip, divide=325),
        decision=None,
    )
    affine = np.array([[0, 0, 4.0, 0], [0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1]])
    return dataclasses.replace(model, manifest=manifest, decision=None), Volume(array, affine)


@pytest.mark.parametrize("clip", [(-900.0, 300.0), (-325.0, 325.0), (-200.0, 300.0)])
def test_the_body_has_its_lungs_but_no_table(clip):
    model, volume = in_air(clip)
    settings = model.manifest.preprocessing
    body = body_voxels(preprocess(volume, settings, torch.device("cpu")), settings)
    expected = np.zeros(volume.shape, bool)
    expected[:, 23:49, 15:43] = True  # and 10 mm
    np.testing.assert_array_equal(body, expected)


def test_an_image_of_air_is_all_body():
    model, volume = in_air((-325, 325))
    settings = model.manifest.preprocessing
    air = volume.with_array(np.full(volume.shape, -1000, np.float32))
    assert body_voxels(preprocess(air, settings, torch.device("cpu")), settings).all()


def test_air_is_not_visited_and_the_body_comes_out_the_same():
    model, volume = in_air((-325, 325))
    plain = session_with(model, volume)
    bare = session_with(model, volume, skip_air=True)
    whole, found = plain.predict(["liver", "colon"]), bare.predict(["liver", "colon"])
    assert bare.patches_encoded < plain.patches_encoded
    body = np.zeros(volume.shape, bool)
    body[:, 23:49, 15:43] = True
    for key in whole:
        np.testing.assert_array_equal(found[key], whole[key] & body)
    assert found.provenance["selection"]["skip_air"]


def test_the_exact_selection_does_not_skip_air(fine):
    with pytest.raises(InputError, match="leaves the scores of air as they are"):
        InferenceSession(make_model(), "cpu", selection="exact", skip_air=True)


def test_a_task_without_background_finds_nothing_where_it_does_not_look():
    task = Task("liver", {"liver": 0, "spleen": 1})
    model = bright_model(task, activation="softmax", thresholds=(100,))
    array = np.full((40, 40, 40), -1000, np.float32)
    array[10:20, 10:20, 10:20] = 0
    affine = np.array([[0, 0, -8.0, 0], [0, -8, 0, 0], [8, 0, 0, 0], [0, 0, 0, 1]])
    session = session_with(model, Volume(array, affine), skip_air=True)
    body = session._require_selected().body
    found = session.predict()["liver"]
    np.testing.assert_array_equal(found, body[:40, :40, :40])
    assert 0 < found.sum() < found.size
    region = session.predict(roi=(-200, 0, -200, 0, 100, 140))
    assert 0 < region.voxel_count("liver") < found.sum()


def image_with(box, shape=(20, 30, 25)):
    """An image of 5 x 2 x 4 mm, its voxels those of the network, that is air but in a box."""
    affine = np.array([[0, 0, -4.0, 0], [0, 2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]])  # "SAL"
    array = np.full(shape, -1000, np.int16)
    array[box] = 40
    preprocessing = Preprocessing("SAL", (5, 2, 4), (-1000, 1000), divide=1000)
    volume = Volume(array, affine)
    return volume, preprocessing, preprocess(volume, preprocessing, torch.device("cpu"))


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (np.s_[4:8, 6:12, 5:9], np.s_[2:10, 1:17, 2:12]),
        (np.s_[0:3, 0:4, 0:5], np.s_[0:5, 0:9, 0:8]),
        (np.s_[17:20, 26:30, 20:25], np.s_[15:20, 21:30, 17:25]),
    ],
    ids=["inside", "at the first borders", "at the last borders"],
)
def test_the_body_is_widened_by_10_mm_along_every_axis(body, kept):
    _, preprocessing, prepared = image_with(body)
    expected = np.zeros((20, 30, 25), bool)
    expected[kept] = True
    np.testing.assert_array_equal(body_voxels(prepared, preprocessing), expected)


def test_marked_boxes_are_widened_by_at_least_the_margin_along_every_axis():
    volume, _, prepared = image_with(np.s_[0:0])
    mask = np.zeros(volume.shape, bool)
    mask[9, 14, 11] = mask[10, 15, 12] = True  # a corner apart: one part
    found = Segmentation(volume.shape, volume.affine)
    found.add("liver", "liver", None, mask)
    expected = np.zeros(volume.shape, bool)
    expected[8:12, 11:19, 9:15] = True
    np.testing.assert_array_equal(marked_voxels(found, [("liver", "liver")], 5, prepared), expected)
    expected[:] = False
    expected[9:11, 14:16, 11:13] = True
    np.testing.assert_array_equal(marked_voxels(found, [("liver", "liver")], 0, prepared), expected)


def test_a_margin_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="The margin is a distance of 0 mm or more, not nan"):
        CoarsePass(bright_model(), margin_mm=float("nan"))
