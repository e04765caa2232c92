import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.masks.boxes import box_shape
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.processing.restoration import restore
from PartialSegLib.volume import Volume, reorient

CPU = torch.device("cpu")
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]
SPACINGS = [(4, 4, 4), (2.5, 4, 3), (1, 1, 1), (9, 0.7, 3)]


def recipe(orientation="SPL", spacing=(4, 4, 4), **changes):
    return Preprocessing(orientation, spacing, clip=(-1000, 1000), divide=1000, **changes)


def volume_of(shape, spacing=(3, 2, 2.5), rotation=None, seed=0):
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]) * spacing  # "SAL"
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = (40, -30, 100)
    array = np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)
    return Volume(array, affine)


def rotation_by(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def weights_between(prepared):
    """The dense path: for every input axis the matrix that brings scores back, as numpy."""
    return [axis.to_input(CPU).numpy() for axis in prepared.axes]


def test_intensities_are_clipped_and_scaled():
    volume = Volume(np.array([[[-2000, -500, 0, 100, 4000]]], dtype=np.int16), np.eye(4))
    settings = Preprocessing(
        volume.orientation, (1, 1, 1), clip=(-500, 500), subtract=100, divide=200, pad_value=-1000
    )
    prepared = preprocess(volume, settings, CPU)
    assert prepared.tensor.flatten().tolist() == [-3, -3, -0.5, 0, 2]
    assert prepared.background == -3
    for given in (volume.array.astype(np.float32), torch.from_numpy(volume.array).float()):
        scaled = settings.scaled(given)
        assert isinstance(scaled, type(given))
        assert np.array_equal(scaled, prepared.tensor)
        assert np.array_equal(given, volume.array)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_one_image_and_comes_back_to_its_own_grid(orientation):
    volume = volume_of((9, 12, 10))
    reference = preprocess(volume, recipe(), CPU)
    scores = torch.rand(reference.tensor.shape, generator=torch.Generator().manual_seed(0))
    scores[:, :3] = 0
    turned = reorient(volume, orientation)
    prepared = preprocess(turned, recipe(), CPU)
    assert torch.allclose(prepared.tensor, reference.tensor, atol=1e-5)
    expected = np.zeros(volume.shape, bool)
    box, mask = restore(scores, reference, 0.5)
    expected[box] = mask
    found = np.zeros(turned.shape, bool)
    box, mask = restore(scores, prepared, 0.5)
    found[box] = mask
    np.testing.assert_array_equal(found, reorient(volume.with_array(expected), orientation).array)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_network_sees_the_orientation_it_asks_for(orientation):
    volume = volume_of((6, 8, 7), spacing=(2, 2, 2))
    prepared = preprocess(volume, recipe(orientation, (2, 2, 2)), CPU)
    expected = reorient(volume, orientation).array / np.float32(1000)
    np.testing.assert_allclose(prepared.tensor.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("orientation", ["SPL", "RIA", "PSR"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", [(9, 12, 10), (1, 12, 10), (9, 1, 10), (1, 1, 1), (2, 30, 3)])
def test_restore_is_the_thresholded_separable_interpolation(shape, spacing, orientation):
    prepared = preprocess(volume_of(shape), recipe(orientation, spacing), CPU)
    scores = torch.rand(prepared.tensor.shape, generator=torch.Generator().manual_seed(0))
    order = [axis.network_axis for axis in prepared.axes]
    dense = np.einsum("zi,yj,xk,ijk->zyx", *weights_between(prepared), scores.permute(order).numpy())
    box, mask = restore(scores, prepared, 0.6)
    found = np.zeros(shape, bool)
    found[box] = mask
    certain = np.abs(dense - 0.6) > 1e-6
    np.testing.assert_array_equal(found[certain], (dense > 0.6)[certain])


@pytest.mark.parametrize("degrees", [0, 7, 30, 44])
def test_an_oblique_volume_keeps_its_own_axes(degrees):
    volume = volume_of((9, 12, 10), rotation=rotation_by(degrees))
    straight = preprocess(volume_of((9, 12, 10)), recipe(), CPU)
    prepared = preprocess(volume, recipe(volume.orientation), CPU)
    assert prepared.tensor.numel() == straight.tensor.numel()
    scores = torch.ones(prepared.tensor.shape)
    _, mask = restore(scores, prepared, 0.5)
    assert mask.shape == volume.shape == prepared.input_shape
    assert mask.all()


def test_a_mask_made_on_the_input_comes_back_nearly_unchanged():
    z, y, x = np.ogrid[:60, :80, :70]
    ball = (z - 30) ** 2 + (y - 35) ** 2 + (x - 40) ** 2 < 22**2
    volume = Volume(np.where(ball, 900, -900).astype(np.int16), volume_of((1, 1, 1), (1, 1, 1)).affine)
    prepared = preprocess(volume, recipe("RPI", (3, 4, 2)), CPU)
    box, mask = restore(prepared.tensor, prepared, 0)
    found = np.zeros(volume.shape, bool)
    found[box] = mask
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.98


@pytest.mark.parametrize("orientation", ["SPL", "PSL", "LPS"])
@pytest.mark.parametrize("resampling", ["trilinear", "cubic"])
def test_a_speck_between_the_voxels_of_a_coarser_image_is_an_empty_mask(orientation, resampling):
    volume = reorient(volume_of((4, 6, 6), (5, 2, 2)), orientation)
    prepared = preprocess(volume, recipe("SPL", (1.5, 2, 2), resampling=resampling), CPU)
    counts = set()
    for scores in torch.eye(len(prepared.tensor)):
        box, mask = restore(scores[:, None, None].expand(prepared.tensor.shape), prepared, 0.5)
        assert mask.shape == box_shape(box)
        counts.add(int(mask.sum()))
    assert counts == {0, 36}


def test_nothing_found_is_an_empty_mask():
    prepared = preprocess(volume_of((5, 6, 7)), recipe(), CPU)
    box, mask = restore(torch.full(prepared.tensor.shape, 0.5), prepared, 0.5)
    assert mask.shape == (0, 0, 0)
    assert all(extent.start == extent.stop for extent in box)


@pytest.mark.parametrize(("grid", "voxels"), [("rounded", 3), ("truncated", 2)])
def test_sizes_are_rounded_or_truncated(grid, voxels):
    volume = volume_of((11, 11, 11), (1, 1, 1))
    prepared = preprocess(volume, recipe(grid=grid), CPU)
    assert prepared.tensor.shape == (voxels, voxels, voxels)


def test_clipping_first_changes_what_is_interpolated():
    volume = volume_of((8, 8, 8), (1, 1, 1))
    volume.array[:] = -3000
    volume.array[:, :, 4:] = 3000
    after, before = (
        preprocess(volume, recipe(spacing=(1, 1, 0.5), clip_first=first), CPU).tensor
        for first in (False, True)
    )
    assert len(after.unique()) == 2
    assert len(before.unique()) == 4


@pytest.mark.parametrize(
    ("image", "network", "separate", "separate_back"),
    [
        ((5, 1, 1), (2, 1, 1), 0, 0),  # nnU-Net: the grid that is left decides if it is anisotropic
        ((2, 1, 1), (5, 1, 1), 0, 0),  # otherwise the one that is reached
        ((1, 5, 1), (5, 1, 1), 1, 0),
        ((2, 1, 1), (2.5, 1, 1), None, None),
        ((5, 5, 1), (5, 1, 1), None, 0),  # two coarse axes are interpolated
    ],
)
def test_the_coarse_axis_takes_the_nearest_slice(image, network, separate, separate_back):
    volume = volume_of((10, 12, 12), image)
    prepared = preprocess(volume, recipe(spacing=network, resampling="cubic", separate_above=3.0), CPU)
    methods = [axis.method for axis in prepared.axes]
    assert methods == ["nearest" if axis == separate else "cubic" for axis in range(3)]
    for number, axis in enumerate(prepared.axes):
        back = axis.to_input(CPU)
        assert bool(((back > 0).sum(1) <= (1 if number == separate_back else 2)).all())
        assert axis.method_back == ("nearest" if number == separate_back else "trilinear")


@pytest.mark.parametrize("image", [(5, 1, 1), (1, 1, 1)])
def test_splines_stay_in_the_range_of_what_nnunet_gives_to_skimage(image):
    """A slice, or the whole image; the bones of one slice do not let another one overshoot."""
    volume = volume_of((3, 12, 12), image)
    volume.array[:] = -100
    volume.array[:, 4:8, 4:8] = np.array([900, 300, 60])[:, None, None]
    size = (5, 0.7, 0.7) if image[0] == 5 else (1, 0.7, 0.7)
    settings = recipe("SAL", size, resampling="cubic")
    nnunet, plain = (
        preprocess(volume, replace(settings, separate_above=above), CPU).tensor.numpy() * 1000
        for above in (3.0, None)
    )
    zoom = [new / old for new, old in zip(nnunet.shape, volume.shape, strict=True)]
    splines = ndimage.zoom(volume.array.astype(float), zoom, order=3, mode="nearest", grid_mode=True)
    across = (1, 2) if image[0] == 5 else None
    ends = (of(volume.array, axis=across, keepdims=True) for of in (np.min, np.max))
    np.testing.assert_allclose(nnunet, splines.clip(*ends), atol=1e-2)
    np.testing.assert_allclose(plain, splines.clip(-1000, 1000), atol=1e-2)
    assert plain.max() > nnunet.max() + 50


def test_half_precision_scores_are_accepted():
    prepared = preprocess(volume_of((9, 12, 10)), recipe(), CPU)
    scores = torch.rand(prepared.tensor.shape).half()
    box, mask = restore(scores, prepared, 0.5)
    expected_box, expected = restore(scores.float(), prepared, 0.5)
    assert box == expected_box
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("clip_first", [False, True])
def test_undefined_voxels_are_refused(value, clip_first):
    volume = volume_of((6, 6, 6))
    array = volume.array.astype(np.float32)
    array[3, 2, 1] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        preprocess(volume.with_array(array), recipe(clip_first=clip_first), CPU)


def body_in_air():
    volume = volume_of((30, 40, 40), (4, 4, 4))
    array = np.full(volume.shape, -1000, np.int16)
    array[:, 10:25, 12:30] = 40
    array[:, 30, 5:35] = 200  # the table, apart from the body
    return volume.with_array(array)


@pytest.mark.parametrize("changes", [{}, {"clip_first": True, "clip": (-17, 201)}])
def test_cropping_to_the_body_leaves_air_and_table_out(changes):
    settings = replace(recipe("SAL"), **changes)
    prepared = preprocess(body_in_air(), settings, CPU, crop_to_body=True)
    margin = 3
    assert prepared.tensor.shape == (30, 15 + 2 * margin, 18 + 2 * margin)
    scores = torch.zeros(prepared.tensor.shape)
    scores[4, margin, margin] = 1
    box, mask = restore(scores, prepared, 0.5)
    assert np.argwhere(mask).ravel().tolist() == [0, 0, 0]
    assert [extent.start for extent in box] == [4, 10, 12]


def test_an_image_without_a_body_is_not_cropped():
    air = body_in_air().with_array(np.full((30, 40, 40), -1000, np.int16))
    assert preprocess(air, recipe("SAL"), CPU, crop_to_body=True).tensor.shape == (30, 40, 40)


@pytest.mark.parametrize("orientation", ["SAL", "LPI"])
def test_the_network_box_holds_all_that_scores_in_a_box_depend_on(orientation):
    prepared = preprocess(volume_of((9, 12, 10)), recipe(orientation, (2, 4, 5)), CPU)
    input_box = (slice(2, 4), slice(5, 6), slice(0, 3))
    scores = torch.zeros(prepared.tensor.shape)
    scores[prepared.network_box(input_box)] = 1
    box, mask = restore(scores, prepared, 0.999)
    found = np.zeros((9, 12, 10), bool)
    found[box] = mask
    assert found[input_box].all()


def test_a_large_ct_is_never_held_in_floating_point():
    script = """
        import numpy as np, torch
        from PartialSegLib.manifest import Preprocessing
        from PartialSegLib.processing.preprocessing import preprocess
        from PartialSegLib.processing.restoration import restore
        from PartialSegLib.system_memory import peak_memory
        from PartialSegLib.volume import Volume
        affine = np.diag([0.8, 0.8, 1.0, 1])[:, [2, 1, 0, 3]]
        recipe = Preprocessing("SAR", (4, 4, 4), (-325, 325), divide=325)
        small = Volume(np.zeros((8, 64, 64), np.int16), affine)
        preprocess(small, recipe, torch.device("cpu"))
        volume = Volume(np.ones((600, 512, 512), np.int16), affine)
        before = peak_memory()
        prepared = preprocess(volume, recipe, torch.device("cpu"))
        prepared_at = peak_memory()
        scores = torch.zeros(prepared.tensor.shape)
        scores[20:40, 20:60, 20:60] = 1
        restore(scores, prepared, 0.5)
        print(prepared_at - before, peak_memory() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(used[0]) < 60e6
    assert float(used[1]) < 90e6


def test_a_score_of_just_the_threshold_is_outside():
    prepared = preprocess(volume_of((1, 1, 3)), recipe("SAL", (3, 2, 2.5)), CPU)
    _, mask = restore(torch.tensor([[[0.6, 0.5, 0.6]]]), prepared, 0.5)
    assert mask.ravel().tolist() == [True, False, True]


@pytest.mark.parametrize("orientation", ["SAL", "LSA", "RPI"])
def test_the_network_box_counts_from_the_crop_along_each_of_its_axes(orientation):
    settings = recipe(orientation)
    prepared = preprocess(body_in_air(), settings, CPU, crop_to_body=True)
    scores = torch.zeros(prepared.tensor.shape)
    scores[prepared.network_box((slice(4, 6), slice(11, 14), slice(20, 25)))] = 1
    box, mask = restore(scores, prepared, 0.5)
    assert box == (slice(4, 6), slice(11, 14), slice(20, 25))
    assert mask.all()


def test_a_size_that_is_whole_but_for_rounding_is_not_truncated():
    volume = volume_of((6, 8, 8), (0.3, 1, 1))
    assert 6 * volume.spacing[0] / 0.1 < 18
    prepared = preprocess(volume, recipe("SAL", (0.1, 1, 1), grid="truncated"), CPU)
    assert prepared.tensor.shape == (18, 8, 8)


def test_a_spacing_of_just_the_ratio_is_interpolated():
    settings = recipe("SAL", (2, 1, 1), resampling="cubic", separate_above=3.0)
    prepared = preprocess(volume_of((10, 12, 12), (3, 1, 1)), settings, CPU)
    assert [axis.method for axis in prepared.axes] == ["cubic"] * 3


def test_splines_stay_in_the_range_of_the_image_where_it_is_clipped_first():
    volume = volume_of((3, 12, 12), (1, 1, 1))
    volume.array[:] = -100
    volume.array[:, 4:8, 4:8] = 900
    settings = recipe("SAL", (1, 0.7, 0.7), resampling="cubic", clip_first=True)
    found = preprocess(volume, settings, CPU).tensor * 1000
    assert found.min() >= -100.001
    assert found.max() <= 900.001
