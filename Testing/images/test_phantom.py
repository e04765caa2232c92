"""The phantom: seeded, exact labels, plausible anatomy at any spacing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from PartialSegLib.errors import InputError
from PartialSegLib.phantom import (
    LESION_KINDS,
    PHASES,
    STRUCTURE_TISSUES,
    Phantom,
    SmoothField,
    Tissue,
    add_lesions,
    add_small_bowel,
    make_phantom,
    make_tissues,
    random_appearance,
    render,
    structure_mask,
    voxel_axes,
)

SPACING = (6.0, 5.0, 5.0)
SHAPE = (75, 66, 80)


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return make_phantom(3, SPACING, SHAPE, lesions={})


@pytest.fixture(scope="module")
def patients() -> list[np.ndarray]:
    return [make_tissues(seed, SPACING, SHAPE) for seed in range(10)]


def add_bowel(tissues: np.ndarray, spacing: float) -> None:
    """Loops of small bowel between 6 cm left and right, behind and before, below and above the middle."""
    z, y, x = voxel_axes((spacing,) * 3, tissues.shape)
    still = np.zeros(tissues.shape, np.float32)
    box = np.full(3, -60.0), np.full(3, 60.0)
    add_small_bowel(tissues, (z, y, x), (still, still, still), np.random.default_rng(1), box)


def center_mm(phantom: Phantom, structure: str) -> np.ndarray:
    """Centre of mass (x, y, z) in RAS mm."""
    index = np.argwhere(phantom.mask(structure)).mean(axis=0)
    return (phantom.volume.affine @ [*index, 1])[:3]


def test_the_same_seed_gives_the_same_patient() -> None:
    first, second = make_phantom(5, SPACING, (20, 66, 80)), make_phantom(5, SPACING, (20, 66, 80))
    assert np.array_equal(first.volume.array, second.volume.array)
    assert np.array_equal(first.tissues, second.tissues)


def test_another_seed_gives_another_patient(healthy: Phantom) -> None:
    assert (make_tissues(4, SPACING, SHAPE) != healthy.tissues).mean() > 0.05


@pytest.mark.parametrize(
    ("structure", "lowest", "means", "highest"),
    [
        ("liver", 600, (1000, 1800), 2300),
        ("spleen", 30, (120, 280), 700),
        ("kidney", 60, (200, 400), 550),
        ("pancreas", 15, (45, 110), 180),
        ("hepatic_vessel", 8, (15, 60), 90),
    ],
)
def test_organs_have_human_volumes(
    patients: list[np.ndarray], structure: str, lowest: float, means: tuple[float, float], highest: float
) -> None:
    voxel_ml = np.prod(SPACING) / 1000
    volumes = [structure_mask(tissues, structure).sum() * voxel_ml for tissues in patients]
    assert lowest < min(volumes) <= max(volumes) < highest, volumes
    assert means[0] < np.mean(volumes) < means[1], volumes


def test_a_few_patients_have_one_kidney() -> None:
    """Six in a hundred; what lies in its place then is no kidney."""
    sides = []
    for seed in range(24):
        kidney = structure_mask(make_tissues(seed, (8.0, 8.0, 8.0), (40, 40, 48)), "kidney")
        sides.append((kidney[:, :, :24].any(), kidney[:, :, 24:].any()))
    assert all(any(pair) for pair in sides)
    assert 1 <= sum(not all(pair) for pair in sides) <= 4


def test_liver_lies_right_and_spleen_left_and_behind(healthy: Phantom) -> None:
    liver, spleen = center_mm(healthy, "liver"), center_mm(healthy, "spleen")
    assert liver[0] > 20
    assert spleen[0] < -40
    assert spleen[1] < liver[1]


def test_a_patient_is_the_same_at_another_spacing_and_field_of_view() -> None:
    whole = make_tissues(6, (6.0, 6.0, 6.0), (41, 61, 61))
    part = make_tissues(6, (6.0, 6.0, 6.0), (21, 61, 61), center=(60.0, 0.0, 0.0))
    assert np.array_equal(whole[20:], part)


@pytest.mark.parametrize("phase", PHASES)
def test_hounsfield_units_follow_tissue_and_phase(phase: str) -> None:
    phantom = make_phantom(7, SPACING, SHAPE, phase, lesions={})
    array, tissues = phantom.volume.array, phantom.tissues
    assert array[tissues == Tissue.AIR].mean() < -950
    assert -130 < array[tissues == Tissue.FAT].mean() < -40
    aorta = np.median(array[tissues == Tissue.ARTERY])
    assert (aorta > 180) == (phase == "arterial")
    assert (aorta < 90) == (phase == "native")


def test_a_healthy_patient_has_no_lesions(healthy: Phantom) -> None:
    for structure in STRUCTURE_TISSUES:
        assert structure.endswith("_tumor") != healthy.mask(structure).any()


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_lesions_grow_only_into_what_they_may_replace(patients: list[np.ndarray], kind: str) -> None:
    before = patients[0]
    after = before.copy()
    add_lesions(after, SPACING, np.random.default_rng(0), {kind: 1.0})
    changed = before != after
    assert changed.any()
    assert set(after[changed]) == {LESION_KINDS[kind].tissue}
    assert set(before[changed]) <= set(LESION_KINDS[kind].over)


def test_organs_include_their_tumours() -> None:
    phantom = make_phantom(9, SPACING, SHAPE, lesions={"liver_tumor": 1.0, "kidney_tumor": 1.0})
    for organ in ("liver", "kidney"):
        tumor = phantom.mask(f"{organ}_tumor")
        assert tumor.any()
        assert not (tumor & ~phantom.mask(organ)).any()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"phase": "venous"}, "no contrast phase 'venous'; choose from native"),
        ({"lesions": {"liver_tumour": 1.0}}, "no kind of lesion 'liver_tumour'; choose from"),
    ],
)
def test_an_unknown_phase_or_lesion_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_phantom(1, SPACING, SHAPE, **wrong)


def test_a_smooth_field_does_not_depend_on_the_grid_it_is_evaluated_on() -> None:
    field = SmoothField(np.random.default_rng(1), np.full(3, -50.0), np.full(3, 50.0), 20.0, 3.0)
    axis = np.linspace(-40, 40, 17)
    whole = field(axis, axis, axis)
    assert np.allclose(whole[5:9, 2:4, ::3], field(axis[5:9], axis[2:4], axis[::3]), atol=1e-5)
    assert whole.std() > 0.5


def test_gas_makes_the_content_of_the_colon_darker_and_uneven_and_nothing_else() -> None:
    tissues = np.full((10, 20, 20), Tissue.COLON, np.uint8)
    tissues[:, :, 10:] = Tissue.LIVER
    axes = [np.arange(n) * 3.0 for n in tissues.shape]
    appearance = random_appearance(np.random.default_rng(2))
    contents = dict.fromkeys(appearance.contents, (0.0, 20.0, 60.0))
    smooth = replace(appearance, blur=(0.0, 0.0, 0.0), contents=contents)
    plain, bubbly = (
        render(tissues, axes, np.random.default_rng(1), replace(smooth, bubbles=bubbles))
        for bubbles in (0.0, 100.0)
    )
    taken = plain - bubbly
    assert np.array_equal(taken[:, :, 10:], np.zeros((10, 20, 10)))
    assert 20 < taken[:, :, :10].mean() < 100
    assert taken[:, :, :10].std() > 15


def test_organs_are_made_uneven_and_nothing_else() -> None:
    tissues = np.full((10, 20, 20), Tissue.PANCREAS, np.uint8)
    tissues[:, :10, 10:], tissues[:, 10:, 10:] = Tissue.LIVER, Tissue.LIVER_TUMOR
    axes = [np.arange(n) * 3.0 for n in tissues.shape]
    even, uneven = (random_appearance(np.random.default_rng(2), unevenness=most) for most in (0.0, 20.0))
    assert np.array_equal(even.mean, uneven.mean)
    plain, changed = (
        render(
            tissues,
            axes,
            np.random.default_rng(1),
            replace(one, blur=(0.0, 0.0, 0.0), noise=0, noise_grain=0, shading=0),
        )
        for one in (even, uneven)
    )
    difference = changed - plain
    assert not difference[tissues == Tissue.LIVER_TUMOR].any()
    assert 1 < difference[tissues == Tissue.LIVER].std() < 40
    assert difference[tissues == Tissue.PANCREAS].mean() < -5


def test_lesion_contrast_scales_the_difference_to_the_organ() -> None:
    def difference(contrast: float) -> float:
        mean = random_appearance(np.random.default_rng(3), lesion_contrast=contrast).mean
        return float(mean[Tissue.LIVER_TUMOR] - mean[Tissue.LIVER])

    assert difference(2.0) == pytest.approx(2 * difference(1.0), rel=1e-4)


def test_a_fifth_of_the_hollow_organs_hold_positive_contrast_agent() -> None:
    contents = [random_appearance(np.random.default_rng(seed)).contents for seed in range(100)]
    organs = (Tissue.STOMACH, Tissue.SMALL_BOWEL, Tissue.COLON)
    brightest = np.array([one[organ][1] for one in contents for organ in organs])
    assert 0.15 < (brightest > 100).mean() < 0.27
    assert 500 < brightest.max() <= 600


def test_three_in_ten_tumours_of_the_pancreas_are_cystic() -> None:
    means = [random_appearance(np.random.default_rng(seed), "portal venous").mean for seed in range(200)]
    cystic = np.mean([0 <= mean[Tissue.PANCREAS_TUMOR] <= 35 < mean[Tissue.PANCREAS] for mean in means])
    assert 0.3 < cystic < 0.6  # a few solid ones are as dark


def test_the_bile_duct_runs_through_the_head_of_the_pancreas(patients: list[np.ndarray]) -> None:
    near = [
        binary_dilation(tissues == Tissue.BILE_DUCT, iterations=2)[tissues == Tissue.PANCREAS].any()
        for tissues in patients
    ]
    assert np.mean(near) > 0.7


def test_the_pancreatic_duct_belongs_to_the_pancreas() -> None:
    tissues = np.array([[[Tissue.PANCREAS, Tissue.PANCREATIC_DUCT, Tissue.BILE_DUCT]]], np.uint8)
    assert structure_mask(tissues, "pancreas").tolist() == [[[True, True, False]]]


def test_part_of_the_small_bowel_is_collapsed() -> None:
    tissues = np.full((40, 40, 40), Tissue.VISCERAL_FAT, np.uint8)
    add_bowel(tissues, 3.0)
    wall = tissues == Tissue.BOWEL_WALL
    thick = wall & ~binary_dilation(tissues == Tissue.SMALL_BOWEL, iterations=2)
    assert 0.05 < thick.sum() / wall.sum() < 0.7


def test_small_bowel_is_added_to_visceral_fat_alone() -> None:
    tissues = np.full((30, 40, 40), Tissue.VISCERAL_FAT, np.uint8)
    tissues[:, :, 20:] = Tissue.LIVER
    add_bowel(tissues, 5.0)
    assert (tissues[:, :, 20:] == Tissue.LIVER).all()
    added = np.isin(tissues[:, :, :20], [Tissue.BOWEL_WALL, Tissue.SMALL_BOWEL])
    assert 0.1 < added.mean() < 0.9
