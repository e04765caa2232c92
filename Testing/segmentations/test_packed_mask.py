"""Masks of eight voxels to a byte, and the boxes that they lie in."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from PartialSegLib.masks.boxes import (
    EMPTY_BOX,
    bounding_box,
    box_around,
    common_box,
    index_within,
    placed_in,
    widened,
)
from PartialSegLib.masks.packed_mask import PackedMask

BOX = (slice(4, 9), slice(2, 13), slice(0, 7))
SHAPE = (5, 11, 7)

EXTENTS = st.tuples(st.integers(0, 5), st.integers(1, 5)).map(lambda ends: slice(ends[0], sum(ends)))
BOXES = st.tuples(EXTENTS, EXTENTS, EXTENTS)


def filled(box):
    mask = np.zeros((12, 12, 12), bool)
    mask[box] = True
    return mask


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_unpacking_gives_the_mask_back_as_a_whole_and_slice_by_slice(seed, density):
    mask = np.random.default_rng(seed).random(SHAPE) < density
    volume = np.zeros((12, 15, 8), bool)
    volume[BOX] = mask
    packed = PackedMask(BOX, mask)
    found = np.zeros_like(volume)
    found[packed.box] = packed.unpack()
    np.testing.assert_array_equal(found, volume)
    assert packed.voxel_count == mask.sum()
    for z in range(len(volume)):
        plane = packed.plane(z)
        assert (plane is None) == (not packed.box[0].start <= z < packed.box[0].stop)
        if plane is not None:
            np.testing.assert_array_equal(plane, volume[z][packed.box[1:]])


@given(BOXES, BOXES, st.integers(0, 2**32 - 1))
def test_masks_overlap_where_a_voxel_belongs_to_both(first, second, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random([extent.stop - extent.start for extent in box]) < 0.2 for box in (first, second)]
    whole = [np.zeros((12, 12, 12), bool) for _ in masks]
    for volume, box, mask in zip(whole, (first, second), masks, strict=True):
        volume[box] = mask
    one, other = PackedMask(first, masks[0]), PackedMask(second, masks[1])
    assert one.overlaps(other) == other.overlaps(one) == (whole[0] & whole[1]).any()


def test_it_takes_an_eighth_of_the_memory():
    mask = np.ones((20, 40, 40), bool)
    packed = PackedMask((slice(0, 20), slice(0, 40), slice(0, 40)), mask)
    held = sum(sys.getsizeof(value) for value in vars(packed).values())
    assert held < mask.nbytes / 8 + 1000


def test_later_changes_of_the_mask_do_not_reach_it():
    mask = np.ones(SHAPE, bool)
    packed = PackedMask(BOX, mask)
    mask[:] = False
    assert packed.unpack().all()
    packed.unpack()[:] = False
    assert packed.unpack().all()


@given(BOXES, BOXES)
def test_what_boxes_share_and_what_is_around_them(first, second):
    both = filled(first) & filled(second)
    shared = common_box(first, second)
    np.testing.assert_array_equal(filled(shared), both)
    assert bounding_box(filled(first) | filled(second)) == box_around(first, second)
    assert bounding_box(both) == (shared if both.any() else EMPTY_BOX)
    np.testing.assert_array_equal(filled(first)[first][index_within(first, shared)], both[shared])
    if both.any():
        assert placed_in(first, index_within(first, shared)) == shared


@given(BOXES, st.tuples(*[st.integers(0, 9)] * 3))
def test_a_box_is_widened_as_far_as_the_volume_reaches(box, margins):
    outside = np.pad(filled(box), 9)
    for axis, margin in enumerate(margins):
        outside = ndimage.maximum_filter1d(outside, 2 * margin + 1, axis, mode="constant")
    np.testing.assert_array_equal(filled(widened(box, margins, (12, 12, 12))), outside[9:-9, 9:-9, 9:-9])


@pytest.mark.parametrize("empty", [EMPTY_BOX, (slice(3, 3), slice(0, 4), slice(0, 4))])
def test_an_empty_box_does_not_count(empty):
    assert box_around(empty, BOX) == box_around(BOX, empty) == BOX
    assert index_within(BOX, empty) == EMPTY_BOX
