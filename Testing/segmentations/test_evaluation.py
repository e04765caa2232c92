import csv
import json
import math
import os
import tracemalloc
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from PartialSegLib import (
    InputError,
    Segmentation,
    Volume,
    read_segmentation,
    write_segmentation,
    write_volume,
)
from PartialSegLib.evaluation import (
    Comparison,
    Score,
    dice,
    evaluate,
    hausdorff95,
    normalized_surface_distance,
    write_scores,
)
from PartialSegLib.evaluation.surface_distance import surface_distances
from PartialSegLib.masks.packed_mask import PackedMask
from PartialSegLib.volume import reorient

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8), (5.0, 1.0, 2.0)]


def box(shape, *ranges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*limits) for limits in ranges)] = True
    return mask


def sphere(radius_mm, spacing, size_mm=60.0):
    axes = [np.arange(-size_mm / 2, size_mm / 2 + step / 2, step) for step in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


def segmentation_of(masks, shape=(4, 8, 8), spacing=1.0):
    result = Segmentation(shape, np.diag([spacing, spacing, spacing, 1.0])[[2, 1, 0, 3]])
    for key, mask in masks.items():
        result.add(*key, None, mask)
    return result


LEFT, RIGHT = box((4, 8, 8), (0, 4), (0, 8), (0, 4)), box((4, 8, 8), (0, 4), (0, 8), (4, 8))
MIDDLE, NOTHING = box((4, 8, 8), (0, 4), (0, 8), (2, 6)), box((4, 8, 8), (0, 0))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(LEFT, LEFT, 1), (LEFT, RIGHT, 0), (LEFT, MIDDLE, 0.5), (LEFT, NOTHING, 0), (NOTHING, NOTHING, 1)],
)
def test_dice_of_boxes(a, b, expected):
    assert dice(a, b) == dice(b, a) == expected


@pytest.mark.parametrize(
    ("a", "b", "nsd", "distance"), [(NOTHING, NOTHING, 1, 0), (LEFT, NOTHING, 0, math.inf)]
)
def test_empty_masks_have_stated_scores(a, b, nsd, distance):
    for pair in ((a, b), (b, a)):
        assert normalized_surface_distance(*pair, (1, 1, 1), 1.0) == nsd
        assert hausdorff95(*pair, (1, 1, 1)) == distance


@pytest.mark.parametrize("spacing", SPACINGS)
def test_area_of_a_box_is_that_of_its_faces_less_the_bevelled_edges(spacing):
    shape = (20, 30, 40)
    mask = box(tuple(n + 4 for n in shape), *((2, n + 2) for n in shape))
    z, y, x = (n * step for n, step in zip(shape, spacing, strict=True))
    area = surface_distances(mask, mask, spacing).areas[0].sum()
    faces = 2 * (z * y + y * x + x * z)
    assert 0.9 * faces < area <= faces


def test_area_of_a_diagonal_plane_is_exact():
    row, column = np.indices((40, 40))
    mask = np.broadcast_to(row >= column, (10, 40, 40))
    surfaces = surface_distances(mask, mask, (1.0, 1.0, 1.0))
    z, y, x = 10, 40, 40
    straight = 2 * (y * x / 2) + z * y + z * x  # two triangles and two sides
    assert surfaces.areas[0].sum() == pytest.approx(straight + z * y * math.sqrt(2), rel=0.06)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("voxels", [1, 3])
def test_a_shifted_plate_is_as_far_as_it_was_shifted(axis, spacing, voxels):
    plate = np.zeros((40, 40, 40), bool)
    np.moveaxis(plate, axis, 0)[10] = True
    shifted = np.roll(plate, voxels, axis)
    distance = voxels * spacing[axis]
    assert hausdorff95(plate, shifted, spacing) == pytest.approx(distance)
    assert normalized_surface_distance(plate, shifted, spacing, distance) == 1
    assert normalized_surface_distance(plate, shifted, spacing, 0.9 * distance) == pytest.approx(
        0.5, abs=0.05
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8)])
def test_concentric_spheres_are_apart_by_the_difference_of_their_radii(spacing):
    small, large = sphere(16, spacing), sphere(24, spacing)
    voxel = math.hypot(*spacing)
    assert hausdorff95(small, large, spacing) == pytest.approx(8, abs=voxel)
    assert dice(small, large) == pytest.approx(2 * 16**3 / (16**3 + 24**3), abs=0.01)
    assert normalized_surface_distance(small, large, spacing, 8 - voxel) < 0.05
    assert normalized_surface_distance(small, large, spacing, 8 + voxel) == 1


def test_hd95_is_the_larger_of_the_two_directions_and_leaves_a_twentieth_out():
    """Maximum 10 mm, 85 % 0, mean of both directions 3.5, both surfaces in one 2."""
    plate = box((30, 40, 40), (5, 10), (0, 40), (0, 40))
    bump = plate | box((30, 40, 40), (10, 20), (0, 10), (0, 10))
    assert hausdorff95(plate, bump, (1, 1, 1)) == hausdorff95(bump, plate, (1, 1, 1)) == 7


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_those_of_monai(spacing):
    """Its HD95 lies between centres of boundary voxels, ours between their corners."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, *(round(40 / step) for step in spacing)))
    noise = ndimage.gaussian_filter(noise, [0, *(4 / step for step in spacing)])
    a, b, corner = noise > np.quantile(noise, 0.8, (1, 2, 3), keepdims=True)
    corner[len(corner) // 3 :] = False
    for pair in ((a, b), (a, a ^ corner)):
        tensors = [torch.from_numpy(mask)[None, None] for mask in pair]
        options = {"include_background": True, "spacing": list(spacing)}
        nsd = compute_surface_dice(*tensors, [2.0], use_subvoxels=True, **options).item()
        distance = compute_hausdorff_distance(*tensors, percentile=95, **options).item()
        assert normalized_surface_distance(*pair, spacing, 2.0) == pytest.approx(nsd, abs=0.01)
        assert hausdorff95(*pair, spacing) == pytest.approx(distance, abs=math.hypot(*spacing))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_tree_and_a_transform_give_the_same_distances(spacing, monkeypatch):
    masks = sphere(16, spacing), np.roll(sphere(18, spacing), 2, 2)
    transform = surface_distances(*masks, spacing)
    monkeypatch.setattr("PartialSegLib.evaluation.surface_distance._MAX_TRANSFORM_VOXELS", 0)
    tree = surface_distances(*masks, spacing)
    for ours, theirs in zip(tree.distances, transform.distances, strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=1e-9)


def test_a_stray_voxel_costs_little_memory(monkeypatch):
    monkeypatch.setattr("PartialSegLib.evaluation.surface_distance._MAX_TRANSFORM_VOXELS", 100**3)
    mask = np.zeros((160, 140, 140), bool)
    mask[20:40, 20:40, 20:40] = mask[-1, -1, -1] = True
    other = np.roll(mask, -1, 0)
    tracemalloc.start()
    distance = hausdorff95(mask, other, (1, 1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert distance == 1
    assert peak < 4 * mask.size


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_mask_agrees_with_itself(spacing):
    mask = sphere(16, spacing)
    assert (dice(mask, mask), hausdorff95(mask, mask, spacing)) == (1, 0)
    assert normalized_surface_distance(mask, mask, spacing, 0.0) == 1


def test_distances_follow_the_spacing_of_a_turned_grid():
    affine = np.array([[0, 0, -2.0, 5], [0, 3.0, 0, 7], [4.0, 0, 0, 9], [0, 0, 0, 1]])
    prediction, reference = (Segmentation((6, 6, 9), affine) for _ in range(2))
    prediction.add("liver", "liver", None, box((6, 6, 9), (1, 5), (1, 5), (1, 5)))
    reference.add("truth", "liver", None, box((6, 6, 9), (1, 5), (1, 5), (3, 7)))
    (score,) = evaluate(prediction, reference, tolerance_mm=4.0)
    assert (score.dice, score.nsd, score.hausdorff95_mm) == (0.5, 1, 4.0)
    assert score.prediction_ml == pytest.approx(64 * 24 / 1000)


def test_two_tasks_with_one_structure_are_both_compared_with_its_reference():
    tasks = segmentation_of({("liver", "liver_tumor"): LEFT, ("hepatic vessel", "liver_tumor"): MIDDLE})
    scores = evaluate(tasks, segmentation_of({("", "liver_tumor"): LEFT}))
    assert [(s.task, s.structure, s.dice) for s in scores] == [
        ("liver", "liver_tumor", 1),
        ("hepatic vessel", "liver_tumor", 0.5),
    ]


def test_a_reference_of_the_same_task_comes_first():
    both = {("liver", "liver_tumor"): LEFT, ("hepatic vessel", "liver_tumor"): RIGHT}
    assert [s.dice for s in evaluate(segmentation_of(both), segmentation_of(both))] == [1, 1]
    with pytest.raises(InputError, match=r"several tasks \(liver, hepatic vessel\) but not of colon"):
        evaluate(segmentation_of({("colon", "liver_tumor"): LEFT}), segmentation_of(both))


def test_only_the_structures_asked_for_are_compared():
    masks = {("liver", "liver"): LEFT, ("kidney", "kidney"): RIGHT}
    scores = evaluate(segmentation_of(masks), segmentation_of(masks), ["kidney"])
    assert [s.structure for s in scores] == ["kidney"]


@pytest.mark.parametrize(
    ("reference", "structures", "message"),
    [
        (
            segmentation_of({("", "spleen"): LEFT}),
            None,
            "nothing to compare: predicted are liver, the reference",
        ),
        (segmentation_of({("", "liver"): LEFT}), ["spleen"], "The prediction lacks spleen; it has liver"),
        (segmentation_of({}, shape=(4, 8, 9)), None, "different grids"),
        (segmentation_of({}, spacing=1.1), None, "different grids"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, structures, message):
    with pytest.raises(InputError, match=message):
        evaluate(segmentation_of({("liver", "liver"): LEFT}), reference, structures)


def test_capital_letters_and_dashes_make_no_other_structure():
    predicted = segmentation_of({("liver", "liver_tumor"): LEFT})
    (score,) = evaluate(predicted, segmentation_of({("", "Liver-Tumor"): LEFT}))
    assert (score.structure, score.dice) == ("liver_tumor", 1)


@pytest.mark.parametrize("orientation", ["SAR", "IPL", "RIA", "LSP"])
def test_a_reference_with_turned_axes_is_turned_back(orientation):
    corner = box((4, 8, 8), (0, 1), (0, 3), (0, 5))
    predicted = segmentation_of({("liver", "liver"): corner})
    turned = reorient(Volume(corner, predicted.affine), orientation)
    reference = Segmentation(turned.shape, turned.affine)
    reference.add("", "liver", None, turned.array)
    assert [(s.dice, s.hausdorff95_mm) for s in evaluate(predicted, reference)] == [(1, 0)]


WHOLE = {("liver", "liver"): LEFT, ("liver", "liver_tumor"): LEFT & MIDDLE}
APART = {**WHOLE, ("liver", "liver"): LEFT & ~MIDDLE}


@pytest.mark.parametrize("predicted", [WHOLE, APART], ids=["tumour in organ", "one label a voxel"])
def test_an_organ_includes_its_tumour_whatever_the_reference_is_written_as(tmp_path, predicted):
    prediction = segmentation_of(predicted)
    labels = Volume(LEFT * 1 + (LEFT & MIDDLE), prediction.affine)
    for name in ("decathlon/labelsTr/a.nii.gz", "named/a.nii.gz"):
        write_volume(tmp_path / name, labels)
    (tmp_path / "decathlon" / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "liver", "2": "cancer"}}'
    )
    ours = ("ours.nii.gz", "ours.seg.nrrd", "ours")
    for name in ours:
        write_segmentation(tmp_path / name, segmentation_of(WHOLE))
    named = [{"liver": (1,), "liver_tumor": (2,)}, {"liver": (1, 2), "Liver cancer": (2,)}]
    references = [(name, None) for name in ("decathlon/labelsTr/a.nii.gz", *ours)]
    for name, values in [*references, *(("named/a.nii.gz", values) for values in named)]:
        scores = evaluate(prediction, read_segmentation(tmp_path / name, values))
        assert [(s.structure, s.dice, s.prediction_ml) for s in scores] == [
            ("liver", 1, pytest.approx(0.128)), ("liver_tumor", 1, pytest.approx(0.064))
        ], name  # fmt: skip


def test_vessels_and_tumours_of_another_task_are_no_part_of_an_organ():
    vessel = {("hepatic vessel", "hepatic_vessel"): LEFT, ("hepatic vessel", "liver_tumor"): RIGHT}
    prediction = segmentation_of({("liver", "liver"): LEFT, **vessel})
    reference = segmentation_of({("", "liver"): LEFT, ("", "hepatic_vessel"): LEFT})
    assert [s.dice for s in evaluate(prediction, reference)] == [1, 1]


@pytest.mark.parametrize(
    ("predicted", "expected", "name"),
    [
        ("kidney_left", "Left Kidney", "left_kidney"),
        ("Spleen", "spleen", "spleen"),
        ("Whole-Body", "whole body", "whole_body"),
        ("肝", "肝", "肝"),
    ],
)
def test_a_structure_has_one_name_in_the_scores(predicted, expected, name):
    prediction = segmentation_of({("", "脾"): RIGHT, ("", predicted): LEFT})
    for structures in (None, [expected]):
        (score,) = evaluate(prediction, segmentation_of({("", expected): LEFT}), structures)
        assert (score.structure, score.dice) == (name, 1)


WHOLE_KIDNEY = {("kidney", "kidney"): LEFT | RIGHT, ("kidney", "kidney_tumor"): MIDDLE}
SIDES = {("", "kidney_left"): LEFT, ("", "Right Kidney"): RIGHT}


@pytest.mark.parametrize(
    ("predicted", "expected", "structures", "scored"),
    [
        (WHOLE_KIDNEY, SIDES, None, ["kidney"]),
        (SIDES, WHOLE_KIDNEY, None, ["kidney"]),
        (SIDES, SIDES, None, ["left_kidney", "right_kidney"]),
        (SIDES, SIDES, ["kidney"], ["kidney"]),
        (SIDES | WHOLE_KIDNEY, SIDES, None, ["left_kidney", "right_kidney", "kidney"]),
        (
            {("", "LAG"): LEFT, ("", "RAG"): RIGHT},
            {("", "adrenal gland"): LEFT | RIGHT},
            None,
            ["adrenal_gland"],
        ),
    ],
)
def test_two_sides_are_compared_with_a_whole_organ(caplog, predicted, expected, structures, scored):
    pair = segmentation_of(predicted), segmentation_of(expected)
    assert [(s.structure, s.dice) for s in evaluate(*pair, structures)] == [(name, 1) for name in scored]
    for absent_is_empty in (False, True):
        comparison = Comparison(structures, absent_is_empty=absent_is_empty)
        comparison.add("", *pair)
        found = {s.structure: s.dice for s in comparison.scores() if s.structure != "kidney_tumor"}
        assert found == dict.fromkeys(scored, 1)
    assert not [message for message in caplog.messages if "_kidney" in message]


@pytest.mark.parametrize("orientation", ["SAR", "IPL"])
def test_what_nnunet_ignores_is_not_scored(tmp_path, caplog, orientation):
    prediction = segmentation_of({("liver", "liver"): LEFT})
    labels = Volume(np.where(MIDDLE, 2, LEFT).astype(np.uint8), prediction.affine)
    write_volume(tmp_path / "x.nii.gz", reorient(labels, orientation))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "ignore": 2}}')
    (score,) = evaluate(prediction, read_segmentation(tmp_path / "x.nii.gz"))
    assert (score.dice, score.nsd, score.hausdorff95_mm) == (1, 1, 0)
    assert score.prediction_ml == score.reference_ml == pytest.approx(0.064)
    assert not caplog.messages


class TestComparison:
    @pytest.mark.parametrize("absent_is_empty", [False, True])
    @pytest.mark.parametrize("structures", [None, ["liver_tumor", "liver"]])
    def test_what_a_reference_lacks_is_not_scored_or_empty(self, caplog, structures, absent_is_empty):
        comparison = Comparison(structures, absent_is_empty=absent_is_empty)
        liver = segmentation_of({("", "liver"): LEFT})
        for case, predicted in {"healthy": WHOLE, "more": WHOLE, "none": {("liver", "liver"): LEFT}}.items():
            comparison.add(case, segmentation_of(predicted), liver)
        if structures and not absent_is_empty:
            with pytest.raises(InputError, match="No reference has liver_tumor; there is liver"):
                comparison.scores()
            return
        scores = {(s.case, s.structure): s.dice for s in comparison.scores()}
        tumors = {("healthy", "liver_tumor"): 0, ("more", "liver_tumor"): 0, ("none", "liver_tumor"): 1}
        livers = {(case, "liver"): 1 for case in ("healthy", "more", "none")}
        assert scores == livers | (tumors if absent_is_empty else {})
        warning = "Predicted but not in the reference, so not scored: liver_tumor (2 cases, first: healthy)."
        assert caplog.messages == ([] if absent_is_empty else [warning])

    @pytest.mark.parametrize("structures", [None, ["spleen", "liver"], ["liver"]])
    def test_references_that_are_labelled_for_different_structures(self, structures, caplog):
        both = {("", "liver"): LEFT, ("", "spleen"): RIGHT}
        comparison = Comparison(structures)
        comparison.add("a", segmentation_of(both), segmentation_of({("", "liver"): LEFT}))
        comparison.add("b", segmentation_of(both), segmentation_of({("", "spleen"): RIGHT}))
        expected = [("a", "liver", 1), ("b", "spleen", 1)][: 1 if structures == ["liver"] else 2]
        assert [(s.case, s.structure, s.dice) for s in comparison.scores()] == expected
        assert ("not scored there: liver (1 case, first: b)" in caplog.text) == bool(structures)

    @pytest.mark.parametrize("absent_is_empty", [False, True])
    def test_a_label_that_no_reference_has_is_told_of(self, caplog, absent_is_empty):
        comparison = Comparison(absent_is_empty=absent_is_empty)
        for case in ("a", "b"):
            reference = segmentation_of({("", "liver"): np.zeros_like(LEFT), ("", "spleen"): RIGHT})
            comparison.add(case, segmentation_of({("", "liver"): LEFT, ("", "spleen"): RIGHT}), reference)
        assert len(comparison.scores()) == 4
        warning = "No reference holds anything of liver; look what its labels mean."
        assert caplog.messages == ([] if absent_is_empty else [warning])

    def test_what_one_prediction_lacks_and_another_has_is_a_miss(self, caplog):
        reference = segmentation_of({**WHOLE, ("", "spleen"): RIGHT})
        comparison = Comparison()
        comparison.add("a", segmentation_of({("liver", "liver"): LEFT}), reference)
        comparison.add("b", segmentation_of(WHOLE), reference)
        assert [(s.case, s.task, s.structure, s.dice) for s in comparison.scores()] == [
            ("a", "liver", "liver", 1), ("a", "liver", "liver_tumor", 0),
            ("b", "liver", "liver", 1), ("b", "liver", "liver_tumor", 1),
        ]  # fmt: skip
        missed = comparison.scores()[1]
        assert (missed.nsd, missed.hausdorff95_mm, missed.prediction_ml) == (0, math.inf, 0)
        assert missed.reference_ml == pytest.approx(0.064)
        assert "No prediction has spleen; left out." in caplog.text

    @pytest.mark.parametrize("absent_is_empty", [False, True])
    def test_sides_and_whole_organs_are_no_misses_of_each_other(self, absent_is_empty):
        comparison = Comparison(absent_is_empty=absent_is_empty)
        pairs = {
            "a": (SIDES, SIDES),
            "b": (SIDES, WHOLE_KIDNEY),
            "c": (WHOLE_KIDNEY, SIDES),
            "d": ({}, SIDES),
        }
        for case, (predicted, expected) in pairs.items():
            comparison.add(case, segmentation_of(predicted), segmentation_of(expected))
        scores = [s for s in comparison.scores() if s.structure != "kidney_tumor"]
        found = {(s.case, s.structure) for s in scores if s.case != "d"}
        assert found == {("a", "left_kidney"), ("a", "right_kidney"), ("b", "kidney"), ("c", "kidney")}
        assert {s.dice for s in scores if s.case != "d"} == {1}
        assert {s.dice for s in scores if s.case == "d"} == {0}

    def test_nothing_found_where_nothing_is_agrees(self):
        comparison = Comparison(["liver_tumor"])
        reference = segmentation_of({("", "liver_tumor"): NOTHING})
        comparison.add("a", segmentation_of({}), reference)
        comparison.add("b", segmentation_of({("liver", "liver_tumor"): LEFT}), reference)
        assert [s.dice for s in comparison.scores()] == [1, 0]

    def test_what_no_prediction_has_is_refused_where_it_is_asked_for(self):
        comparison = Comparison(["spleen"])
        comparison.add(
            "", segmentation_of({("liver", "liver"): LEFT}), segmentation_of({("", "spleen"): LEFT})
        )
        with pytest.raises(InputError, match="No prediction has spleen; there is liver"):
            comparison.scores()
        comparison = Comparison()
        comparison.add("", segmentation_of({}), segmentation_of({("", "spleen"): LEFT}))
        with pytest.raises(InputError, match="predicted are nothing, the reference has spleen"):
            comparison.scores()


SCORES = [
    Score("a", "liver", "liver", 0.5, 1.0, 4.0, 12.5, 25.0, 3.0),
    Score("b", "liver", "liver", 0.0, 0.0, math.inf, 0.0, 25.0, 3.0),
]


def test_a_structure_that_is_ignored_altogether_is_not_missed():
    reference = segmentation_of({("", "spleen"): LEFT, ("", "liver"): RIGHT})
    reference.ignored = PackedMask(np.s_[0:4, 0:8, 0:8], LEFT)
    comparison = Comparison()
    comparison.add("lacks it", segmentation_of({("", "liver"): RIGHT}), reference)
    comparison.add("empty", segmentation_of({("", "liver"): RIGHT, ("", "spleen"): NOTHING}), reference)
    scores = [score for score in comparison.scores() if score.structure == "spleen"]
    assert [(score.case, score.dice, score.reference_ml) for score in scores] == [
        ("lacks it", 1.0, 0.0),
        ("empty", 1.0, 0.0),
    ]


def test_scores_survive_the_table(tmp_path):
    write_scores(tmp_path / "scores.csv", SCORES)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = [Score(*list(row.values())[:3], *map(float, list(row.values())[3:])) for row in rows]
    assert [astuple(score) for score in read] == [astuple(score) for score in SCORES]


def test_names_that_are_no_utf8_are_written(tmp_path):
    name = os.fsdecode(b"P\xe9ter")
    for suffix in ("csv", "json"):
        write_scores(tmp_path / f"scores.{suffix}", [replace(SCORES[0], case=name)])
    assert b"P\xe9ter," in (tmp_path / "scores.csv").read_bytes()
    assert json.loads((tmp_path / "scores.json").read_text())[0]["case"] == name


def test_json_has_null_where_there_is_no_distance(tmp_path):
    write_scores(tmp_path / "scores.json", SCORES)
    records = json.loads((tmp_path / "scores.json").read_text())
    assert [record["hausdorff95_mm"] for record in records] == [4.0, None]


def test_an_unknown_kind_of_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.csv or \.json"):
        write_scores(tmp_path / "scores.xlsx", SCORES)
    assert not list(tmp_path.iterdir())


def test_hd95_of_a_score_leaves_a_twentieth_out_and_the_tolerance_is_3_mm():
    plate = box((30, 40, 40), (5, 10), (0, 40), (0, 40))
    bump = plate | box((30, 40, 40), (10, 20), (0, 10), (0, 10))
    pair = (segmentation_of({("", "liver"): mask}, plate.shape) for mask in (plate, bump))
    (score,) = evaluate(*pair)
    assert score.hausdorff95_mm == 7
    assert score.tolerance_mm == 3
    assert score.nsd == normalized_surface_distance(plate, bump, (1, 1, 1), 3.0)


def test_a_distance_of_just_the_tolerance_is_within_it_whatever_the_rounding():
    plate = box((20, 8, 8), (5, 6), (0, 8), (0, 8))
    spacing = (0.1, 1, 1)
    assert hausdorff95(plate, np.roll(plate, 3, 0), spacing) > 0.3
    assert normalized_surface_distance(plate, np.roll(plate, 3, 0), spacing, 0.3) == 1


def test_the_corner_of_a_dent_is_part_of_the_surface():
    dented = np.ones((2, 2, 2), bool)
    dented[0, 0, 0] = False
    assert len(surface_distances(dented, dented, (1, 1, 1)).areas[0]) == 26  # all but its own outermost


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_faces_at_which_unlabelled_voxels_cut_two_masks_do_not_agree(axis):
    a, b = box((40, 40, 40), (10, 30), (10, 30), (10, 30)), box((40, 40, 40), (10, 30), (10, 30), (10, 30))
    np.moveaxis(b, axis, 0)[28:30] = False  # 2 mm lower at the top
    is_labelled = np.ones(a.shape, bool)
    is_labelled_along = np.moveaxis(is_labelled, (axis + 1) % 3, 0)
    is_labelled_along[:18] = is_labelled_along[20:] = False  # two slices
    cut = surface_distances(a & is_labelled, b & is_labelled, (1, 1, 1))
    whole, labelled = (surface_distances(a, b, (1, 1, 1), known) for known in (None, is_labelled))
    assert labelled.percentile(0.95) == whole.percentile(0.95) == 2
    assert labelled.fraction_within(1) == pytest.approx(
        0.75, abs=0.02
    )  # 40 of two contours of 80 and 76 mm not
    assert cut.fraction_within(1) > 0.9


def test_the_contour_of_a_single_labelled_slice_is_measured():
    discs = [np.hypot(*np.mgrid[-20:21, -20:21]) <= radius for radius in (10, 14)]
    a, b = (np.broadcast_to(disc, (5, 41, 41)) for disc in discs)
    is_labelled = np.zeros(a.shape, bool)
    is_labelled[2] = True
    surfaces = surface_distances(a & is_labelled, b & is_labelled, (5, 1, 1), is_labelled)
    assert surfaces.fraction_within(2) == 0
    assert surfaces.percentile(0.95) == pytest.approx(4, abs=0.5)
    assert surfaces.areas[0].sum() == pytest.approx(2 * 5 * 2 * np.pi * 10, rel=0.1)  # on both of its sides


def test_masks_that_reach_unlabelled_voxels_everywhere_are_measured_where_they_are_cut():
    mask, smaller = box((9, 9, 9), (3, 6), (3, 6), (3, 6)), box((9, 9, 9), (4, 5), (4, 5), (4, 5))
    is_labelled = mask | ~box((9, 9, 9), (1, 8), (1, 8), (1, 8))
    same = surface_distances(mask, mask, (1, 1, 1), is_labelled)
    assert (same.fraction_within(0), same.percentile(0.95)) == (1, 0)
    assert surface_distances(mask, smaller, (1, 1, 1), is_labelled).percentile(0.5) >= 1
    assert surface_distances(mask, np.zeros_like(mask), (1, 1, 1), is_labelled).percentile(0.95) == math.inf


def test_masks_at_the_end_of_the_image_have_a_surface_there():
    mask = np.ones((4, 4, 4), bool)
    whole, labelled = (surface_distances(mask, mask, (1, 1, 1), known) for known in (None, mask))
    np.testing.assert_array_equal(whole.areas[0], labelled.areas[0])


def test_surfaces_are_not_scored_where_the_reference_ignores_both_sides():
    masks = [box((6, 16, 16), (0, 6), (4, last), (4, 12)) for last in (12, 15)]
    prediction, reference = (segmentation_of({("", "liver"): mask}, (6, 16, 16)) for mask in masks)
    reference.ignored = PackedMask(np.s_[0:3, 0:16, 0:16], np.ones((3, 16, 16), bool))
    (score,) = evaluate(prediction, reference, tolerance_mm=1)
    is_labelled = np.zeros((6, 16, 16), bool)
    is_labelled[3:] = True
    pair = [mask & is_labelled for mask in masks]
    cut, labelled = (
        surface_distances(*pair, (1, 1, 1), known).fraction_within(1) for known in (None, is_labelled)
    )
    assert score.nsd == labelled < cut
    assert score.hausdorff95_mm == 3


def test_what_a_reference_lacks_is_not_scored_by_default_and_nothing_is_no_finding(caplog):
    comparison = Comparison()
    predicted = segmentation_of({("", "liver"): LEFT, ("", "spleen"): NOTHING})
    comparison.add("a", predicted, segmentation_of({("", "liver"): LEFT, ("", "colon"): NOTHING}))
    assert [score.structure for score in comparison.scores()] == ["liver"]
    assert not caplog.messages
