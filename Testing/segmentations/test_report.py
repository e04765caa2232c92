import json
import os

import numpy as np
import pytest

from PartialSegLib import InputError, Segmentation, __version__
from PartialSegLib.report import build_report, write_report


@pytest.fixture
def segmentation():
    affine = np.array([[0, 0, 2.0, -10], [0, 3.0, 0, -20], [5.0, 0, 0, 100], [0, 0, 0, 1]])
    result = Segmentation((4, 5, 6), affine, {"model": "tiny", "weights_sha256": "00ff"})
    result.add("liver", "liver", (slice(1, 3), slice(1, 4), slice(0, 5)), np.ones((2, 3, 5), bool))
    result.add("liver", "liver_tumor", None, np.zeros((4, 5, 6), bool))
    return result


def test_a_mask_is_described_by_its_size_and_place_in_mm(segmentation):
    liver, _ = build_report(segmentation, {}, "ct.nii.gz")["structures"]
    assert liver == {
        "task": "liver",
        "structure": "liver",
        "name": "liver",
        "voxels": 30,
        "volume_ml": 0.9,
        "bounding_box_mm": {"R": [-11, -1], "A": [-18.5, -9.5], "S": [102.5, 112.5]},
    }


def test_nothing_found_is_a_result(segmentation):
    tumor = build_report(segmentation, {}, "ct.nii.gz")["structures"][1]
    assert (tumor["voxels"], tumor["volume_ml"], tumor["bounding_box_mm"]) == (0, 0, None)


def test_the_report_says_what_it_was_made_with(segmentation):
    report = build_report(segmentation, {"read": 0.12345, "encode": 2.0}, "ct.nii.gz")
    assert report["source"] == "ct.nii.gz"
    assert report["provenance"] == {"model": "tiny", "weights_sha256": "00ff"}
    assert report["seconds"] == {"read": 0.123, "encode": 2.0}
    assert report["versions"]["partialseg"] == __version__
    assert report["versions"].keys() >= {"python", "torch", "numpy", "SimpleITK"}


def test_the_file_is_the_report(segmentation, tmp_path):
    report = build_report(segmentation, {"read": 1.0}, os.fsdecode(b"P\xe9ter \xc3\xa9.nii.gz"))
    write_report(tmp_path / "new" / "report.json", report)
    assert json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8")) == report


def test_a_report_that_cannot_be_written_leaves_nothing(segmentation, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        write_report(tmp_path / "file" / "report.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
