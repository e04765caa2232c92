"""Effort together with clean-up, softmax, unknown structures, regions, slices and the report."""

import numpy as np
import pytest
import torch
from bright_model import LIVER, NEVER, bright_model
from coarse_session import (
    AFFINE,
    SHAPE,
    SPOTS,
    assert_same,
    covered,
    make_volume,
    patch_counts,
    relying,
    session_with,
)
from selecting_model import kept_slices, make_model, without_decision
from selecting_model import make_volume as volume_of_slices

from PartialSegLib.inference.coarse_findings import uncertain_parts
from PartialSegLib.inference.mask_restoration import restore_masks
from PartialSegLib.inference.region_selection import CoarsePass
from PartialSegLib.manifest import PostprocessingStep, Task
from PartialSegLib.patches.blending import KeptScores
from PartialSegLib.patches.visit_plan import TaskView
from PartialSegLib.report import build_report
from PartialSegLib.task_request import request_tasks
from PartialSegLib.volume import Volume

SOFTMAX = Task("liver", {"liver": 1, "liver_tumor": 2})


@pytest.fixture(scope="module")
def fine():
    """Six patches, no two of which share a voxel."""
    return without_decision(make_model(overlap=0))


@pytest.fixture(scope="module")
def volume():
    return make_volume()


def test_the_clean_up_sees_what_the_coarse_model_connects():
    """The ends of the organ, seen closely, hang together by its middle, which only the coarse model sees."""
    steps = (PostprocessingStep("keep_largest", "liver", count=1),)
    fine = bright_model(Task("liver", {"liver": 0}, "", steps), spacing=4, thresholds=(60,), overlap=0)
    image = make_volume((SPOTS[0], SPOTS[2]))
    image.array[:2, :2, :2] = 320  # and this hangs together with nothing
    session = relying(fine, image, 0.999)
    found = session.predict("liver")
    visited = covered(session)
    assert patch_counts(found)["visited"] == 2
    organ = image.array > 60
    organ[:2, :2, :2] = False
    np.testing.assert_array_equal(found["liver"][visited], organ[visited])
    coarse = session_with(bright_model(), image).predict("liver")
    np.testing.assert_array_equal(found["liver"][~visited], coarse["liver"][~visited])
    assert found["liver"][:16, :16].any()
    assert found["liver"][32:, :16].any()


@pytest.mark.parametrize(
    "coarse",
    [
        bright_model(thresholds=(100, 250)),
        bright_model(SOFTMAX, thresholds=(100, 250), activation="softmax"),
        bright_model(SOFTMAX, thresholds=(100, 250), activation="softmax", blend="logits"),
    ],
    ids=["sigmoid", "softmax", "softmax of logits"],
)
def test_with_a_softmax_a_voxel_belongs_to_one_structure(volume, coarse):
    fine = bright_model(SOFTMAX, spacing=4, thresholds=(60, 200), activation="softmax", overlap=0)
    for effort in (0, 0.3, 0.6):
        session = relying(fine, volume, effort, coarse)
        found = session.predict("liver")
        visited = covered(session)
        assert patch_counts(found)["coarse"] > 0
        assert visited.any() == (effort > 0)
        assert not (found["liver"] & found["liver_tumor"]).any()
        closely = {"liver": (volume.array > 60) & (volume.array <= 200), "liver_tumor": volume.array > 200}
        rough = {key[1]: mask for key, mask in masks_of(session_with(coarse, volume)).items()}
        rough["liver"] = rough["liver"] & ~rough["liver_tumor"]
        for structure, mask in closely.items():
            np.testing.assert_array_equal(found[structure], np.where(visited, mask, rough[structure]))


def masks_of(session):
    found = session.predict()
    return {key: found[key] for key in found}


def test_a_structure_that_the_coarse_model_does_not_yield_is_the_fine_models_work(fine, volume):
    coarse = bright_model(Task("liver", {"liver": 0}))
    session = relying(fine, volume, 0, coarse)
    found = session.predict("liver")
    assert_same(found, relying(fine, volume, 1, coarse).predict("liver"))
    assert "coarse" not in patch_counts(found)
    remark = found.provenance["selection"]["tasks"]["liver"]["region"]
    assert remark == (
        "around what the coarse model found; all by the fine model: "
        "the coarse model does not yield all structures"
    )


def test_the_coarse_mask_of_the_same_task_is_taken_before_others(fine, volume):
    other = Task("other", {"liver": 1, "liver_tumor": 0})
    for tasks in ((other, LIVER), (LIVER, other)):
        coarse = bright_model(*tasks, thresholds=(100, NEVER))
        found = relying(fine, volume, 0, coarse).predict("liver")
        assert found["liver"].any()
        assert not found["liver_tumor"].any()


def test_where_nothing_is_found_the_fine_model_looks_everywhere_unless_told_not_to(fine):
    array = np.full(SHAPE, -200, np.float32)
    array[20:28, 6:12, 4:10] = 85  # uncertain, but not found
    dark = Volume(array, AFFINE)
    for effort in (0, 0.5, 1):
        session = relying(fine, dark, effort)
        found = session.predict("liver")
        assert session.patches_encoded == session.patches_planned == 6
        remark = found.provenance["selection"]["tasks"]["liver"]["region"]
        assert remark == "everything: the coarse model found nothing"
    trusting = CoarsePass(bright_model(), trust_nothing=True, effort=0.5)
    session = session_with(fine, dark, region_from=trusting)
    assert not session.predict("liver")["liver"].any()
    assert session.patches_encoded == 0


def test_a_region_of_interest_limits_both_models(fine, volume):
    limits = (-20, 60, -140, 0, 120, 200)
    session = relying(fine, volume, 0)
    found = session.predict("liver", roi=limits)
    coarse = session_with(bright_model(), volume).predict("liver")
    inside = np.zeros(SHAPE, bool)
    inside[5:26, :, :] = True
    inside &= (50 - 4 * np.arange(16)) >= -20
    np.testing.assert_array_equal(found["liver"], coarse["liver"] & inside)
    assert 0 < found.voxel_count("liver") < coarse.voxel_count("liver")


@pytest.mark.parametrize("selection", ["exact", "fast"])
def test_skipped_slices_stay_empty(selection):
    image = volume_of_slices()
    coarse = bright_model(thresholds=(60, 90))
    session = relying(make_model(), image, 0, coarse, selection=selection)
    expected = session_with(coarse, image).predict("liver")
    kept = kept_slices("liver")[:, None, None]
    for effort, visited in [(0, 0), (0.2, 1)]:
        found = session.predict("liver", effort=effort)
        assert patch_counts(found)["visited"] == visited
        for key in found:
            assert found.voxel_count(key)
            assert not (found[key] & ~kept).any()
            assert effort or np.array_equal(found[key], expected[key] & kept)


def test_off_turns_it_off(fine, volume):
    session = relying(fine, volume, 0, selection="off")
    assert_same(session.predict("liver"), session_with(fine, volume).predict("liver"))


def test_the_report_shows_it(fine, volume):
    found = relying(fine, volume, 0.3).predict("liver")
    selection = build_report(found, {}, "ct")["provenance"]["selection"]
    assert selection["region_from"]["effort"] == 0.3
    assert selection["patches"] == selection["tasks"]["liver"]["patches"]
    assert selection["patches"]["coarse"] == 5
    assert selection["tasks"]["liver"]["region"] == (
        "around what the coarse model found; the coarse masks where no patch is visited"
    )


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_clean_up_on_the_networks_grid_is_done_for_every_activation(activation):
    steps = (PostprocessingStep("keep_largest", "liver", count=1),)
    first = int(activation == "softmax")
    task = Task("liver", {"liver": first, "liver_tumor": first + 1}, "", steps)
    image = make_volume(())
    image.array[:2, :2, :2] = 320  # hangs together with nothing
    model = bright_model(task, spacing=4, thresholds=(60, NEVER), activation=activation)
    organ = image.array > 60
    organ[:2, :2, :2] = False
    np.testing.assert_array_equal(session_with(model, image).predict("liver")["liver"], organ)


@pytest.mark.parametrize(
    ("step", "overlaps"),
    [
        (PostprocessingStep("include", "liver", other="liver_tumor"), True),
        (PostprocessingStep("keep_largest", "liver", count=1), False),
    ],
)
def test_coarse_masks_overlap_only_where_the_task_includes_one_in_another(volume, step, overlaps):
    task = Task("liver", SOFTMAX.structures, "", (step,))
    fine = bright_model(task, spacing=4, thresholds=(60, 200), activation="softmax", overlap=0)
    found = relying(fine, volume, 0, bright_model(thresholds=(100, 250))).predict("liver")
    assert found["liver_tumor"].any()
    assert (found["liver"] & found["liver_tumor"]).any() == overlaps


@pytest.mark.parametrize(
    ("activation", "steps", "slices"),
    [
        ("sigmoid", (), 8),
        ("softmax", (), 7),
        ("softmax", (PostprocessingStep("keep_largest", "liver", count=1),), 7),
    ],
)
def test_what_is_not_looked_at_takes_no_more_than_half_a_slice(activation, steps, slices):
    """At the border of what is kept: a probability falls to 0 there, a lead over the background far below."""
    first = int(activation == "softmax")
    model = bright_model(Task("liver", {"liver": first}, "", steps), thresholds=(0,), activation=activation)
    session = session_with(model, make_volume())
    image = session._require_selected().image
    scores = KeptScores(image.tensor.shape, first + 1, image.tensor.device)
    scores.scores[first] = 0.9
    kept = np.zeros(image.tensor.shape, bool)
    kept[:4] = True
    (request,) = request_tasks(model.manifest, "liver", None)
    view = TaskView([], kept, np.ones(SHAPE[0], bool))
    ((_, (_, mask)),) = restore_masks(image, session._runner, request, scores, view)
    assert np.count_nonzero(mask.any(axis=(1, 2))) == slices


def test_what_is_not_looked_at_is_certain():
    model = bright_model()
    image = session_with(model, make_volume())._require_selected().image
    scores = torch.full((2, *image.tensor.shape), 0.5)
    kept = np.zeros(image.tensor.shape, bool)
    kept[2:4] = True
    parts = uncertain_parts(scores, kept, LIVER, model.manifest.inference, image)
    for box, mask in parts.values():
        assert box == (slice(2, 4), *(slice(0, size) for size in image.prepared.tensor.shape[1:]))
        assert mask.all()
