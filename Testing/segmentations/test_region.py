import numpy as np
import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.masks.region import Region

AFFINE = np.array([[0, 0, -2.0, 50], [0, 3, 0, -10], [5, 0, 0, 100], [0, 0, 0, 1]])  # "SAL"
SHAPE = (6, 8, 10)


def test_limits_are_pairs_or_flat():
    pairs = ((1, 2), (3, 4), (5, 6))
    assert Region.from_limits(pairs) == Region.from_limits((1, 2, 3, 4, 5, 6)) == Region(pairs)


@pytest.mark.parametrize("limits", [
    (1, 2, 3), (2, 1, 0, 1, 0, 1), (0, 1, 0, np.nan, 0, 1), range(8), "a",
    ((-100, -60, 80), (200, 560, 600)),
])  # fmt: skip
def test_other_limits_are_refused(limits):
    with pytest.raises(InputError, match="x0 x1 y0 y1 z0 z1"):
        Region.from_limits(limits)


@pytest.mark.parametrize(
    ("limits", "box"),
    [
        ((-1000, 1000, -1000, 1000, -1000, 1000), (slice(0, 6), slice(0, 8), slice(0, 10))),
        ((40, 46, -7, 2, 105, 110), (slice(1, 3), slice(1, 5), slice(2, 6))),
        ((49, 51, -10, -10, 99, 101), (slice(0, 1), slice(0, 1), slice(0, 1))),
    ],
)
def test_the_voxel_box_holds_the_centres_inside(limits, box):
    assert Region.from_limits(limits).voxel_box(AFFINE, SHAPE) == box


def test_a_region_outside_the_image_is_refused_with_the_extent_of_the_image():
    with pytest.raises(InputError, match=r"outside the image \(32 to 50, -10 to 11, 100 to 125 mm"):
        Region.from_limits((0, 10, 0, 10, 0, 10)).voxel_box(AFFINE, SHAPE)


@pytest.mark.parametrize("degrees", [0, 25])
def test_voxels_with_their_centre_outside_are_cleared(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
    centre = (affine @ (3, 4, 5, 1))[:3]
    region = Region.from_limits(np.stack([centre - 4.2, centre + 5.3], axis=1))
    grid = np.stack([*np.indices(SHAPE), np.ones(SHAPE)])
    position = np.einsum("ab,bzyx->azyx", affine, grid)[:3]
    low, high = np.array(region.bounds).T[:, :, None, None, None]
    expected = ((position >= low) & (position <= high)).all(axis=0)
    box = region.voxel_box(affine, SHAPE)
    mask = np.ones(SHAPE, bool)
    region.clear_outside(mask, (slice(0, 6), slice(0, 8), slice(0, 10)), affine)
    np.testing.assert_array_equal(mask, expected)
    inside_box = np.zeros(SHAPE, bool)
    inside_box[box] = True
    assert not (expected & ~inside_box).any()
    part = np.ones(expected[box].shape, bool)
    region.clear_outside(part, box, affine)
    np.testing.assert_array_equal(part, expected[box])


@pytest.mark.parametrize("slices", [(101, 104), (97.6, 99), (125.5, 127)])
def test_a_region_between_two_slices_is_told_apart_from_one_outside(slices):
    region = Region.from_limits((32, 50, -10, 11, *slices))
    with pytest.raises(InputError, match="between the centres of the voxels, which are 5 × 3 × 2 mm large"):
        region.voxel_box(AFFINE, SHAPE)
