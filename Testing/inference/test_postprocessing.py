import numpy as np
import pytest
import torch

from PartialSegLib.processing.postprocessing import apply_postprocessing
from PartialSegLib.task import PostprocessingStep

SHAPE = (3, 8, 12)


def blobs(*sizes):
    """Scores 0.9 on bars of the given lengths, two rows apart, and 0.2 elsewhere."""
    scores = torch.full(SHAPE, 0.2)
    for row, size in enumerate(sizes):
        scores[1, 2 * row, :size] = 0.9
    return scores


def bar_sizes(scores):
    return [int((scores[1, row] > 0.5).sum()) for row in range(0, SHAPE[1], 2)]


def clean(scores, **step):
    return apply_postprocessing(scores, [PostprocessingStep(**step)], 0.5)


def test_include_takes_the_greater_score():
    organ, tumour = torch.rand(SHAPE), torch.rand(SHAPE)
    scores = {"liver": organ, "liver_tumor": tumour}
    result = clean(scores, step="include", structure="liver", other="liver_tumor")
    assert torch.equal(result["liver"], torch.maximum(organ, tumour))
    assert result["liver_tumor"] is tumour


def test_mask_by_keeps_what_lies_inside_the_other():
    organ, tumour = torch.rand(SHAPE), torch.rand(SHAPE)
    result = clean(
        {"liver": organ, "liver_tumor": tumour}, step="mask_by", structure="liver_tumor", other="liver"
    )
    assert torch.equal(result["liver_tumor"], torch.where(organ > 0.5, tumour, torch.zeros(())))


def test_mask_by_moves_no_border_outwards():
    organ, tumour = torch.rand(SHAPE) - 0.5, torch.rand(SHAPE) - 0.5  # leads of a softmax
    step = PostprocessingStep("mask_by", "liver_tumor", other="liver")
    result = apply_postprocessing({"liver": organ, "liver_tumor": tumour}, [step], 0.0)["liver_tumor"]
    assert torch.equal(result[organ > 0], tumour[organ > 0])
    assert torch.equal(result[organ <= 0], -tumour[organ <= 0].abs())


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0, 0, 7, 0]), (2, [0, 5, 7, 0]), (3, [3, 5, 7, 0]), (4, [3, 5, 7, 2]), (9, [3, 5, 7, 2])],
)
def test_keep_largest(count, expected):
    scores = {"kidney": blobs(3, 5, 7, 2)}
    result = clean(scores, step="keep_largest", structure="kidney", count=count)
    assert bar_sizes(result["kidney"]) == expected
    assert bar_sizes(scores["kidney"]) == [3, 5, 7, 2]


def test_of_equal_components_the_first_stays():
    result = clean({"spleen": blobs(4, 4, 4)}, step="keep_largest", structure="spleen", count=1)
    assert bar_sizes(result["spleen"]) == [4, 0, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "only_if_several", "expected"),
    [
        ((3, 5, 7, 2), False, [0, 5, 7, 0]),
        ((3, 5, 7, 2), True, [0, 5, 7, 0]),
        ((3, 2), True, [0, 0, 0, 0]),
        ((3,), False, [0, 0, 0, 0]),
        ((3,), True, [3, 0, 0, 0]),
        ((), True, [0, 0, 0, 0]),
    ],
)
def test_drop_small(sizes, only_if_several, expected):
    step = {"step": "drop_small", "structure": "liver_tumor", "voxels": 3, "only_if_several": only_if_several}
    assert bar_sizes(clean({"liver_tumor": blobs(*sizes)}, **step)["liver_tumor"]) == expected


@pytest.mark.parametrize(
    ("highest", "expected"), [(0.85, [3, 5, 2]), (0.95, [0, 5, 0]), (0.9, [0, 5, 0]), (0.99, [0, 0, 0])]
)
def test_drop_uncertain_asks_for_one_voxel_of_a_high_score(highest, expected):
    scores = blobs(3, 5, 2)
    scores[1, 2, 4] = 0.97
    result = clean(
        {"lung_tumor": scores},
        step="drop_uncertain",
        structure="lung_tumor",
        score=float(np.float32(highest)),
    )
    assert bar_sizes(result["lung_tumor"])[:3] == expected


@pytest.mark.parametrize(("measure", "expected"), [("highest", [3, 5, 0]), ("mean", [3, 0, 0])])
def test_drop_uncertain_can_ask_for_the_mean_score(measure, expected):
    scores = blobs(3, 5, 2)
    scores[1, 2, :5], scores[1, 4, :2] = torch.tensor([0.6, 0.6, 0.97, 0.6, 0.6]), 0.7
    step = {"step": "drop_uncertain", "structure": "lung_tumor", "score": 0.89, "measure": measure}
    assert bar_sizes(clean({"lung_tumor": scores}, **step)["lung_tumor"])[:3] == expected


def test_the_mean_of_a_component_that_fills_everything():
    full = {"lung_tumor": torch.full(SHAPE, 0.9)}
    step = {"step": "drop_uncertain", "structure": "lung_tumor", "measure": "mean"}
    assert torch.equal(clean(full, **step, score=0.8)["lung_tumor"], full["lung_tumor"])
    assert not clean(full, **step, score=0.95)["lung_tumor"].any()


def test_nothing_found_has_nothing_uncertain():
    nothing = {"lung_tumor": torch.zeros(SHAPE)}
    assert not clean(nothing, step="drop_uncertain", structure="lung_tumor", score=0.9)["lung_tumor"].any()


@pytest.mark.parametrize(("connectivity", "kept"), [(6, 1), (18, 2), (26, 3)])
def test_connectivity(connectivity, kept):
    scores = torch.zeros(SHAPE)
    for voxel in ((0, 0, 0), (0, 1, 1), (1, 2, 2)):  # an edge, then a corner apart
        scores[voxel] = 1
    step = {"step": "keep_largest", "structure": "lung", "count": 1, "connectivity": connectivity}
    assert int(clean({"lung": scores}, **step)["lung"].sum()) == kept


def test_removed_voxels_score_zero_and_no_other_changes():
    scores = blobs(3, 5)
    result = clean({"lung": scores}, step="keep_largest", structure="lung", count=1)["lung"]
    changed = (result != scores).numpy()
    assert np.argwhere(changed).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]
    assert result[1, 0, :3].eq(0).all()


def test_steps_run_in_order():
    organ, tumour = blobs(6, 4), blobs(0, 0, 3)
    steps = [
        PostprocessingStep("include", "liver", other="liver_tumor"),
        PostprocessingStep("keep_largest", "liver", count=1),
        PostprocessingStep("mask_by", "liver_tumor", other="liver"),
    ]
    result = apply_postprocessing({"liver": organ, "liver_tumor": tumour}, steps, 0.5)
    assert bar_sizes(result["liver"]) == [6, 0, 0, 0]
    assert bar_sizes(result["liver_tumor"]) == [0, 0, 0, 0]


def test_half_precision_scores_are_accepted():
    result = clean({"lung": blobs(3, 5).half()}, step="keep_largest", structure="lung", count=1)
    assert bar_sizes(result["lung"]) == [0, 5, 0, 0]


def test_a_score_of_just_the_threshold_neither_holds_nor_connects():
    scores = torch.tensor([[[0.9, 0.5, 0.9, 0.9]]])
    largest = clean({"lung": scores}, step="keep_largest", structure="lung", count=1)["lung"]
    assert largest.ravel().tolist() == pytest.approx([0, 0.5, 0.9, 0.9])
    inside = {"liver": scores, "liver_tumor": torch.ones(1, 1, 4)}
    masked = clean(inside, step="mask_by", structure="liver_tumor", other="liver")["liver_tumor"]
    assert masked.ravel().tolist() == [1, 0, 1, 1]
