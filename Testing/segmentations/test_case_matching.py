"""Which segmentation is compared with which, by names and by the folders of data sets."""

import numpy as np
import pytest

from PartialSegLib import InputError, Segmentation, Volume, write_segmentation, write_volume
from PartialSegLib.evaluation.case_matching import matched_cases

LIVER = np.ones((2, 3, 4), bool)


@pytest.fixture
def folders(tmp_path):
    liver = Segmentation(LIVER.shape, np.eye(4))
    liver.add("liver", "liver", None, LIVER)
    for name in (
        "predictions/a.seg.nrrd",
        "predictions/b",
        "references/a.nii.gz",
        "references/b.seg.nrrd",
    ):
        write_segmentation(tmp_path / name, liver)
    return tmp_path / "predictions", tmp_path / "references"


def test_files_and_folders_are_matched_by_name(folders):
    assert [(case, p.name, r.name) for case, p, r in matched_cases(*folders)[0]] == [
        ("a", "a.seg.nrrd", "a.nii.gz"),
        ("b", "b", "b.seg.nrrd"),
    ]


def test_single_segmentations_are_one_case(folders):
    predictions, references = folders
    for prediction in (predictions / "a.seg.nrrd", predictions / "b"):
        assert matched_cases(prediction, references / "a.nii.gz") == (
            [("", prediction, references / "a.nii.gz")],
            [],
        )


def test_a_folder_of_masks_without_a_table_is_one_case(folders):
    (folders[0] / "b" / "labels.csv").unlink()
    assert len(matched_cases(folders[0] / "b", folders[1] / "a.nii.gz")[0]) == 1


def test_a_reference_without_prediction_is_left_out_unless_all_are(folders, caplog):
    (folders[0] / "a.seg.nrrd").unlink()
    for number in range(10):
        (folders[1] / f"x{number}").mkdir()
    pairs, missing = matched_cases(*folders)
    assert ([case for case, _, _ in pairs], len(missing)) == (["b"], 11)
    names = ", ".join(["a", *(f"x{number}" for number in range(9)), "…"])
    assert caplog.messages == [f"11 references have no prediction and are left out: {names}."]
    (folders[0] / "b").rename(folders[0] / "y")
    with pytest.raises(InputError, match=r"no prediction for a, b, x0, .*, …; give each the name of its"):
        matched_cases(*folders)


def test_images_of_nnunet_and_capital_letters_are_matched(folders):
    predictions, references = folders
    (predictions / "a.seg.nrrd").rename(predictions / "a_0000.seg.nrrd")
    (references / "b.seg.nrrd").rename(references / "B.seg.nrrd")
    assert [(case, p.name) for case, p, _ in matched_cases(*folders)[0]] == [
        ("B", "b"), ("a", "a_0000.seg.nrrd")
    ]  # fmt: skip


def test_what_macos_packs_along_is_no_case(folders):
    (folders[1] / "._a.nii.gz").touch()
    (folders[1] / "__MACOSX").mkdir()
    assert [case for case, _, _ in matched_cases(*folders)[0]] == ["a", "b"]


def test_two_files_of_one_case_are_refused(folders):
    (folders[0] / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"holds a\.nii\.gz and a\.seg\.nrrd of one case; keep one"):
        matched_cases(*folders)


def test_a_folder_of_one_mask_in_capital_letters_is_one_case(folders, tmp_path):
    write_volume(tmp_path / "masks" / "Liver.nii.gz", Volume(LIVER, np.eye(4)))
    assert len(matched_cases(tmp_path / "masks", folders[1] / "a.nii.gz")[0]) == 1


def test_a_prediction_without_reference_is_reported(folders, caplog):
    (folders[1] / "b.seg.nrrd").unlink()
    assert len(matched_cases(*folders)[0]) == 1
    assert "Without a reference and left out: b" in caplog.text


def test_a_folder_and_a_file_are_refused(folders):
    with pytest.raises(InputError, match="two of a kind"):
        matched_cases(folders[0], folders[1] / "a.nii.gz")


def test_an_empty_folder_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no segmentations"):
        matched_cases(tmp_path / "empty", folders[1])


@pytest.mark.parametrize(
    ("predictions", "references", "pairs"),
    [
        (
            ["s0_ct.seg.nrrd"],
            ["s0/ct.nii.gz", "s0/segmentations/"],
            {"s0": ("s0_ct.seg.nrrd", "s0/segmentations")},
        ),
        (
            ["case_1_imaging.nii.gz"],
            ["case_1/imaging.nii.gz", "case_1/segmentation.nii.gz"],
            {"case_1": ("case_1_imaging.nii.gz", "case_1/segmentation.nii.gz")},
        ),
        (
            ["volume-1.seg.nrrd", "volume-10.seg.nrrd"],
            ["volume-1.nii", "segmentation-1.nii", "segmentation-10.nii"],
            {
                "segmentation-1": ("volume-1.seg.nrrd", "segmentation-1.nii"),
                "segmentation-10": ("volume-10.seg.nrrd", "segmentation-10.nii"),
            },
        ),
        (["img0001_x.nii"], ["label0001.nii"], {"label0001": ("img0001_x.nii", "label0001.nii")}),
        (
            ["a_2_ct.nii", "b_x.nii", "b_y.nii"],
            ["a.nii", "a_2.nii", "b.nii"],
            {"a_2": ("a_2_ct.nii", "a_2.nii")},
        ),
        (["a_2.nii", "a_2_x.nii"], ["a.nii", "a_2.nii"], {"a_2": ("a_2.nii", "a_2.nii")}),
        (
            ["Total/segmentations/"],
            ["Total/segmentations/", "Total/ct.nii"],
            {"Total": ("Total/segmentations",) * 2},
        ),
    ],
)
def test_folders_of_data_sets_and_longer_names_are_matched(tmp_path, predictions, references, pairs):
    folders = tmp_path / "p", tmp_path / "r"
    for folder, names in zip(folders, (predictions, references), strict=True):
        for name in names:
            (folder / name if name.endswith("/") else (folder / name).parent).mkdir(
                parents=True, exist_ok=True
            )
            if not name.endswith("/"):
                (folder / name).touch()
    found, _ = matched_cases(*folders)
    places = {case: (p.relative_to(folders[0]), r.relative_to(folders[1])) for case, p, r in found}
    assert {case: (p.as_posix(), r.as_posix()) for case, (p, r) in places.items()} == pairs


def test_a_case_folder_of_totalsegmentator_is_one_segmentation(tmp_path):
    masks = tmp_path / "s0" / "segmentations"
    for path in (masks / "liver.nii.gz", tmp_path / "s0" / "ct.nii.gz"):
        write_volume(path, Volume(LIVER, np.eye(4)))
    assert matched_cases(masks, tmp_path / "s0") == ([("", masks, masks)], [])
