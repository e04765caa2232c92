"""Merged label maps: original labels win, organs include tumours; which pseudo-labels are distrusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from PartialSegLib import InputError, Segmentation, Volume, write_volume
from PartialSegLib.training.collection import Case, Collection, DataSet
from PartialSegLib.training.pseudo_labels.merging import merge_labels, plan_merging
from PartialSegLib.training.pseudo_labels.record import StructureRecord
from PartialSegLib.training.pseudo_labels.reliability import (
    ReliabilityLimits,
    disagreement,
    doubts,
    labelled_cases,
    volume_limits,
)
from PartialSegLib.training.pseudo_labels.structure_relations import lies_within, may_share_voxels

STRUCTURES = ["liver", "liver_tumor", "hepatic_vessel", "spleen", "kidney", "left_kidney", "tumor", "uncoded"]


def merged(data_set: DataSet, added: dict[str, list[int]], labels: list[int] | None, width: int = 6):
    """Merge a row of voxels; `added` has the voxels of each predicted structure.

    Returns the voxels of each structure as the new rules see them, the labels, and the conflicts.
    """
    merging = plan_merging(data_set, list(added))
    box = (slice(0, 1), slice(0, 1), slice(0, width))
    masks = {name: (box, np.isin(np.arange(width), voxels)[None, None]) for name, voxels in added.items()}
    given = None if labels is None else np.array(labels, np.int16)[None, None]
    result = merge_labels(merging, given, masks, (1, 1, width))
    voxels = {
        name: np.flatnonzero(np.isin(result.labels, values)).tolist()
        for name, values in merging.data_set.structures.items()
    }
    assert {name: len(found) for name, found in voxels.items()} == result.voxels
    return voxels, result.labels[0, 0].tolist(), result.conflicts


def test_a_predicted_organ_fills_the_background_only():
    colon = DataSet("msd-colon", "colon", {"colon_tumor": (1,)})
    voxels, labels, conflicts = merged(colon, {"spleen": [1, 2, 3]}, [0, 0, 0, 1, 1, 0])
    assert voxels == {"colon_tumor": [3, 4], "spleen": [1, 2]}
    assert labels == [0, 2, 2, 1, 1, 0]
    assert conflicts == {"spleen": 1}


def test_a_predicted_organ_includes_all_of_its_original_tumour():
    tumours = DataSet("tumours", "liver", {"liver_tumor": (1,)})
    voxels, labels, conflicts = merged(tumours, {"liver": [1, 2, 3]}, [0, 0, 0, 1, 1, 0])
    assert voxels == {"liver_tumor": [3, 4], "liver": [1, 2, 3, 4]}
    assert labels == [0, 2, 2, 1, 1, 0]
    assert conflicts == {"liver": 0}


def test_a_predicted_tumour_stays_in_the_original_organ_which_keeps_its_voxels():
    livers = DataSet("livers", "liver", {"liver": (7,)})
    voxels, labels, conflicts = merged(livers, {"liver_tumor": [2, 3, 4]}, [0, 7, 7, 7, 0, 0])
    assert voxels == {"liver": [1, 2, 3], "liver_tumor": [2, 3]}
    assert labels == [0, 7, 8, 8, 0, 0]
    assert conflicts == {"liver_tumor": 1}


def test_a_lesion_of_no_named_organ_may_lie_in_any():
    tumours = DataSet("flare", "flare", {"tumor": (14,)})
    voxels, labels, _ = merged(tumours, {"liver": [1, 2], "spleen": [3]}, [0, 0, 14, 14, 14, 0])
    assert voxels == {"tumor": [2, 3, 4], "liver": [1, 2], "spleen": [3]}
    assert labels[4] == 14
    assert len(set(labels)) == 5


def test_vessels_may_leave_the_organ():
    vessels = DataSet("vessels", "vessels", {"hepatic_vessel": (1,)})
    assert merged(vessels, {"liver": [1, 2]}, [0, 0, 1, 1, 0, 0])[0] == {
        "hepatic_vessel": [2, 3],
        "liver": [1, 2],
    }
    livers = DataSet("livers", "liver", {"liver": (1, 2), "liver_tumor": (2,)})
    voxels, _, conflicts = merged(livers, {"hepatic_vessel": [1, 2, 3]}, [0, 1, 2, 0, 0, 0])
    assert voxels["hepatic_vessel"] == [1, 3]
    assert conflicts == {"hepatic_vessel": 1}


def test_sides_belong_to_the_organ():
    kidneys = DataSet("kidneys", "kidney", {"kidney": (1,)})
    voxels, _, conflicts = merged(kidneys, {"left_kidney": [1, 2]}, [0, 0, 1, 1, 0, 0])
    assert voxels == {"kidney": [2, 3], "left_kidney": [2]}
    assert conflicts == {"left_kidney": 1}


def test_ignored_voxels_stay_ignored_and_unlisted_values_become_background():
    data_set = DataSet("some", "some", {"colon_tumor": (1,)}, ignore=(255,))
    voxels, labels, conflicts = merged(data_set, {"spleen": [0, 1, 2]}, [255, 9, 0, 9, 1, 255])
    assert voxels["spleen"] == [1, 2]
    assert labels == [255, 256, 256, 0, 1, 255]
    assert conflicts == {"spleen": 0}


def test_among_predictions_lesions_replace_other_organs_and_later_ones_earlier_ones():
    nothing = DataSet("new", "new", {})
    added = {"liver_tumor": [1, 2], "liver": [0, 1], "spleen": [1, 3], "stomach": [3, 4]}
    voxels, _, _ = merged(nothing, added, None)
    assert voxels == {"liver_tumor": [1, 2], "liver": [0, 1, 2], "spleen": [], "stomach": [3, 4]}


@pytest.mark.parametrize(("values", "kind"), [((3,), "uint8"), ((255,), "uint16"), ((70000,), "int32")])
def test_label_maps_have_the_smallest_type_that_holds_the_values(values, kind):
    merging = plan_merging(DataSet("a", "a", {"liver": values}), ["spleen"])
    assert merging.values.dtype == kind
    assert merging.data_set.structures == {"liver": values, "spleen": (values[0] + 1,)}


@pytest.mark.parametrize("added", [["liver"], ["spleen", "spleen"]])
def test_what_is_there_cannot_be_added(added):
    with pytest.raises(InputError, match="which has it; leave it out"):
        plan_merging(DataSet("a", "a", {"liver": (1,)}), added)


def test_what_can_lie_nowhere_is_refused():
    data_set = DataSet("a", "a", {"liver": (1,), "liver_tumor": (1,)})
    with pytest.raises(InputError, match="kidney_tumor can lie nowhere"):
        plan_merging(DataSet("b", "b", {**data_set.structures, "kidney": (1,)}), ["kidney_tumor"])


@settings(max_examples=60)
@given(data=st.data())
def test_original_labels_always_win(data):
    names = data.draw(st.permutations(STRUCTURES))
    split = data.draw(st.integers(0, 3))
    annotated = {name: (number,) for number, name in enumerate(names[:split], 1)}
    added = names[split : split + data.draw(st.integers(1, 4))]
    data_set = DataSet("a", "a", annotated, ignore=(9,))
    labels = data.draw(st.lists(st.sampled_from([0, *range(1, split + 1), 9]), min_size=6, max_size=6))
    predicted = {name: data.draw(st.lists(st.integers(0, 5), unique=True)) for name in added}
    voxels, merged_labels, conflicts = merged(data_set, predicted, labels)
    for name, (value,) in annotated.items():
        assert voxels[name] == [number for number, label in enumerate(labels) if label == value]
    for number, (before, after) in enumerate(zip(labels, merged_labels, strict=True)):
        present = [name for name in voxels if number in voxels[name]]
        assert (before == 9) == (after == 9)
        assert not (before == 9 and present)
        for first in present:
            assert all(may_share_voxels(first, second) for second in present if second != first)
            assert all(outer in present for outer in voxels if lies_within(first, outer) and outer in added)
    for name in added:
        kept = set(voxels[name])
        assert len(kept & set(predicted[name])) + conflicts[name] <= len(predicted[name])


@pytest.mark.parametrize("first", STRUCTURES)
@pytest.mark.parametrize("second", STRUCTURES)
def test_relations_are_consistent(first, second):
    assert may_share_voxels(first, second) == may_share_voxels(second, first)
    assert not (lies_within(first, second) and lies_within(second, first))
    if lies_within(first, second):
        assert may_share_voxels(first, second)


def test_relations_follow_the_codes():
    assert lies_within("liver_tumor", "liver")
    assert lies_within("left_kidney", "kidney")
    assert not lies_within("kidney_tumor", "left_kidney")  # of which kidney is not known
    assert may_share_voxels("kidney_tumor", "left_kidney")
    assert not may_share_voxels("left_kidney", "right_kidney")
    assert not may_share_voxels("liver_tumor", "kidney_tumor")
    assert not may_share_voxels("liver_tumor", "hepatic_vessel")


def test_disagreement_is_one_minus_dice():
    first, second = (Segmentation((1, 1, 4), np.eye(4)[[2, 1, 0, 3]]) for _ in range(2))
    first.add("a", "spleen", None, np.array([[[True, True, False, False]]]))
    second.add("b", "spleen", None, np.array([[[False, True, False, False]]]))
    assert disagreement(first, ("a", "spleen"), second, ("b", "spleen")) == pytest.approx(1 / 3)
    assert doubts({"spleen": pseudo(2.0, 1 / 3)}, ReliabilityLimits({"spleen": 0.34})) == ()
    (text,) = doubts({"spleen": pseudo(2.0, 1 / 3)}, ReliabilityLimits({"spleen": 0.33}))
    assert text == "spleen: the predictions disagree by 0.333, above 0.33"


def test_volumes_of_labelled_cases_limit_those_of_pseudo_labels(tmp_path):
    cases = []
    for number, width in enumerate((10, 20, 30, 1000)):
        labels = np.zeros((1, 40, 50), np.uint8)
        labels.flat[:width] = 2
        write_volume(tmp_path / f"{number}.nii.gz", Volume(labels, np.diag([10.0, 10, 10, 1])))  # 1 ml each
        cases.append(Case(f"case{number}", "spleens", "image.nii.gz", f"{number}.nii.gz"))
    data_sets = {"spleens": DataSet("spleens", "spleen", {"spleen": (2,)})}
    collection = Collection("all", tmp_path, data_sets, (*cases, Case("empty", "spleens", "image.nii.gz")))
    references = labelled_cases(collection, ["spleen", "liver"], {"case3": ["spleen"]})
    assert references == {"spleen": cases[:3]}
    within = volume_limits(collection, references, (50, 100))
    assert within == {"spleen": (20, 30)}
    limits = ReliabilityLimits(volume_ml=within)
    assert [bool(doubts({"spleen": pseudo(ml)}, limits)) for ml in (19, 20, 30, 31)] == [
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(InputError, match="No training case is labelled for liver"):
        labelled_cases(collection, ["liver"], {})


def test_limits_are_checked():
    with pytest.raises(InputError, match="share from 0 to 1, not 2"):
        ReliabilityLimits({"spleen": 2})
    collection = Collection("all", None, {}, ())
    with pytest.raises(InputError, match="as 1 and 99, not 99 and 1"):
        volume_limits(collection, {}, (99, 1))


def test_original_labels_are_never_doubted():
    original = StructureRecord("original", 5, 5.0)
    assert doubts({"spleen": original}, ReliabilityLimits({"spleen": 0.0}, {"spleen": (90, 100)})) == ()


def pseudo(volume_ml: float, share: float | None = None) -> StructureRecord:
    return StructureRecord("pseudo", 1, volume_ml, "tiny 1", "0" * 64, 1, 0, share)
