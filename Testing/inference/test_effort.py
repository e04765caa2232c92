"""Effort: the fine model where the coarse one is uncertain, and the coarse masks elsewhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from bright_model import LIVER, NEVER, Bright, bright_model
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
from selecting_model import make_model, without_decision
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.__main__ import main
from PartialSegLib.errors import InputError
from PartialSegLib.inference.region_selection import CoarsePass
from PartialSegLib.manifest import PostprocessingStep, Preprocessing, Task
from PartialSegLib.volume import Volume, write_volume

EFFORTS = (0, 0.25, 0.5, 0.75, 0.9, 0.999)


@pytest.fixture(scope="module")
def fine():
    """Six patches, no two of which share a voxel."""
    return without_decision(make_model(overlap=0))


@pytest.fixture(scope="module")
def volume():
    return make_volume()


def test_with_all_effort_the_coarse_model_only_marks(fine, volume):
    whole = session_with(fine, volume).predict("liver")
    session = relying(fine, volume, 1)
    found = session.predict("liver")
    assert_same(found, whole)  # the region is the whole image here
    assert session.patches_encoded == 6
    assert patch_counts(found) == {"visited": 6, "of": 6, "skipped": 0.0}
    assert found.provenance["selection"]["tasks"]["liver"]["region"] == "around what the coarse model found"
    assert found.provenance["selection"]["region_from"]["effort"] == 1
    assert CoarsePass(bright_model()).effort == 1


@pytest.mark.parametrize("orientation", ["SPL", "LPI", "ASR"])
@pytest.mark.parametrize("names", ["liver", ["colon", "liver"]])
def test_without_effort_the_masks_are_the_coarse_ones(volume, orientation, names):
    coarse = bright_model(LIVER, Task("colon", {"colon_tumor": 0}), thresholds=(100, 250), orientation="IRA")
    fine = without_decision(make_model(orientation))
    session = relying(fine, volume, 0, coarse)
    found = session.predict(names)
    assert session.patches_encoded == 0
    assert_same(found, session_with(coarse, volume).predict(names))
    assert all(found.voxel_count(key) for key in found)


def test_visited_patches_hold_the_fine_mask_and_the_others_the_coarse_one(fine, volume):
    whole = session_with(fine, volume).predict("liver")
    coarse = session_with(bright_model(), volume).predict("liver")
    for effort, patches in [(0.3, 1), (0.6, 2), (0.999, 3)]:
        session = relying(fine, volume, effort)
        found = session.predict("liver")
        visited = np.zeros(SHAPE, bool)
        visited[: 16 * patches, :16] = True
        for key in found:
            np.testing.assert_array_equal(found[key], np.where(visited, whole[key], coarse[key]))
        assert session.patches_encoded == patches
        assert patch_counts(found) == {"visited": patches, "coarse": 6 - patches, "of": 6, "skipped": 0.0}


def test_what_is_uncertain_has_its_place_also_where_the_coarse_image_is_padded(fine):
    """The image is 24 x 16 x 8 voxels of the coarse model, whose patches are 16 x 16 x 16."""
    session = relying(fine, make_volume(SPOTS[:1]), 0.5, bright_model(padding="both sides"))
    found = session._find_coarsely(session._coarse, lambda *_: None)
    box, mask = found.uncertain["liver", "liver"]
    assert box == np.s_[3:7, 3:6, 2:5]
    assert mask[:, 1, 1].all()


def test_more_effort_visits_the_same_patches_and_more(volume):
    fine = without_decision(make_model())
    before = np.zeros(SHAPE, bool)
    visited = []
    for effort in EFFORTS:
        session = relying(fine, volume, effort)
        now = covered(session)
        assert not (before & ~now).any()
        visited.append(patch_counts(session.predict("liver"))["visited"])
        before = now
    assert visited == sorted(visited)
    assert visited[0] == 0 < visited[2] < visited[-1]


def test_where_every_patch_is_uncertain_nearly_all_effort_is_all(fine):
    array = make_volume().array.copy()
    for spot in SPOTS:
        array[spot, 18:24, 4:10] = 100
    session = relying(fine, Volume(array, AFFINE), 0.999)
    found = session.predict("liver")
    assert patch_counts(found) == {"visited": 6, "coarse": 0, "of": 6, "skipped": 0.0}
    assert_same(found, session.predict("liver", effort=1))


@pytest.mark.parametrize("orientation", ["SPL", "RAI"])
@pytest.mark.parametrize("spacing", [3, 6])
def test_masks_meet_on_the_grid_of_the_image(volume, spacing, orientation):
    """Near the border a fine score (0.6 in the organ) would be mixed with none: the coarse mask counts."""
    fine = bright_model(spacing=spacing, orientation=orientation, thresholds=(313, NEVER), overlap=0)
    session = relying(fine, volume, 0.1)
    found = session.predict("liver")["liver"]
    closely = session.predict("liver", effort=1)["liver"]
    roughly = session.predict("liver", effort=0)["liver"]
    assert ((found == closely) | (found == roughly)).all()
    assert session.patches_encoded > patch_counts(session.predict("liver"))["visited"] == 1
    visited = covered(session)[session._require_selected().image.place]
    if orientation == "RAI":
        visited = visited[::-1, ::-1, ::-1].transpose(2, 1, 0)
    ends = [(min(along) * spacing / 4, (max(along) + 1) * spacing / 4) for along in np.nonzero(visited)]
    inside = [
        slice(round(first) + (2 if first else 0), round(end) - (2 if end < size else 0))
        for (first, end), size in zip(ends, SHAPE, strict=True)
    ]
    around = [slice(max(0, round(first) - 2), round(end) + 2) for first, end in ends]
    np.testing.assert_array_equal(found[tuple(inside)], closely[tuple(inside)])
    assert (closely != roughly)[tuple(inside)].any()
    found[tuple(around)] = roughly[tuple(around)]
    np.testing.assert_array_equal(found, roughly)


def test_only_what_touches_the_region_is_left_to_the_coarse_model(fine):
    array = make_volume(SPOTS[:1]).array.copy()
    array[:, 14:] = -200  # nothing for the patches behind
    array[16:] = -200
    array[22:32, 2:14, 2:14] = 85  # uncertain, but not found, and outside the region
    coarse = CoarsePass(bright_model(), margin_mm=4, effort=0.5)
    session = session_with(fine, Volume(array, AFFINE), region_from=coarse)
    found = session.predict("liver")
    assert covered(session)[:16, :16].all()
    assert patch_counts(found) == {"visited": 1, "coarse": 1, "of": 6, "skipped": round(4 / 6, 3)}
    said = found.provenance["selection"]["tasks"]["liver"]
    assert said["slices"] == {"visited": 14, "of": 48, "skipped": round(34 / 48, 3)}
    assert said["skipped_slices"] == [[0, 2], [17, 47]]


def test_the_effort_can_be_given_with_each_prediction(fine, volume):
    session = relying(fine, volume, 1)
    encoded = []
    for effort in (0.3, 0.999, 0, None):
        found = session.predict("liver", effort=effort)
        encoded.append(session.patches_encoded)
        assert found.provenance["selection"]["region_from"]["effort"] == (1 if effort is None else effort)
        if effort == 0.999:
            assert_same(found, relying(fine, volume, effort).predict("liver"))
    assert encoded == [1, 3, 3, 6]  # what is new, and nothing else
    assert_same(session_with(fine, volume).predict("liver", effort=0), found)  # there is no coarse model


@pytest.mark.parametrize("cache_bytes", [0, 2 << 30])
def test_results_depend_neither_on_what_is_kept_nor_on_the_order_of_tasks(volume, cache_bytes):
    model = without_decision(make_model())
    coarse = bright_model(LIVER, Task("kidney", {"kidney": 0}))
    expected = {name: relying(model, volume, 0.5, coarse).predict(name) for name in ("liver", "kidney")}
    session = relying(model, volume, 0.5, coarse, cache_bytes=cache_bytes)
    for names in (["kidney", "colon", "liver"], ["liver"], ["kidney"]):
        found = session.predict(names)
        for name in names:
            for key in expected.get(name, ()):
                np.testing.assert_array_equal(found[key], expected[name][key])


def test_a_structure_can_be_asked_for_alone(fine, volume):
    session = relying(fine, volume, 0.6)
    both = session.predict("liver")
    alone = session.predict("liver", structures="liver_tumor")
    np.testing.assert_array_equal(alone["liver_tumor"], both["liver_tumor"])
    assert patch_counts(alone) == patch_counts(both)


@pytest.mark.parametrize("effort", [-0.1, 1.5, float("nan")])
def test_an_effort_is_a_number_from_0_to_1(fine, volume, effort):
    message = rf"number from 0 \(fast\) to 1 \(thorough\), such as 0.5, not {effort}"
    with pytest.raises(InputError, match=message):
        CoarsePass(bright_model(), effort=effort)
    with pytest.raises(InputError, match=message):
        relying(fine, volume, 1).predict("liver", effort=effort)


# --- the command line -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for name, spacing in (("coarse", 8.0), ("fine", 4.0)):
        settings = Preprocessing("SAR", (spacing, spacing, spacing), (-325, 325), 0, 325)
        write_tiny_model(tmp_path / name, TASKS, settings, gain=20)
    write_volume(tmp_path / "ct.nii.gz", make_volume())
    return tmp_path


def segment(files, *options):
    given = [files / "ct.nii.gz", "-o", files / "out.seg.nrrd", "--model", files / "fine", "--force"]
    return main(["segment", *map(str, [*given, "--report", files / "report.json", *options])])


def test_the_command_line_takes_an_effort(files):
    assert segment(files, "--region-from", files / "coarse", "--effort", 0) == 0
    selection = json.loads((files / "report.json").read_text())["provenance"]["selection"]
    assert selection["region_from"]["effort"] == 0
    assert selection["patches"]["visited"] == 0
    assert segment(files, "--region-from", files / "coarse") == 0
    selection = json.loads((files / "report.json").read_text())["provenance"]["selection"]
    assert selection["region_from"]["effort"] == 1
    assert selection["patches"]["visited"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--effort", "0.5"], "--effort needs a coarse model to rely on; name it with --region-from."),
        (["--region-from", "coarse", "--effort", "2"], "from 0 (fast) to 1 (thorough), such as 0.5, not 2.0"),
    ],
)
def test_a_wrong_effort_is_answered_by_one_sentence(files, capsys, options, message):
    options = [str(files / "coarse") if option == "coarse" else option for option in options]
    assert segment(files, *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (files / "out.seg.nrrd").exists()


class OneSlice(Bright):
    """Finds a square in one slice of the network's grid."""

    def forward_head(self, features, task):
        logits = torch.full_like(super().forward_head(features, task), -20)
        logits[:, 0, 3, 4:8, 4:8] = 20
        return logits


@pytest.mark.parametrize(("effort", "voxels"), [(None, [0, 0, 0, 0]), (0.5, [0, 106, 106, 0])])
def test_a_speck_between_the_slices_of_the_image_is_nothing(effort, voxels):
    """Neither beside coarse masks nor for a clean-up on the image's grid."""
    step = PostprocessingStep("keep_largest_of_union", "liver", others=("liver_tumor",))
    model = bright_model(LIVER if effort else replace(LIVER, postprocessing=(step,)))
    settings = replace(model.manifest.preprocessing, spacing=(1.5, 2, 2), resampling="trilinear")
    manifest = replace(model.manifest, preprocessing=settings)
    fine = replace(model, manifest=manifest, network=OneSlice((0, NEVER), False))
    array = np.full((4, 48, 16), -200, np.float32)
    array[1:3, 2:46, 4:12] = 320
    array[1:3, 4:6, 5:9] = 100
    affine = np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]])
    options = {"region_from": CoarsePass(bright_model(spacing=4), effort=effort)} if effort else {}
    found = session_with(fine, Volume(array, affine), overlap=0, **options).predict("liver")
    assert found["liver"].sum(axis=(1, 2)).tolist() == voxels
