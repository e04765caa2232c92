"""The labels of a model's masks in label maps, which do not depend on the tasks asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import Inference, Manifest
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.segmentation_files.label_values import label_values
from PartialSegLib.task import Task
from PartialSegLib.volume import read_volume, write_volume

SHAPE = (4, 5, 6)


def softmax_manifest(*tasks: Task) -> Manifest:
    inference = Inference((16, 16, 16), activation="softmax")
    return dataclasses.replace(mots_manifest({}), inference=inference, tasks=tasks)


def test_labels_count_over_all_tasks_in_the_order_of_writing() -> None:
    values = label_values(mots_manifest({}))

    organs = [("liver", "liver"), ("kidney", "kidney"), ("pancreas", "pancreas"), ("spleen", "spleen")]
    assert [values[key] for key in organs] == [1, 2, 3, 4]
    assert values["hepatic vessel", "hepatic_vessel"] == 5
    assert list(values.values()) == list(range(1, len(values) + 1))
    assert list(values)[-1][1].endswith("_tumor")


def test_one_softmax_keeps_the_labels_of_its_data_set() -> None:
    task = Task("abdomen", {"liver_tumor": 2, "liver": 1, "spleen": 3})

    assert label_values(softmax_manifest(task)) == {
        ("abdomen", "liver_tumor"): 2,
        ("abdomen", "liver"): 1,
        ("abdomen", "spleen"): 3,
    }


def test_the_channels_of_several_softmax_tasks_are_no_labels() -> None:
    tasks = Task("liver", {"liver": 1, "liver_tumor": 2}), Task("spleen", {"spleen": 1})

    values = label_values(softmax_manifest(*tasks))

    assert values == {("liver", "liver"): 1, ("spleen", "spleen"): 2, ("liver", "liver_tumor"): 3}


def test_a_channel_0_is_no_label_since_that_is_the_background() -> None:
    task = Task("abdomen", {"liver": 0, "spleen": 1})

    assert label_values(softmax_manifest(task)) == {("abdomen", "liver"): 1, ("abdomen", "spleen"): 2}


def found(*masks: tuple[str, str, int]) -> Segmentation:
    """Each mask one column longer than the one before, on top of each other."""
    segmentation = Segmentation(SHAPE, np.eye(4))
    for task, structure, columns in masks:
        mask = np.zeros(SHAPE, bool)
        mask[1:3, 1:3, :columns] = True
        segmentation.add(task, structure, None, mask)
    return segmentation


def test_a_label_map_of_some_tasks_has_the_labels_of_that_of_all(tmp_path: Path) -> None:
    segmentation = found(("spleen", "spleen", 3))
    segmentation.label_values = label_values(mots_manifest({}))
    write_segmentation(tmp_path / "spleen.nii.gz", segmentation)

    assert set(np.unique(read_volume(tmp_path / "spleen.nii.gz").array)) == {0, 4}
    assert read_segmentation(tmp_path / "spleen.nii.gz").voxel_count("spleen") == 12


def test_a_tumour_with_a_smaller_label_than_its_organ_is_written_over_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segmentation = found(("abdomen", "liver_tumor", 2), ("abdomen", "liver", 4))
    segmentation.label_values = {("abdomen", "liver_tumor"): 1, ("abdomen", "liver"): 7}
    write_segmentation(tmp_path / "liver.nii.gz", segmentation)
    labels = read_volume(tmp_path / "liver.nii.gz").array
    back = read_segmentation(tmp_path / "liver.nii.gz")

    assert (np.count_nonzero(labels == 1), np.count_nonzero(labels == 7)) == (8, 8)
    assert all(np.array_equal(back[key], segmentation[key]) for key in segmentation)
    assert not caplog.messages


@pytest.mark.parametrize("task", ["organs", "lesions"])
@pytest.mark.parametrize(
    ("liver", "tumor", "kept", "bare"),
    [
        (np.s_[0:4], np.s_[1:3], np.s_[0:4], np.s_[0:4]),  # the tumour within
        (np.s_[0:2], np.s_[2:3], np.s_[0:2], np.s_[0:3]),  # beside
        (np.s_[0:3], np.s_[2:4], np.s_[0:2], np.s_[0:4]),  # half of it within: both are as far from the truth
        (np.s_[0:0], np.s_[2:4], np.s_[0:0], np.s_[2:4]),  # alone
    ],
)
def test_an_organ_gets_a_tumour_back_by_its_volume_or_without_one_by_its_task(
    tmp_path: Path, task: str, liver: slice, tumor: slice, kept: slice, bare: slice
) -> None:
    segmentation = Segmentation(SHAPE, np.diag((10.0, 10, 10, 1)))
    masks = np.zeros((4, *SHAPE), bool)
    for mask, slices in zip(masks, (liver, tumor, kept, bare), strict=True):
        mask[slices] = True
    segmentation.add("organs", "liver", None, masks[0])
    segmentation.add(task, "liver_tumor", None, masks[1])
    write_segmentation(tmp_path / "map.nii.gz", segmentation)
    back = read_segmentation(tmp_path / "map.nii.gz")

    assert np.array_equal(back["liver"], masks[2])
    assert np.array_equal(back["liver_tumor"], masks[1])

    table = tmp_path / "map.labels.csv"
    rows = [line.split(",")[:3] for line in table.read_text(encoding="utf-8").splitlines()]
    table.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    without_volume = read_segmentation(tmp_path / "map.nii.gz")["liver"]

    assert np.array_equal(without_volume, masks[3] if task == "organs" else masks[0] & ~masks[1])


def test_an_organ_that_was_enlarged_by_hand_keeps_the_tumour_of_its_task(tmp_path: Path) -> None:
    segmentation = found(("liver", "liver_tumor", 2), ("liver", "liver", 4))
    write_segmentation(tmp_path / "map.nii.gz", segmentation)
    labels = read_volume(tmp_path / "map.nii.gz")
    labels.array[0] = 1
    write_volume(tmp_path / "map.nii.gz", labels)

    assert read_segmentation(tmp_path / "map.nii.gz").voxel_count("liver") == 16 + 30


def test_labels_above_255_are_written_as_they_are(tmp_path: Path) -> None:
    segmentation = found(("", "spleen", 3), ("", "liver", 2))
    segmentation.label_values = {("", "spleen"): 9, ("", "liver"): 32767}
    write_segmentation(tmp_path / "two.nii.gz", segmentation)

    assert set(np.unique(read_volume(tmp_path / "two.nii.gz").array)) == {0, 9, 32767}
    assert np.array_equal(read_segmentation(tmp_path / "two.nii.gz")["liver"], segmentation["liver"])


def test_where_organs_overlap_the_larger_label_wins_whatever_came_first(tmp_path: Path) -> None:
    written = []
    for name, order in (("a", 1), ("b", -1)):
        segmentation = found(*[("", "spleen", 3), ("", "liver", 2)][::order])
        assert (segmentation["liver"] & segmentation["spleen"]).any()
        segmentation.label_values = {("", "spleen"): 9, ("", "liver"): 4}
        write_segmentation(tmp_path / f"{name}.nii.gz", segmentation)
        written.append(read_volume(tmp_path / f"{name}.nii.gz").array)

    assert np.array_equal(*written)
    assert np.count_nonzero(written[0] == 9) == segmentation.voxel_count("spleen")


@pytest.mark.parametrize("largest", [None, 0, 32768])
def test_without_all_values_or_with_too_large_ones_masks_are_numbered(
    tmp_path: Path, largest: int | None
) -> None:
    segmentation = found(("", "spleen", 3), ("", "liver", 2))
    segmentation.label_values = {("", "spleen"): 9} | (
        {("", "liver"): largest} if largest is not None else {}
    )
    write_segmentation(tmp_path / "two.nii.gz", segmentation)

    assert set(np.unique(read_volume(tmp_path / "two.nii.gz").array)) == {0, 1, 2}
