"""Segmentations that other programs wrote, and files that only look like one."""

from pathlib import Path

import nrrd
import numpy as np
import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.segmentation import Segmentation, read_segmentation, write_segmentation
from PartialSegLib.volume import Volume, write_volume

LIVER = np.zeros((3, 4, 5), bool)
LIVER[0:2, 0:2, 0:2] = True


def test_masks_without_a_table_are_named_by_their_files(tmp_path):
    mask = Volume(LIVER, np.eye(4))
    for name in ("liver.nii.gz", "kidney-kidney_tumor.nrrd"):
        write_volume(tmp_path / name, mask)
    assert read_segmentation(tmp_path).keys() == [("kidney", "kidney_tumor"), ("", "liver")]
    assert np.array_equal(read_segmentation(tmp_path / "liver.nii.gz")["liver"], mask.array)


def test_segments_made_elsewhere_are_named_by_their_segments(tmp_path):
    segmentation = Segmentation(LIVER.shape, np.eye(4))
    segmentation.add("liver", "liver", None, LIVER)
    segmentation.add("spleen", "spleen", None, ~LIVER)
    write_segmentation(tmp_path / "ours.seg.nrrd", segmentation)
    data, header = nrrd.read(str(tmp_path / "ours.seg.nrrd"))
    header = {name: value for name, value in header.items() if not name.endswith("_Tags")}
    header["Segment0_Name"] = "Left Ventricle (LV)"
    nrrd.write(str(tmp_path / "theirs.seg.nrrd"), data, header)
    segmentation = read_segmentation(tmp_path / "theirs.seg.nrrd")
    assert segmentation.keys() == [("", "left_ventricle_lv"), ("", "spleen")]
    assert segmentation.structure_of("left_ventricle_lv").type.meaning == "Tissue"


def text_file(path: Path) -> None:
    path.write_text("not an image")


def plain_nrrd(path: Path) -> None:
    nrrd.write(str(path), np.zeros((3, 4, 5), np.uint8))


def label_map_without_table(path: Path) -> None:
    write_volume(path, Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)))


def label_map_with_another_table(path: Path) -> None:
    label_map_without_table(path)
    path.with_name("labels.labels.csv").write_text("number,organ\n1,liver\n")


def label_map_with_named_labels(path: Path) -> None:
    label_map_without_table(path)
    path.with_name("labels.labels.csv").write_text("label,task,structure\none,liver,liver\n")


def folder_without_masks(path: Path) -> None:
    path.mkdir()


def folder_on_two_grids(path: Path) -> None:
    path.mkdir()
    write_volume(path / "liver.nii.gz", Volume(LIVER, np.eye(4)))
    write_volume(path / "spleen.nii.gz", Volume(LIVER, np.diag((2.0, 1, 1, 1))))


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("missing.seg.nrrd", lambda path: None, "missing, truncated or damaged"),
        ("text.seg.nrrd", text_file, "missing, truncated or damaged"),
        ("plain.seg.nrrd", plain_nrrd, "holds no segments"),
        ("missing.nii.gz", lambda path: None, "no such file"),
        ("labels.nii.gz", label_map_without_table, "needs its NAME.labels.csv"),
        ("labels.nii.gz", label_map_with_another_table, "needs the columns label, task and structure"),
        ("labels.nii.gz", label_map_with_named_labels, "'one' is no label"),
        ("empty", folder_without_masks, "holds no masks"),
        ("grids", folder_on_two_grids, "spleen.nii.gz: The mask lies on another grid"),
    ],
)
def test_a_file_without_segmentation_is_refused_with_its_sentence(tmp_path, name, make, sentence):
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence):
        read_segmentation(tmp_path / name)
