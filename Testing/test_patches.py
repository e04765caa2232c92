"""Patches of a collection: a function of seed and index, labelled for what their data set knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from collection_on_disk import (
    DATA_SETS,
    LIVER,
    PREPROCESSING,
    SHAPE,
    TASKS,
    TUMOR,
    UNKNOWN,
    arrays,
    write_collection_files,
)
from torch.utils.data import DataLoader

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Task
from PartialSegLib.training.cases import Cases
from PartialSegLib.training.collection import Collection
from PartialSegLib.training.patches.augmentation import PRESETS, Augmentation
from PartialSegLib.training.patches.collection_cases import (
    CollectionCases,
    labelled_cases_of_tasks,
    whole_case,
)
from PartialSegLib.training.preparation.prepared_cases import prepare_collection

PATCH = (8, 8, 8)


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Collection:
    """Prepared in its folder: a case of livers, one of organs, one of spleens."""
    folder = tmp_path_factory.mktemp("collection")
    collection = write_collection_files(folder, a="livers", b="organs", c="spleens")
    prepare_collection(collection, PREPROCESSING, folder / "prepared")
    return collection


def patches(
    collection: Collection, length: int = 50, patch_size=PATCH, tasks=TASKS, **options
) -> CollectionCases:
    folder = collection.folder / "prepared"
    return CollectionCases(folder, collection, tasks, 2, patch_size, length=length, **options)


def only(collection: Collection, *names: str) -> Collection:
    return replace(collection, cases=tuple(case for case in collection.cases if case.name in names))


def same(one: Cases, other: Cases) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("preset", ["none", "nnunet"])
def test_a_patch_is_a_function_of_seed_and_index(collection, preset):
    data = patches(collection, augmentation=PRESETS[preset], seed=3)
    again = patches(collection, augmentation=PRESETS[preset], seed=3)
    other = patches(collection, augmentation=PRESETS[preset], seed=(3, 1))
    assert all(same(data[index], again[index]) for index in reversed(range(12)))
    assert not any(same(data[index], other[index]) for index in range(12))
    assert not same(data[0], data[1])


def test_workers_change_nothing(collection):
    data = patches(collection, 16, augmentation=PRESETS["dodnet"])
    alone = list(DataLoader(data, batch_size=None))
    helped = list(DataLoader(data, batch_size=None, num_workers=2))
    assert len(alone) == len(helped) == 16
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_shapes_and_types(collection, preset):
    for cases in (patches(collection, augmentation=PRESETS[preset])[index] for index in range(12)):
        assert (cases.image.shape, cases.image.dtype) == ((1, *PATCH), torch.float32)
        assert (cases.target.shape, cases.target.dtype) == ((1, 2, *PATCH), torch.bool)
        assert (cases.annotated.shape, cases.annotated.dtype) == ((1, 2), torch.bool)
        assert cases.tasks.shape == (1,)
        assert cases.voxels.dtype == cases.tissues.dtype == torch.int64
        assert cases.voxels.numel() == cases.tissues.numel() == 0


def test_only_what_the_data_set_lists_is_annotated(collection):
    annotated = {
        name: patches(only(collection, name), 1, tasks=tasks)[0].annotated.tolist()
        for name, tasks in (("a", TASKS[:1]), ("b", TASKS[:1]), ("c", TASKS[1:]))
    }
    assert annotated == {"a": [[True, True]], "b": [[True, False]], "c": [[True, False]]}


def test_targets_of_a_whole_case(collection):
    livers, organs, spleens = labelled_cases_of_tasks(
        collection.folder / "prepared", collection, TASKS, "training"
    )
    _, labels = arrays()
    cases = whole_case(livers, 2)
    np.testing.assert_array_equal(cases.target[0, 0].numpy(), (labels == 1) | (labels == 2))
    np.testing.assert_array_equal(cases.target[0, 1].numpy(), labels == 2)
    assert cases.ignored is None
    cases = whole_case(organs, 2)
    np.testing.assert_array_equal(cases.target[0, 0].numpy(), labels == 1)
    assert cases.ignored is not None
    np.testing.assert_array_equal(cases.ignored.numpy(), labels == 3)
    assert cases.target[0, 0][TUMOR].sum() == 0
    assert cases.ignored[UNKNOWN].all()
    assert [whole_case(case, 2).tasks.tolist() for case in (livers, organs, spleens)] == [[0], [0], [1]]
    np.testing.assert_allclose(cases.image[0].numpy(), arrays(1)[0] / 1000, atol=1e-3)


def test_foreground_is_as_frequent_as_asked_for(collection):
    def share(foreground: float) -> float:
        data = patches(only(collection, "a"), 120, tasks=TASKS[:1], place="voxel", foreground=foreground)
        return float(np.mean([bool(data[index].target[0, 1].any()) for index in range(120)]))

    anywhere, always = share(0.0), share(1.0)
    assert always > 0.5 + 0.3 * anywhere  # half of the patches are around tumour voxels
    assert share(0.5) == pytest.approx((anywhere + always) / 2, abs=0.14)


@pytest.mark.parametrize("preset", ["none", "nnunet"])
def test_turned_patches_keep_their_foreground(collection, preset):
    augmentation = replace(Augmentation(), rotation_probability=1.0 if preset == "nnunet" else 0.0)
    data = patches(
        only(collection, "a"), 60, tasks=TASKS[:1], place="voxel", foreground=1.0, augmentation=augmentation
    )
    assert all(data[index].target.any() for index in range(60))


@pytest.mark.parametrize(("sampling", "expected"), [("uniform", 4 / 5), ("sqrt", 2 / 3)])
def test_data_sets_are_drawn_as_asked_for(collection, tmp_path, sampling, expected):
    names = dict.fromkeys(("a", "b", "c", "d"), "livers") | {"e": "spleens"}
    many = write_collection_files(tmp_path, **names)
    prepare_collection(many, PREPROCESSING, tmp_path / "prepared")
    data = patches(many, 400, (2, 2, 2), case_sampling=sampling)
    drawn = Counter(int(data[index].tasks) for index in range(400))
    assert drawn[0] / 400 == pytest.approx(expected, abs=0.06)


def test_small_images_are_padded_with_what_is_outside_and_background(collection):
    size = (24, 24, 32)
    for padding, before in (("end", (0, 0)), ("both sides", (2, 2))):
        cases = patches(only(collection, "a"), 1, size, TASKS[:1], padding=padding)[0]
        inside = np.s_[before[0] : before[0] + SHAPE[0], :, before[1] : before[1] + SHAPE[2]]
        np.testing.assert_allclose(cases.image[0][inside].numpy(), arrays()[0] / 1000, atol=1e-3)
        outside = torch.ones(size, dtype=torch.bool)
        outside[inside] = False
        assert (cases.image[0][outside] == -1).all()
        assert not cases.target[0, :, outside].any()
        assert cases.target[0, 0][inside][LIVER].all()


def test_one_task_takes_every_data_set_and_several_only_their_own(collection):
    task = Task("everything", {"spleen": 0, "liver": 1})
    data = patches(collection, tasks=(task,))
    assert {int(data[index].tasks) for index in range(20)} == {0}
    with pytest.raises(InputError, match=r"data set livers trains the task liver, .*; did you mean livers"):
        patches(collection, tasks=(replace(TASKS[0], name="livers"), TASKS[1]))


def test_a_task_without_training_cases_is_named(collection):
    with pytest.raises(InputError, match="collection small has no labelled training cases for spleen; add"):
        patches(only(collection, "a", "b"))
    a, b, c = collection.cases
    validated = replace(collection, cases=(a, replace(b, split="validation"), c))
    assert len(patches(validated, 3, split="validation").cases) == 1
    with pytest.raises(InputError, match="no labelled validation cases for liver, spleen"):
        patches(collection, split="validation")


def test_a_data_set_needs_a_structure_of_its_task(collection):
    with pytest.raises(InputError, match="data set spleens has none of the structures of the task kidneys"):
        patches(only(collection, "c"), tasks=(Task("kidneys", {"kidney": 0}),))


def test_data_sets_by_name_are_those_of_the_collection(collection):
    assert {case.data_set.name for case in patches(collection).cases} == set(DATA_SETS)
