"""Segmentations in memory: masks are cropped without loss, found by name, and measured in ml and mm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from PartialSegLib.errors import InputError
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.volume import Volume

SHAPE = (6, 7, 8)
AFFINE = np.array([[0, 0, -0.8, 10], [0, -0.9, 0, 20], [2.5, 0, 0, 30], [0, 0, 0, 1.0]])


def mask_of(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for box in boxes:
        mask[box] = True
    return mask


LIVER = mask_of(np.s_[1:4, 2:6, 3:7])
LESION = mask_of(np.s_[2:3, 3:5, 4:5])


def two_tasks() -> Segmentation:
    segmentation = Segmentation(SHAPE, AFFINE)
    segmentation.add("liver", "liver", None, LIVER)
    segmentation.add("liver", "liver_tumor", None, LESION)
    segmentation.add("hepatic vessel", "liver_tumor", np.s_[0:3, 3:6, 4:8], LESION[0:3, 3:6, 4:8])
    segmentation.add("colon", "colon_tumor", None, mask_of())
    return segmentation


def test_masks_are_returned_on_the_whole_image():
    segmentation = two_tasks()
    assert np.array_equal(segmentation["liver"], LIVER)
    assert np.array_equal(segmentation["liver", "liver_tumor"], LESION)
    assert np.array_equal(segmentation["hepatic vessel", "liver_tumor"], LESION)
    assert not segmentation["colon_tumor"].any()


def test_keys_keep_the_order_in_which_masks_were_added():
    keys = [
        ("liver", "liver"),
        ("liver", "liver_tumor"),
        ("hepatic vessel", "liver_tumor"),
        ("colon", "colon_tumor"),
    ]
    assert two_tasks().keys() == list(two_tasks()) == keys
    assert len(two_tasks()) == 4


def test_a_segmentation_is_a_mapping():
    segmentation = two_tasks()
    assert "liver" in segmentation
    assert ("hepatic vessel", "liver_tumor") in segmentation
    assert not any(key in segmentation for key in ("liver_tumor", "spleen", ("liver",), 0))
    assert [key for key, _ in segmentation.items()] == segmentation.keys()
    assert dict(segmentation)["liver", "liver"].sum() == 48
    assert [mask.sum() for mask in segmentation.values()] == [48, 2, 2, 0]
    assert np.array_equal(segmentation.get("liver"), LIVER)
    assert segmentation.get("spleen") is None
    with pytest.raises(InputError, match="Several tasks found liver_tumor"):
        segmentation.get("liver_tumor")


def test_a_notebook_shows_shape_and_volumes_of_the_first_masks():
    assert repr(two_tasks()) == (
        "Segmentation(6 × 7 × 8, liver/liver 0.1 ml, liver/liver_tumor 0.0 ml, "
        "hepatic vessel/liver_tumor 0.0 ml, colon/colon_tumor 0.0 ml)"
    )
    many = Segmentation(SHAPE, AFFINE)
    for number in range(9):
        many.add("many", f"part_{number}", None, LIVER)
    assert repr(many).endswith("many/part_5 0.1 ml, 3 more)")
    assert repr(Segmentation(SHAPE, AFFINE)) == "Segmentation(6 × 7 × 8)"


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_any_mask_survives_cropping(seed, density):
    mask = np.random.default_rng(seed).random(SHAPE) < density
    segmentation = Segmentation(SHAPE, AFFINE)
    segmentation.add("spleen", "spleen", None, mask)
    box, cropped = segmentation.cropped("spleen")
    assert np.array_equal(segmentation["spleen"], mask)
    assert cropped.size <= mask.size
    assert all(cropped.any(axis=axis).any() for axis in range(3)) == mask.any()
    assert np.array_equal(mask[box], cropped)


def test_masks_are_copies():
    mask = LIVER.copy()
    segmentation = Segmentation(SHAPE, AFFINE)
    segmentation.add("liver", "liver", None, mask)
    mask[:] = False
    assert np.array_equal(segmentation["liver"], LIVER)


def test_only_the_filled_part_of_a_mask_is_kept():
    _, cropped = two_tasks().cropped("liver")
    assert cropped.shape == (3, 4, 4)
    assert cropped.flags.c_contiguous


def test_volumes_and_bounding_boxes_follow_from_the_voxels():
    segmentation = two_tasks()
    assert segmentation.voxel_count("liver") == 48
    assert segmentation.volume_ml("liver") == pytest.approx(48 * 1.8 / 1000)
    box = segmentation.bounding_box_mm("liver")
    assert np.array(box) == pytest.approx(
        np.array(
            [
                [10 - 0.8 * 6.5, 10 - 0.8 * 2.5],
                [20 - 0.9 * 5.5, 20 - 0.9 * 1.5],
                [30 + 2.5 * 0.5, 30 + 2.5 * 3.5],
            ]
        )
    )


def test_the_bounding_box_of_an_oblique_mask_is_that_of_its_voxels():
    """Not that of the box of voxels around them, whose corners reach further."""
    affine = np.array([[0, -0.6, 0.8, 5], [0, 0.8, 0.6, -7], [2, 0, 0, 100], [0, 0, 0, 1.0]])
    segmentation = Segmentation((3, 20, 20), affine)
    mask = np.zeros((3, 20, 20), bool)
    mask[1, np.arange(2, 18), np.arange(3, 19)] = True  # along the diagonal of its box
    segmentation.add("task", "liver", None, mask)
    first, last = ((affine @ (1, row, row + 1, 1))[:3] for row in (2, 17))
    half = np.array([0.7, 0.7, 1])
    low, high = np.minimum(first, last) - half, np.maximum(first, last) + half
    assert np.array(segmentation.bounding_box_mm("liver")) == pytest.approx(np.array([low, high]).T)


def test_nothing_found_is_a_result_without_volume_and_box():
    segmentation = two_tasks()
    assert segmentation.voxel_count("colon_tumor") == 0
    assert segmentation.volume_ml("colon_tumor") == 0
    assert segmentation.bounding_box_mm("colon_tumor") is None


def test_names_tell_tasks_apart_only_where_needed():
    segmentation = two_tasks()
    assert segmentation.display_name("liver") == "liver"
    assert segmentation.display_name(("hepatic vessel", "liver_tumor")) == "liver tumor (hepatic vessel)"
    assert segmentation.identifier("colon_tumor") == "colon_tumor"
    assert segmentation.identifier(("hepatic vessel", "liver_tumor")) == "hepatic_vessel-liver_tumor"
    assert segmentation.structure_of("colon_tumor").is_lesion


def test_masks_of_like_names_have_files_of_their_own(tmp_path):
    segmentation = Segmentation(SHAPE, AFFINE)
    keys = [("a b", "liver"), ("a_b", "liver"), ("A b", "liver"), ("", "Spleen"), ("", "spleen")]
    for number, key in enumerate(keys):
        segmentation.add(*key, None, np.arange(np.prod(SHAPE)).reshape(SHAPE) == number)
    names = ["a_b-liver", "a_b-liver_2", "A_b-liver_3", "Spleen", "spleen_2"]
    assert [segmentation.identifier(key) for key in keys] == names
    write_segmentation(tmp_path / "masks", segmentation)
    back = read_segmentation(tmp_path / "masks")
    assert all(np.array_equal(back[key], segmentation[key]) for key in keys)


@pytest.mark.parametrize(
    ("structure", "name"),
    [
        ("../../escaped", ".._.._escaped"),
        ("..", "_"),
        (". ", "_"),
        ("", "_"),
        ("/etc/liver", "_etc_liver"),
        ('C:\\a*b?"<c>\n', "C__a_b___c__"),
        ("Left Kidney-2 (é)", "Left Kidney-2 (é)"),
    ],
)
@pytest.mark.parametrize("tasks", [["abdomen"], ["a", "../b"]])
def test_no_name_of_a_structure_leads_out_of_the_folder(tmp_path, tasks, structure, name):
    segmentation = Segmentation(SHAPE, AFFINE)
    for task in tasks:
        segmentation.add(task, structure, None, LIVER)
    write_segmentation(tmp_path / "in" / "masks", segmentation)
    names = [name] if len(tasks) == 1 else [f"a-{name}", f".._b-{name}"]
    assert [segmentation.identifier(key) for key in segmentation] == names
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"in/masks/labels.csv", *(f"in/masks/{name}.nii.gz" for name in names)}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("liver_tumor", r"Several tasks found liver_tumor \(liver/liver_tumor, hepatic vessel/liver_tumor\)"),
        ("spleen", r"has no spleen; it holds liver/liver, .*, colon/colon_tumor\."),
        (("kidney", "liver_tumor"), "has no kidney/liver_tumor"),
        (0, "has no 0; it holds"),
        ((0, "liver"), "has no 0/liver; it holds"),
    ],
)
def test_a_name_that_is_missing_or_ambiguous_lists_the_choices(key, sentence):
    with pytest.raises(InputError, match=sentence):
        two_tasks()[key]


def test_an_empty_segmentation_says_that_it_holds_nothing():
    with pytest.raises(InputError, match="it holds nothing"):
        Segmentation(SHAPE, AFFINE)["liver"]


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        (None, (6, 7, 9)),
        (np.s_[0:2, 0:2, 0:2], (2, 2, 3)),
        (np.s_[5:7, 0:2, 0:2], (2, 2, 2)),
        (np.s_[-2:0, 0:2, 0:2], (2, 2, 2)),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(box, shape):
    with pytest.raises(InputError, match="does not fill"):
        Segmentation(SHAPE, AFFINE).add("liver", "liver", box, np.ones(shape, bool))


@pytest.mark.parametrize("mask", [LIVER.astype(np.uint8), LIVER * 1.0, Volume(LIVER, AFFINE), LIVER.tolist()])
def test_a_mask_may_be_of_zeros_and_ones(mask):
    segmentation = Segmentation(SHAPE, AFFINE)
    segmentation.add("liver", "liver", None, mask)
    assert np.array_equal(segmentation["liver"], LIVER)


@pytest.mark.parametrize("mask", [np.full(SHAPE, 0.2), LIVER * np.nan, LIVER * 2, np.full(SHAPE, "1")])
def test_scores_and_labels_are_no_masks(mask):
    with pytest.raises(InputError, match=r"mask of liver holds other values than 0 and 1; .*scores > 0\.5"):
        Segmentation(SHAPE, AFFINE).add("liver", "liver", None, mask)


def test_a_mask_is_added_once():
    with pytest.raises(InputError, match="holds liver of the task liver already"):
        two_tasks().add("liver", "liver", None, LIVER)


def test_a_segmentation_needs_a_sound_affine():
    with pytest.raises(InputError, match="spacing"):
        Segmentation(SHAPE, np.diag((1.0, 0, 1, 1)))
