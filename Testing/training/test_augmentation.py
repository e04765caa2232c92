"""Augmentation: image and labels move together, borders are real, draws decide everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from PartialSegLib.errors import InputError
from PartialSegLib.files.json_fields import from_json, to_json
from PartialSegLib.training.patches.augmentation import PRESETS, Augmentation, drawn_around_one
from PartialSegLib.training.patches.elastic_field import ElasticField
from PartialSegLib.training.patches.intensities import disturb_intensities
from PartialSegLib.training.patches.spatial_transform import SpatialTransform, draw_spatial_transform

PATCH = (24, 40, 36)
ALWAYS = {
    "rotated": Augmentation(rotation_probability=1),
    "scaled": Augmentation(scale_probability=1),
    "rotated and scaled": Augmentation(rotation_probability=1, scale_probability=1),
    "in plane": Augmentation(rotation_probability=1, rotation=180, scale_probability=1, in_plane=True),
    "mirrored": Augmentation(mirror_probability=1),
    "cubic": Augmentation(rotation_probability=1, scale_probability=1, interpolation="cubic"),
    "cubic scaled": Augmentation(scale_probability=1, interpolation="cubic"),
}
STRONGLY = {"elastic_probability": 1.0, "elastic": (900.0, 900.0), "elastic_sigma": (9.0, 9.0)}
DEFORMED = {
    "deformed": Augmentation(**STRONGLY),
    "rotated, scaled and deformed": replace(ALWAYS["rotated and scaled"], **STRONGLY),
    "deformed in plane": replace(ALWAYS["in plane"], **{**STRONGLY, "elastic": (200.0, 200.0)}),
    "cubic deformed": Augmentation(interpolation="cubic", **STRONGLY),
    "deformed and mirrored": Augmentation(mirror_probability=1, **STRONGLY),
}
INTENSITIES = {
    "noise": {"noise": (0.05, 0.1)},
    "blur": {},
    "brightness": {"brightness": (1.1, 1.2)},
    "shift": {},
    "contrast": {"contrast": (0.7, 0.8)},
    "low_resolution": {"low_resolution": (0.5, 0.6)},
    "gamma": {},
    "inverted_gamma": {},
}


def box_in(size: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright box off the middle of a crop, and its label."""
    labels = torch.zeros(size, dtype=torch.uint8)
    z, y, x = (slice(n // 2 - 4, n // 2 + 9) for n in size)
    labels[z, y, x] = 7
    return labels[None].float() / 7, labels


def centered_ramp(size: tuple[int, int, int]) -> torch.Tensor:
    """The offset of each voxel to the middle: (3, *size), z, y, x."""
    ramp = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in size], indexing="ij"))
    return ramp - (torch.tensor(size)[:, None, None, None] - 1) / 2


def patch_like_image(seed: int = 0) -> torch.Tensor:
    smooth = torch.linspace(-1, 1, 40)[None, None, None, :].expand(1, 12, 40, 40)
    noise = np.random.default_rng(seed).normal(0, 0.2, (1, 12, 40, 40))
    return smooth + torch.from_numpy(noise.astype(np.float32))


@pytest.mark.parametrize("name", ALWAYS | DEFORMED)
@pytest.mark.parametrize("seed", range(4))
def test_image_and_labels_stay_aligned(name, seed):
    transform = draw_spatial_transform((ALWAYS | DEFORMED)[name], np.random.default_rng(seed))
    image, labels = transform.apply(*box_in(transform.crop_size(PATCH)), PATCH)
    assert image.shape == (1, *PATCH)
    assert labels.shape == PATCH
    assert type(image) is type(labels) is torch.Tensor
    assert (image.dtype, labels.dtype) == (torch.float32, torch.uint8)
    assert set(labels.unique().tolist()) == {0, 7}
    bright, inside = image[0] > 0.5, labels == 7
    assert 2 * (bright & inside).sum() / (bright.sum() + inside.sum()) > 0.93


@pytest.mark.parametrize("name", ALWAYS | DEFORMED)
@pytest.mark.parametrize("seed", range(4))
def test_a_voxel_moves_to_where_the_matrix_says(name, seed):
    transform = draw_spatial_transform((ALWAYS | DEFORMED)[name], np.random.default_rng(seed))
    crop = transform.crop_size(PATCH)
    image, _ = transform.apply(centered_ramp(crop), torch.zeros(crop, dtype=torch.uint8), PATCH)
    voxel = np.array([9, 25, 14])
    before = voxel.copy()
    before[list(transform.mirrored)] = (np.array(PATCH) - 1 - voxel)[list(transform.mirrored)]
    offset = before - (np.array(PATCH) - 1) / 2
    if transform.elastic is not None:
        offset += transform.elastic.displacement(PATCH)[:, *before].numpy()
    # a crop is rounded to whole voxels, and fills the patch
    np.testing.assert_allclose(image[:, *voxel], transform.matrix @ offset, atol=0.3)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(sorted(set(ALWAYS) - {"cubic", "cubic scaled"})))
def test_corners_are_read_not_invented(seed, name):
    transform = draw_spatial_transform(ALWAYS[name], np.random.default_rng(seed))
    corners = np.array(np.meshgrid(*[(-(n - 1) / 2, (n - 1) / 2) for n in PATCH])).reshape(3, -1)
    reached = np.abs(transform.matrix @ corners).max(1)
    crop = np.array(transform.crop_size(PATCH))
    assert (reached <= crop / 2 + 0.3).all()
    assert (crop <= 2 * reached + 2.5).all()
    assert (
        (np.array(transform.scaled_size(PATCH)) <= crop + 1).all() or "rotated" in name or name == "in plane"
    )


@pytest.mark.parametrize("name", sorted(DEFORMED.keys() - {"cubic deformed", "deformed and mirrored"}))
@pytest.mark.parametrize("seed", range(3))
def test_all_voxels_of_a_deformed_patch_are_read_not_invented(name, seed):
    transform = draw_spatial_transform(DEFORMED[name], np.random.default_rng(seed))
    crop = transform.crop_size(PATCH)
    image, _ = transform.apply(centered_ramp(crop), torch.zeros(crop, dtype=torch.uint8), PATCH)
    assert transform.elastic is not None
    offsets = centered_ramp(PATCH) + transform.elastic.displacement(PATCH)
    expected = np.tensordot(transform.matrix, offsets.numpy(), 1)
    np.testing.assert_allclose(image, expected, atol=1e-3)  # beyond the border it would be flat


@pytest.mark.parametrize("name", ALWAYS | DEFORMED)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_the_same_everywhere_stays_so(name, seed):
    transform = draw_spatial_transform((ALWAYS | DEFORMED)[name], np.random.default_rng(seed))
    crop = transform.crop_size(PATCH)
    image, labels = transform.apply(torch.ones(1, *crop), torch.ones(crop, dtype=torch.uint8), PATCH)
    np.testing.assert_allclose(image, 1, atol=1e-4)
    assert (labels == 1).all()


def test_voxels_move_as_far_as_in_batchgenerators():
    size, magnitude, sigma = (61, 61, 61), 900.0, 9.0
    fields = [ElasticField(seed, magnitude, sigma).displacement(size) for seed in range(60)]
    middles = torch.stack([field[:, 30, 30, 30] for field in fields])
    expected = magnitude * (1 / 3) ** 0.5 * (2 * np.pi**0.5 * sigma) ** -1.5  # of smoothed white noise
    assert expected == pytest.approx(2.88, abs=0.01)
    assert middles.square().mean().sqrt() == pytest.approx(expected, rel=0.15)
    slopes = fields[0].diff(dim=1).abs().max()
    assert slopes < 1  # neighbours stay neighbours: nothing is folded


def test_slices_are_deformed_alike_in_plane():
    field = ElasticField(3, 200.0, 9.0, in_plane=True).displacement((6, 40, 36))
    assert not field[0].any()
    assert torch.equal(field[1:, 0], field[1:, 5])
    assert field[1:].abs().amax((1, 2, 3)).min() > 0.5


def test_a_deformation_is_a_function_of_its_seed():
    first, again, other = (ElasticField(seed, 900.0, 9.0).displacement(PATCH) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    patches = []
    for seed in (0, 0, 1):
        transform = draw_spatial_transform(DEFORMED["deformed"], np.random.default_rng(seed))
        patches.append(transform.apply(*box_in(transform.crop_size(PATCH)), PATCH)[0])
    assert torch.equal(patches[0], patches[1])
    assert not torch.equal(patches[0], patches[2])


def test_without_deformations_the_draws_are_those_of_before():
    rng, expected = np.random.default_rng(4), np.random.default_rng(4)
    transform = draw_spatial_transform(replace(ALWAYS["mirrored"], elastic=(1.0, 2.0)), rng)
    expected.random(5)  # rotation, scale, three axes
    assert transform.elastic is None
    assert rng.random() == expected.random()


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 1, 1), (4, 9, 2)])
def test_patches_of_a_few_voxels_can_be_deformed(size):
    transform = draw_spatial_transform(DEFORMED["deformed"], np.random.default_rng(0))
    assert max(transform.crop_size(size)) < 25
    image, labels = transform.apply(*box_in(transform.crop_size(size)), size)
    assert (image.shape, labels.shape) == ((1, *size), size)


def test_each_axis_is_mirrored_half_of_the_time_and_others_never():
    augmentation = Augmentation(mirror_probability=0.5, mirror_axes=(0, 2))
    rng = np.random.default_rng(0)
    drawn = [draw_spatial_transform(augmentation, rng).mirrored for _ in range(1000)]
    shares = [np.mean([axis in axes for axes in drawn]) for axis in range(3)]
    assert shares == pytest.approx([0.5, 0, 0.5], abs=0.06)


def test_the_transform_of_the_preset_none_changes_nothing():
    transform = draw_spatial_transform(PRESETS["none"], np.random.default_rng(0))
    assert transform.crop_size(PATCH) == PATCH
    image, labels = box_in(PATCH)
    same_image, same_labels = transform.apply(image, labels, PATCH)
    assert torch.equal(image, same_image)
    assert torch.equal(labels, same_labels)
    assert torch.equal(disturb_intensities(image, PRESETS["none"], np.random.default_rng(0)), image)


@pytest.mark.parametrize("name", INTENSITIES)
def test_each_disturbance_is_a_function_of_the_draws(name):
    augmentation = replace(Augmentation(), **{f"{name}_probability": 1.0}, **INTENSITIES[name])
    image = patch_like_image()
    untouched = image.clone()
    first, second, other = (
        disturb_intensities(image, augmentation, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(image, untouched)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (type(first), first.shape, first.dtype) == (torch.Tensor, image.shape, torch.float32)
    assert 0.01 < float((first - image).abs().mean()) < 0.3
    assert torch.isfinite(first).all()


def test_what_the_disturbances_keep():
    image = patch_like_image()
    rng = np.random.default_rng(3)
    for name in ("gamma", "inverted_gamma"):
        changed = disturb_intensities(image, replace(Augmentation(), **{f"{name}_probability": 1.0}), rng)
        assert changed.mean() == pytest.approx(float(image.mean()), abs=1e-3)
        assert changed.std() == pytest.approx(float(image.std()), abs=1e-3)
    changed = disturb_intensities(image, Augmentation(contrast_probability=1, contrast=(1.2, 1.2)), rng)
    assert changed.min() >= image.min() - 1e-6
    assert changed.max() <= image.max() + 1e-6
    blurred = disturb_intensities(image, Augmentation(blur_probability=1), rng)
    assert blurred.diff(dim=1).std() < 0.7 * image.diff(dim=1).std()


@pytest.mark.parametrize("name", INTENSITIES)
def test_channels_are_disturbed_each_by_its_own_numbers(name):
    augmentation = replace(Augmentation(), **{f"{name}_probability": 1.0}, **INTENSITIES[name])
    image = patch_like_image().expand(3, -1, -1, -1).contiguous()
    changed = disturb_intensities(image, augmentation, np.random.default_rng(0))
    assert changed.shape == image.shape
    assert not torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[1], changed[2])
    if name != "noise":  # whose numbers for one channel come before those of the next
        alone = disturb_intensities(image[:1], augmentation, np.random.default_rng(0))
        assert torch.equal(changed[:1], alone)
    if name == "gamma":
        wider = disturb_intensities(
            torch.cat([image[:1], 5 * image[:1]]), augmentation, np.random.default_rng(0)
        )
        assert torch.equal(wider[0], changed[0])  # whatever the range of another channel


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_json(Augmentation, to_json(PRESETS[name])) == PRESETS[name]


def test_probabilities_of_the_published_codes():
    drawn = [
        draw_spatial_transform(PRESETS["nnunet"], np.random.default_rng([0, index])) for index in range(1500)
    ]
    turned = [not np.allclose(t.matrix, np.diag(np.diag(t.matrix))) for t in drawn]
    scales = np.array([np.linalg.norm(t.matrix[:, 0]) for t in drawn])
    assert np.mean(turned) == pytest.approx(0.2, abs=0.03)
    assert np.mean(np.abs(scales - 1) > 1e-6) == pytest.approx(0.2, abs=0.03)
    assert 0.7 <= scales.min() < 0.75
    assert 1.35 < scales.max() <= 1.4
    assert np.mean(scales < 1 - 1e-6) == pytest.approx(0.1, abs=0.025)  # not 0.3 / 0.7 of 0.2
    planes = [draw_spatial_transform(PRESETS["flare23"], np.random.default_rng(index)) for index in range(50)]
    assert all(np.array_equal(t.matrix[0], [1, 0, 0]) and t.crop_size(PATCH)[0] == PATCH[0] for t in planes)


def test_numbers_around_one_are_below_it_half_of_the_time():
    rng = np.random.default_rng(0)
    drawn = np.array([drawn_around_one((0.7, 1.5), rng) for _ in range(2000)])
    assert np.mean(drawn < 1) == pytest.approx(0.5, abs=0.04)
    assert (drawn.min(), drawn.max()) == pytest.approx((0.7, 1.5), abs=0.01)
    assert [drawn_around_one(limits, rng) for limits in ((0.5, 0.5), (2.0, 2.0))] == [0.5, 2.0]
    assert {name for name, preset in PRESETS.items() if not preset.scale_around_one} == {"none", "dodnet"}


def test_resolution_is_lowered_in_plane_where_slices_are_thick():
    slices = (torch.arange(16) % 2).float()[None, :, None, None].expand(1, 16, 8, 8)
    coarse = Augmentation(low_resolution_probability=1.0, low_resolution=(0.5, 0.5))
    for in_plane in (False, True):
        changed = disturb_intensities(slices, replace(coarse, in_plane=in_plane), np.random.default_rng(0))
        assert torch.equal(changed, slices) == in_plane
    image = patch_like_image()
    changed = disturb_intensities(image, replace(coarse, in_plane=True), np.random.default_rng(0))
    assert changed.diff(dim=3).abs().mean() < 0.8 * image.diff(dim=3).abs().mean()


def test_only_the_presets_of_papers_add_what_the_codes_leave_out():
    deformed = {name for name, preset in PRESETS.items() if preset.elastic_probability}
    assert deformed == {"flare23-paper"}
    turned = {name: preset.rotation for name, preset in PRESETS.items() if preset.rotation_probability}
    assert turned == {"transdodnet-paper": 15, "nnunet": 30, "flare23": 180, "flare23-paper": 180}
    paper = replace(PRESETS["flare23-paper"], elastic_probability=0.0, elastic=(0.0, 900.0))
    assert paper == PRESETS["flare23"]
    paper = replace(PRESETS["transdodnet-paper"], rotation_probability=0.0, rotation=30.0)
    assert paper == PRESETS["transdodnet"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur_probability": 1.5}, "blur_probability: expected a probability from 0 to 1, got 1.5"),
        ({"scale": (0, 1)}, "scale: expected .* above 0"),
        ({"gamma": (1.5, 0.7)}, "gamma: expected .*lowest, highest"),
        ({"elastic": (-1.0, 2.0)}, "elastic: expected .*lowest, highest"),
        ({"elastic_sigma": (0.0, 2.0)}, "elastic_sigma: expected .* above 0"),
        ({"mirror_axes": (3,)}, "mirror_axes: expected some of 0 .*, got .3."),
        ({"mirror_axes": (2, 2)}, "mirror_axes: expected some of 0 .* each once, got .2, 2."),
        ({"rotation": -30.0}, "rotation: expected 0 or more, got -30"),
        ({"shift": -0.1}, "shift: expected 0 or more, got -0.1"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**values)


def test_half_of_a_scaled_patch_is_half_of_its_crop():
    transform = SpatialTransform(np.diag([1.0, 2.0, 0.5]))
    assert transform.crop_size((10, 10, 10)) == (10, 20, 5)
    labels = torch.arange(20).repeat(10, 5, 1).permute(0, 2, 1)  # y
    _, patch = transform.apply(torch.zeros(1, 10, 20, 5), labels, (10, 10, 10))
    assert patch[0, :, 0].tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
