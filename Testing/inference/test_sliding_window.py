import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from PartialSegLib.patches.sliding_window import (
    Patch,
    count_patches,
    gaussian_weight,
    mirrored_patches,
    pad_to_patch,
    plan_patches,
    positions_along_axis,
)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "starts"),
    [
        (64, 64, 0.5, [0]),
        (65, 64, 0.5, [0, 1]),
        (96, 64, 0.5, [0, 32]),
        (100, 64, 0.5, [0, 32, 36]),
        (10, 4, 0, [0, 4, 6]),
        (9, 5, 0.5, [0, 3, 4]),
        (13, 10, 0.7, [0, 3]),
        (3, 8, 0.5, [0]),
        (6, 4, 0.99, [0, 1, 2]),
    ],
)
def test_patches_lie_at_multiples_of_the_stride_and_end_at_the_border(length, size, overlap, starts):
    patches = plan_patches((length, 4, 4), (size, 4, 4), overlap)
    assert [patch.start for patch in patches] == [(start, 0, 0) for start in starts]
    assert count_patches((length, 8, 4), (size, 4, 4), overlap) == len(
        plan_patches((length, 8, 4), (size, 4, 4), overlap)
    )


def test_the_weight_is_a_gaussian_of_an_eighth_of_the_patch():
    weight = gaussian_weight((16, 32, 8)).numpy()
    assert weight.shape == (16, 32, 8)
    assert weight[8, 16, 4] == weight.max() == 1
    assert weight.min() > 0
    np.testing.assert_allclose(weight[8, 16 + 4, 4], np.exp(-0.5), rtol=1e-3)
    impulse = np.zeros((16, 32, 8))
    impulse[8, 16, 4] = 1
    expected = ndimage.gaussian_filter(impulse, (2, 4, 1), mode="constant")
    np.testing.assert_allclose(weight, expected / expected.max(), rtol=1e-5)


def test_a_patch_touches_what_it_shares_a_voxel_with():
    patch = Patch((2, 0, 4), (3, 2, 2))
    slices = np.zeros(8, bool)
    slices[5:] = True
    assert not patch.touches(slices)
    slices[4] = True
    assert patch.touches(slices)
    voxels = np.zeros((8, 4, 8), bool)
    voxels[4, 1, 6] = True
    assert not patch.touches(voxels)
    voxels[4, 1, 5] = True
    assert patch.touches(voxels)


def test_padding_fills_the_end_of_short_axes():
    padded = pad_to_patch(torch.zeros(3, 5, 2), (4, 4, 4), -7)
    assert padded.shape == (4, 5, 4)
    assert padded[:3, :, :2].eq(0).all()
    assert padded.sum() == -7 * (4 * 5 * 4 - 3 * 5 * 2)
    image = torch.zeros(4, 5, 6)
    assert pad_to_patch(image, (4, 4, 4), -7) is image


@pytest.mark.parametrize(
    ("length", "size", "overlap", "starts"),
    [
        (64, 64, 0.5, [0]),
        (30, 64, 0.5, [0]),
        (110, 64, 0.5, [0, 23, 46]),
        (128, 64, 0.5, [0, 32, 64]),
        (129, 64, 0.5, [0, 22, 43, 65]),
        (100, 48, 0.2, [0, 26, 52]),
        (8, 4, 0.99, [0, 1, 2, 3, 4]),
    ],
)
def test_even_patches_lie_at_equal_distances(length, size, overlap, starts):
    patches = plan_patches((length, 8, 8), (size, 8, 8), overlap, "even")
    assert [patch.start[0] for patch in patches] == starts
    assert count_patches((length, 8, 8), (size, 8, 8), overlap, "even") == len(patches)


def test_even_patches_lie_where_nnunet_lays_them():
    """Its `compute_steps_for_sliding_window`, written anew; at odd sizes the rounding of halves matters."""
    for size, length in itertools.product((9, 27, 48, 128), range(8, 500)):
        last = max(0, length - size)
        steps = math.ceil(last / (size * 0.5)) + 1
        distance = last / (steps - 1) if steps > 1 else 0
        expected = [int(np.round(distance * step)) for step in range(steps)]
        assert positions_along_axis(length, size, 0.5, "even") == expected


def test_padding_on_both_sides_has_the_odd_voxel_behind():
    image = torch.ones(3, 4, 5)
    padded = pad_to_patch(image, (6, 4, 6), -1.0, (1, 0, 0))
    assert padded.shape == (6, 4, 6)
    assert torch.equal(padded[1:4, :, :5], image)
    assert float(padded.sum()) == image.numel() - (padded.numel() - image.numel())


def test_mirrored_patches_lie_where_the_mirrored_image_has_them():
    shape = (3, 240, 170)
    patches = plan_patches(shape, (1, 128, 128), 1 - 42 / 128)
    assert sorted({patch.start[1] for patch in patches}) == [0, 42, 84, 112]
    image = torch.arange(3 * 240 * 170).view(shape)
    for axes in ((), (1,), (2,), (1, 2), (0, 1)):
        mirrored = mirrored_patches(patches, shape, axes)
        assert mirrored == sorted(mirrored, key=lambda patch: patch.start)
        there = sorted(image.flip(axes)[patch.slices].min().item() for patch in patches)
        assert there == sorted(image[patch.slices].min().item() for patch in mirrored)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "positions", "starts"),
    [
        (26, 20, 0.9, "even", [0, 2, 4, 6]),  # 20 * (1 - 0.9) is a little less than 2
        (16, 10, 0.7, "stride", [0, 3, 6]),  # and 10 * (1 - 0.7) a little more than 3
        (6, 4, 1 - 1e-9, "stride", [0, 1, 2]),
    ],
)
def test_rounding_of_the_overlap_neither_adds_nor_moves_a_patch(length, size, overlap, positions, starts):
    assert positions_along_axis(length, size, overlap, positions) == starts
    assert count_patches((length,) * 3, (size,) * 3, overlap, positions) == len(starts) ** 3
