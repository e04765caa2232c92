"""Patches of a collection: a function of seed and index, labelled for what their data set knows."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

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
from threadpoolctl import threadpool_info, threadpool_limits
from torch.utils.data import DataLoader, Dataset, get_worker_info
from training_runs import tiny_config

from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Task
from PartialSegLib.networks import NETWORKS
from PartialSegLib.training.cases import Cases
from PartialSegLib.training.collection import Collection, DataSet, write_collection
from PartialSegLib.training.config import TrainingConfig
from PartialSegLib.training.data import batches, prepare, validation_cases
from PartialSegLib.training.label_bits import flags_by_shifts, from_bits, to_bits
from PartialSegLib.training.loop import data_workers
from PartialSegLib.training.loop.data_workers import check_shared_memory, loaded
from PartialSegLib.training.loop.workers import ALONE
from PartialSegLib.training.patches.augmentation import PRESETS, Augmentation
from PartialSegLib.training.patches.collection_cases import (
    CollectionCases,
    LabelledCase,
    labelled_cases_of_tasks,
)
from PartialSegLib.training.preparation.prepared_cases import prepare_collection
from PartialSegLib.training.train import make_manifest
from PartialSegLib.training.validation import describe_validation, validate
from PartialSegLib.volume import read_volume, write_volume

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
    other = patches(collection, augmentation=PRESETS[preset], seed=4)
    assert all(same(data[index], again[index]) for index in reversed(range(12)))
    assert not any(same(data[index], other[index]) for index in range(12))
    assert not same(data[0], data[1])


def test_a_turned_patch_lies_around_the_voxel_that_was_chosen(collection):
    turned = Augmentation(rotation_probability=1.0, rotation=30.0)
    tasks = (Task("liver", {"liver_tumor": 0}),)
    where = {"place": "voxel", "foreground": 1.0, "augmentation": turned}
    data = patches(only(collection, "a"), 60, (5, 5, 5), tasks, **where)
    middles = [data[index].target[0, 0, 2, 2, 2].item() for index in range(60)]
    assert np.mean(middles) > 0.6  # of a tumour 3 x 4 x 4 voxels large; half a voxel may be lacking


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


def whole_case(case: LabelledCase, num_structures: int) -> Cases:
    """Without augmentation or padding."""
    place = (0, 0, 0), case.case.summary.shape
    image, labels = (torch.from_numpy(part(*place)) for part in (case.case.read_image, case.case.read_labels))
    return case.with_labels(image, labels, num_structures)


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
    with pytest.raises(
        InputError, match=r"data set livers trains the task liver, .*; perhaps you meant livers"
    ):
        patches(collection, tasks=(replace(TASKS[0], name="livers"), TASKS[1]))
    with pytest.raises(InputError, match="data set spleens trains the task spleen, which the model does not"):
        patches(collection, tasks=TASKS[:1])


def test_a_task_without_training_cases_is_named(collection):
    message = r'small has no labelled training cases for spleen; add .* \(only_tasks=\["liver"\]\)\.'
    with pytest.raises(InputError, match=message):
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


def run_on(collection: Collection, folder: Path, **changes) -> TrainingConfig:
    """A configuration of training on a collection, whose file is written to a folder."""
    data_sets = {name: replace(data_set, ignore=(2, 3)) for name, data_set in collection.data_sets.items()}
    write_collection(folder / "c.json", replace(collection, data_sets=data_sets))
    files = {"collection": str(folder / "c.json"), "prepared": str(folder / "prepared")}
    return tiny_config(folder, synthetic=None, collection=files, **changes)


def with_colon(collection: Collection) -> Collection:
    """The collection whose case "colon" is labelled for that task."""
    colons = DataSet("colons", "colon", {"colon_tumor": (1,)})
    cases = tuple(
        replace(case, data_set="colons") if case.name == "colon" else case for case in collection.cases
    )
    return replace(collection, data_sets={**collection.data_sets, "colons": colons}, cases=cases)


def test_every_task_is_validated_if_there_is_a_case_for_it(tmp_path, caplog):
    names = dict.fromkeys("abcdefgh", "livers") | {"i": "organs", "j": "spleens", "k": "spleens"}
    collection = with_colon(write_collection_files(tmp_path, **names, colon="livers"))
    validated = {"a", "b", "c", "d", "i", "j"}
    cases = [replace(case, split="validation") for case in collection.cases if case.name in validated]
    trained = [case for case in collection.cases if case.name not in validated]
    config = run_on(replace(collection, cases=(*trained, *cases)), tmp_path)
    manifest = make_manifest(config)
    prepare(config, manifest)
    data = validation_cases(config, manifest, 2)
    on = (
        f"16 patches of {len(set(data.order))} cases, placed on the foreground; whole cases usually have less"
    )
    assert describe_validation(data).startswith(on)
    taken = [data.cases[number] for number in data.order[:10]]
    assert [case.task for case in taken] == [0, 2] * 5
    assert Counter(case.data_set.name for case in taken[::2]) in (
        {"livers": 3, "organs": 2},
        {"livers": 2, "organs": 3},
    )
    livers = [case.case.folder.name for case in taken if case.data_set.name == "livers"]
    assert len(set(livers)) == len(livers)
    assert validation_cases(config, manifest, 2).order == data.order
    assert set(caplog.messages) == {"Not validated, for want of validation cases or patches: colon."}


def test_a_run_does_without_validation_if_only_other_tasks_have_cases_for_it(tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="spleens", c="spleens")
    a, b, c = collection.cases
    collection = replace(collection, cases=(a, b, replace(c, split="validation")))
    config = run_on(collection, tmp_path, only_tasks=["liver"])
    manifest = make_manifest(config)
    prepare(config, manifest)
    assert validation_cases(config, manifest, 2) is None
    assert caplog.messages == ["Not validated, for want of validation cases or patches: liver."]


def test_cts_that_are_hardly_hu_are_named_before_the_training(tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="livers")
    volume = read_volume(tmp_path / collection.cases[0].image)
    write_volume(tmp_path / collection.cases[0].image, replace(volume, array=volume.array + np.int16(1024)))
    config = run_on(collection, tmp_path, only_tasks=["liver"])
    prepare(config, make_manifest(config))
    assert (
        "The values of 1 CTs are hardly HU, and a model trained on them will not fit others: a;"
        in caplog.text
    )


def test_a_task_without_training_cases_is_named_before_anything_is_prepared(tmp_path):
    config = run_on(write_collection_files(tmp_path, a="livers", b="spleens"), tmp_path)
    with pytest.raises(InputError, match="no labelled training cases for colon; add some"):
        prepare(config, make_manifest(config))
    assert not (tmp_path / "prepared").exists()


def test_what_a_run_will_not_learn_is_said(tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="spleens")
    other = replace(DATA_SETS["livers"], structures={"liver": (1, 2), "hcc": (2,)})
    collection = replace(collection, data_sets={**DATA_SETS, "livers": other})
    config = run_on(collection, tmp_path, only_tasks=["liver", "spleen"])
    prepare(config, make_manifest(config))
    unused, lacking = caplog.messages
    assert (
        unused
        == "Labels of the data set livers are not used, the task liver of the model does not have them: hcc."
    )
    assert lacking.startswith("No training case annotates liver/liver_tumor: the model will not learn this.")


def test_an_image_in_two_splits_is_found_among_cases_prepared_before(tmp_path):
    """As in a folder that two collections share, and one that an earlier version has filled."""
    collection = write_collection_files(tmp_path, a="livers", b="organs")
    a, b = collection.cases
    b = replace(b, image=a.image)
    for case in (a, b):
        config = run_on(replace(collection, cases=(case,)), tmp_path, only_tasks=["liver"])
        folder = prepare(config, make_manifest(config))
    both = replace(collection, cases=(a, replace(b, split="validation")))
    config = run_on(both, tmp_path, only_tasks=["liver"])
    with pytest.raises(InputError, match=r"b  organs  image in two splits  validation, the same .* as a \("):
        prepare(config, make_manifest(config))
    for file in folder.glob("*/case.json"):
        values = json.loads(file.read_text())
        del values["image_content"]
        file.write_text(json.dumps(values))
    assert prepare(config, make_manifest(config)) == folder


@pytest.mark.parametrize(("task", "name"), [("Liver", "Liver"), ("spleen", "spleens")])
def test_a_misspelt_task_is_refused(tmp_path, task, name):
    collection = write_collection_files(tmp_path, a="livers", b="organs", c="spleens")
    wrong = {**DATA_SETS, "organs": replace(DATA_SETS["organs"], task=name)}
    config = run_on(replace(collection, data_sets=wrong), tmp_path)
    with pytest.raises(
        InputError, match=f"data set organs trains the task {name}, the model has {task.lower()};"
    ):
        prepare(config, make_manifest(config))


def test_data_sets_of_other_tasks_are_left_out_aloud(tmp_path, caplog):
    collection = write_collection_files(tmp_path, a="livers", b="organs", c="spleens")
    kidneys = {**DATA_SETS, "organs": replace(DATA_SETS["organs"], task="kidney")}
    config = run_on(replace(collection, data_sets=kidneys), tmp_path, only_tasks=["liver"])
    folder = prepare(config, make_manifest(config))
    assert caplog.messages == [
        "The data set organs (1 cases) is left out: the model has no task kidney; to train liver on it, make "
        'the collection again with `--task "liver"`.'
    ]
    assert sorted(path.name[0] for path in folder.iterdir()) == ["a", "s"]


def test_a_damaged_case_is_one_sentence_from_a_data_worker(collection, tmp_path):
    shutil.copytree(collection.folder, tmp_path / "copy")
    data = patches(replace(collection, folder=tmp_path / "copy"), 30)
    drawn = data[0]
    name = "c" if drawn.tasks[0] == 0 else "a"
    (labels,) = (tmp_path / "copy" / "prepared").glob(f"{name}-*/labels.b2nd")
    labels.write_bytes(labels.read_bytes()[:60])
    config = tiny_config(tmp_path, workers=1, phases=[{"iterations": 30}])
    feed = batches(data, config, ALONE, 0)
    assert same(next(feed)[0], drawn)
    with pytest.raises(
        InputError, match=r"labels\.b2nd cannot be read .*; delete its folder and start again"
    ):
        list(feed)


def train_with_a_killed_worker(data: CollectionCases, config: TrainingConfig) -> None:
    others = set(multiprocessing.active_children())
    feed = batches(data, config, ALONE, 0)
    next(feed)
    (worker,) = set(multiprocessing.active_children()) - others
    worker.kill()
    list(feed)


def test_a_killed_data_worker_is_one_sentence(collection, tmp_path):
    config = tiny_config(tmp_path, workers=1, phases=[{"iterations": 5000}])
    with pytest.raises(InputError, match=r"prepares data has ended or hangs \(.*\), .*; choose fewer"):
        train_with_a_killed_worker(patches(collection, 5000), config)


class KilledAtTheEvent(Dataset[tuple[torch.Tensor]]):
    """Kills the second data worker while it looks at the event by which PyTorch ends all of them."""

    def __getitem__(self, key: int) -> tuple[torch.Tensor]:
        worker = get_worker_info()
        if worker is not None and worker.id == 1:
            frame = sys._getframe()
            while "done_event" not in frame.f_locals:
                frame = frame.f_back
            frame.f_locals["done_event"]._cond.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        return (torch.zeros(1),)


def test_a_data_worker_that_dies_with_a_lock_holds_nobody_up():
    others = set(multiprocessing.active_children())
    with pytest.raises(InputError, match=r"prepares data has ended or hangs \(.*\), mostly"):
        list(loaded(KilledAtTheEvent(), ([0] for _ in range(5000)), count=2, pinned=False))
    for worker in set(multiprocessing.active_children()) - others:
        worker.join(20)
        assert not worker.is_alive()


class WithoutPagingFile(Dataset[tuple[torch.Tensor]]):
    """What PyTorch says on Windows where the memory for batches is exhausted (pytorch/pytorch#31874)."""

    def __getitem__(self, key: int) -> tuple[torch.Tensor]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "Couldn't open shared file mapping: <torch_28076_1033928186_0>, error code: <1455>"
            )
        return (torch.zeros(1),)


def test_a_full_memory_of_windows_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(data_workers, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(InputError, match=r"prepares data has ended .*, mostly because the memory is full;"):
        list(loaded(WithoutPagingFile(), [[0]], count=1, pinned=False))


class BlasThreads(Dataset[tuple[torch.Tensor]]):
    """How many threads NumPy takes where it is asked."""

    def __getitem__(self, key: int) -> tuple[torch.Tensor]:
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return (torch.tensor([pool["num_threads"] for pool in pools]),)


def test_a_data_worker_computes_in_one_thread():
    with threadpool_limits(2):
        assert (BlasThreads()[0][0] == 2).all()
        (((threads,),),) = loaded(BlasThreads(), [[0]], count=1, pinned=False)
    assert threads.tolist() == [1] * len(BlasThreads()[0][0])


def test_too_little_shared_memory_is_told_before_the_first_step(tmp_path):
    check_shared_memory(1000, tmp_path)
    check_shared_memory(10**18, tmp_path / "no such place")
    with pytest.raises(
        InputError, match=r"take up to 10{12} MB of shared memory, but .* MB free; choose fewer"
    ):
        check_shared_memory(10**18, tmp_path)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (4, 8, 16)])
def test_labels_are_sent_with_eight_voxels_to_a_byte(size):
    masks = torch.rand(2, 3, *size) > 0.5
    bits = to_bits(masks)
    assert bits.shape == (2, 3, -(-masks[0, 0].numel() // 8))
    assert torch.equal(from_bits(bits, size), masks)
    flags = flags_by_shifts(bits)[..., : masks[0, 0].numel()]  # as on a GPU
    assert torch.equal(flags.view(masks.shape), masks)


def test_voxels_that_nobody_has_labelled_do_not_count_in_validation(tmp_path):
    manifest = make_manifest(tiny_config(tmp_path))
    target = torch.zeros(1, 2, 16, 16, 16, dtype=torch.bool)
    target[0, 0, :2] = True
    ignored = torch.zeros(16, 16, 16, dtype=torch.bool)
    ignored[1:] = True
    nothing, annotated = torch.empty(0, dtype=torch.int64), torch.tensor([[True, False]])
    cases = Cases(
        torch.zeros(1, 16, 16, 16), torch.tensor([0]), to_bits(target), annotated, nothing, nothing, ignored
    )
    network = NETWORKS["DoDNet"](**manifest.network.arguments).eval()
    network.initialize_head(100.0)  # foreground everywhere, also where nothing is labelled
    assert validate(network, [cases], manifest, torch.device("cpu")) == {("liver", "liver"): 1.0}
    everything = replace(cases, annotated=torch.tensor([[True, True]]))
    assert validate(network, [everything], manifest, torch.device("cpu")) == {("liver", "liver"): 1.0}
