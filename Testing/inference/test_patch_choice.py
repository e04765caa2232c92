"""The choice of patches by what is uncertain, and masks that come from two models."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from bright_model import LIVER, bright_model
from hypothesis import given, settings
from hypothesis import strategies as st

from PartialSegLib.inference.coarse_findings import uncertain_parts
from PartialSegLib.inference.session_image import SessionImage
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.masks.boxes import EMPTY_BOX
from PartialSegLib.patches.choice import choose_patches, covered_voxels
from PartialSegLib.patches.sliding_window import Patch, plan_patches
from PartialSegLib.processing.mask_combination import combine_masks, without_overlap
from PartialSegLib.processing.nearest_voxels import between_networks, on_network_grid
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.structures import load_structures
from PartialSegLib.volume import Volume

CPU = torch.device("cpu")


def starts(patches):
    return [patch.start[0] for patch in patches]


# --- the choice -------------------------------------------------------------------------------------------


def test_the_patch_with_the_most_new_uncertain_voxels_comes_next():
    """Slices hold 1, 0, 3, 3, 2, 0, 0 and 1 uncertain voxels; patches hold 7, 8 and 3 of the 10.

    After the second patch the first and the last one each have one left: the first one goes first.
    """
    uncertain = np.zeros((8, 2, 2), bool)
    for index, count in enumerate([1, 0, 3, 3, 2, 0, 0, 1]):
        uncertain[index].flat[:count] = True
    patches = plan_patches((8, 2, 2), (4, 2, 2), 0.5)
    assert starts(patches) == [0, 2, 4]
    for effort, chosen in [
        (0, []), (0.01, [2]), (0.8, [2]), (0.81, [0, 2]), (0.9, [0, 2]), (0.91, [0, 2, 4]), (1, [0, 2, 4])
    ]:  # fmt: skip
        assert starts(choose_patches(patches, uncertain, effort)) == chosen, effort


def test_patches_without_an_uncertain_voxel_are_never_chosen():
    uncertain = np.zeros((12, 4, 4), bool)
    patches = plan_patches(uncertain.shape, (4, 4, 4), 0)
    assert choose_patches(patches, uncertain, 1) == []
    uncertain[5] = True
    assert starts(choose_patches(patches, uncertain, 1)) == [4]
    assert choose_patches([], uncertain, 1) == []


def test_what_no_patch_holds_does_not_count():
    uncertain = np.ones((12, 4, 4), bool)
    patches = [Patch((0, 0, 0), (4, 4, 4)), Patch((8, 0, 0), (4, 4, 4))]
    assert starts(choose_patches(patches, uncertain, 0.5)) == [0]
    assert starts(choose_patches(patches, uncertain, 0.51)) == [0, 8]


def plain_greedy(patches, uncertain, effort):
    """Every gain counted anew, voxel by voxel, each time."""
    left, total, chosen = uncertain.copy(), uncertain.sum(), []
    while total and 1 - left.sum() / total < effort - 1e-9:
        gains = [int(left[patch.slices].sum()) for patch in patches]
        chosen.append(int(np.argmax(gains)))
        left[patches[chosen[-1]].slices] = False
    return [patches[number] for number in sorted(chosen)]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.25, 0.5, 0.7]), st.sampled_from([0.02, 0.3]))
def test_the_choice_is_the_greedy_one_and_a_lower_effort_does_part_of_it(seed, overlap, density):
    rng = np.random.default_rng(seed)
    shape = rng.integers(6, 15, 3)
    uncertain = rng.random(shape) < density
    patches = plan_patches(shape.tolist(), (6, 5, 4), overlap)
    before = []
    for effort in (0, 0.25, 0.5, 0.75, 0.9, 1):
        chosen = choose_patches(patches, uncertain, effort)
        assert chosen == plain_greedy(patches, uncertain, effort)
        assert set(before) <= set(chosen)
        assert uncertain[covered_voxels(chosen, shape)].sum() >= effort * uncertain.sum()
        before = chosen


# --- what is uncertain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend", ["probabilities", "logits"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_uncertain_is_a_probability_between_a_tenth_and_nine_tenths(activation, blend):
    probabilities = torch.tensor([0.05, 0.11, 0.5, 0.89, 0.95])[:, None, None].expand(5, 16, 16)
    sure = torch.full_like(probabilities, 0.02)
    if activation == "sigmoid":
        scores, task = torch.stack([probabilities, sure]), LIVER
        logits = scores.logit()
    else:
        scores = torch.stack([1 - probabilities - sure, probabilities, sure])
        task = type(LIVER)("liver", {"liver_tumor": 2, "liver": 1})
        logits = scores.log() + 3
    model = bright_model(task, activation=activation, blend=blend)
    volume = Volume(np.zeros((5, 16, 16), np.float32), np.diag([8.0, 8, 8, 1])[[2, 1, 0, 3]])
    image = SessionImage.prepare(volume, model.manifest, 0, CPU, False)
    given_scores = logits if blend == "logits" else scores
    padded = torch.zeros(len(scores), *image.tensor.shape, dtype=torch.float16)
    padded[(slice(None), *image.place)] = given_scores.half()
    parts = uncertain_parts(padded, None, task, model.manifest.inference, image)
    box, mask = parts["liver", "liver"]
    assert (box[0].start, box[0].stop) == (1, 4)
    assert mask.all()
    assert parts["liver", "liver_tumor"][1].size == 0
    kept = np.zeros(image.tensor.shape, bool)
    kept[image.place[0].start + 2] = True
    (rows, _, _), mask = uncertain_parts(padded, kept, task, model.manifest.inference, image)[
        "liver", "liver"
    ]
    assert (rows.start, rows.stop, mask.all()) == (2, 3, True)


# --- from one grid to another -----------------------------------------------------------------------------

ORIENTATIONS = [
    "".join(letters) for axes in permutations(("LR", "PA", "IS")) for letters in product(*axes)
]  # fmt: skip
AFFINE = np.array([[0, 0, -4.0, 50], [0, -4, 0, -10], [4, 0, 0, 100], [0, 0, 0, 1]])


def finer(mask):
    return mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def cropped(mask):
    """A box that leaves out no voxel of the mask, and the mask within it."""
    box = tuple(slice(min(along), max(along) + 1) for along in np.nonzero(mask))
    return box, mask[box]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_lands_where_the_image_does(orientation):
    """At 8 mm a voxel is 2 x 2 x 2 of the image, at 4 mm it is one, and at 2 mm an eighth."""
    small = np.zeros((9, 8, 7), bool)
    small[2:7, 1:8, :5] = np.random.default_rng(0).random((5, 7, 5)) < 0.5
    mask = finer(small)
    volume = Volume(np.where(mask, 300, -300).astype(np.float32), AFFINE)

    def seen(spacing, orientation):
        return preprocess(volume, Preprocessing(orientation, (spacing,) * 3, (-325, 325)), CPU)

    coarse, same, fine = seen(8, "IRA"), seen(4, orientation), seen(2, orientation)
    expected = same.tensor.numpy() > 0
    np.testing.assert_array_equal(on_network_grid(cropped(mask), same), expected)
    np.testing.assert_array_equal(on_network_grid(cropped(mask), fine), finer(expected))
    found = on_network_grid(cropped(mask), coarse)
    assert found.shape == (9, 7, 8)
    np.testing.assert_array_equal(between_networks(cropped(found), coarse, same), expected)
    np.testing.assert_array_equal(between_networks(cropped(found), coarse, fine), finer(expected))


def test_what_a_network_does_not_see_is_not_brought_to_it():
    array = np.full((20, 30, 40), -1000, np.float32)
    array[6:16, 10:20, 12:32] = 0
    volume = Volume(array, AFFINE)
    settings_of = Preprocessing("SPL", (4, 4, 4), (-325, 325))
    whole, body = (preprocess(volume, settings_of, CPU, crop) for crop in (False, True))
    assert body.tensor.shape == (16, 16, 26)
    mask = np.random.default_rng(0).random(array.shape) < 0.5
    inside = on_network_grid(cropped(mask), body)
    np.testing.assert_array_equal(inside, mask[body.crop])
    np.testing.assert_array_equal(between_networks(cropped(mask), whole, body), inside)
    back = between_networks(cropped(inside), body, whole)
    np.testing.assert_array_equal(back[body.crop], inside)
    assert back.sum() == inside.sum()


# --- two masks --------------------------------------------------------------------------------------------


def random_mask(rng, shape):
    if rng.random() < 0.2:
        return EMPTY_BOX, np.zeros((0, 0, 0), bool)
    corners = [sorted(rng.choice(size + 1, 2, replace=False)) for size in shape]
    box = tuple(slice(int(low), int(high)) for low, high in corners)
    return box, rng.random([part.stop - part.start for part in box]) < 0.6


def full(found, shape):
    mask = np.zeros(shape, bool)
    mask[found[0]] = found[1]
    return mask


@pytest.mark.parametrize("seed", range(30))
def test_a_region_takes_one_mask_and_the_rest_the_other(seed):
    rng, shape = np.random.default_rng(seed), (6, 5, 7)
    fine, coarse, region = (random_mask(rng, shape) for _ in range(3))
    found = full(combine_masks(fine, coarse, region), shape)
    expected = np.where(full(region, shape), full(coarse, shape), full(fine, shape))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(10))
def test_a_shared_voxel_goes_to_the_lesion_then_to_the_vessel(seed):
    rng, shape = np.random.default_rng(seed), (6, 5, 7)
    ids = ["liver_tumor", "liver", "hepatic_vessel", "spleen"]
    masks = {id: random_mask(rng, shape) for id in ids}
    before = {id: full(found, shape) for id, found in masks.items()}
    found = {id: full(part, shape) for id, part in without_overlap(masks).items()}
    left = np.ones(shape, bool)
    for id in ["liver_tumor", "hepatic_vessel", "spleen", "liver"]:
        np.testing.assert_array_equal(found[id], before[id] & left)
        left &= ~before[id]
        np.testing.assert_array_equal(full(masks[id], shape), before[id])
    assert load_structures()["liver_tumor"].overlap_rank > load_structures()["hepatic_vessel"].overlap_rank


def test_what_lies_behind_all_patches_does_not_count():
    uncertain = np.zeros((8, 4, 4), bool)
    uncertain[6] = True
    assert choose_patches([Patch((0, 0, 0), (4, 4, 4))], uncertain, 1) == []


def test_a_patch_may_hold_more_uncertain_voxels_than_two_bytes_count():
    patch = Patch((0, 0, 0), (16, 64, 64))
    assert choose_patches([patch], np.ones((16, 64, 64), bool), 1) == [patch]
