import copy
import dataclasses
import inspect
import itertools
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from tiny_model import TASKS as TINY_TASKS
from tiny_model import write_tiny_model

from PartialSegLib.errors import Cancelled, DeviceError, InputError
from PartialSegLib.manifest import (
    FileEntry,
    Inference,
    Manifest,
    NetworkSpec,
    PostprocessingStep,
    Preprocessing,
    Task,
)
from PartialSegLib.model import Model
from PartialSegLib.networks import DoDNet
from PartialSegLib.one_call import segment
from PartialSegLib.patches.sliding_window import gaussian_weight, pad_to_patch, plan_patches
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.processing.restoration import restore
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume, reorient, write_volume

PATCH = (16, 16, 16)
PATCHES = 8
ARGUMENTS = {"widths": (16, 16, 16), "depths": (1, 1, 1)}
TASKS = (
    Task("liver", {"liver": 0, "liver_tumor": 1}),
    Task(
        "kidney",
        {"kidney": 0, "kidney_tumor": 1},
        "",
        (PostprocessingStep("keep_largest", "kidney", count=1),),
    ),
    Task("colon", {"colon_tumor": 1}),
)


def make_model(tasks=TASKS, seed=0, **changes):
    torch.manual_seed(seed)
    arguments = {**ARGUMENTS, "num_tasks": len(tasks), **changes}
    network = DoDNet(**arguments).eval().requires_grad_(False)
    with torch.no_grad():
        network.controller.weight.mul_(20)
    manifest = Manifest(
        name="tiny",
        version="1",
        title="A tiny network",
        license="Apache-2.0",
        network=NetworkSpec("DoDNet", arguments),
        preprocessing=Preprocessing("SPL", (4, 4, 4), (-325, 325), divide=325),
        inference=Inference(PATCH, 0.5, mirror_axes=(0, 2)),
        tasks=tasks,
        files={"weights.safetensors": FileEntry("0" * 64, 0)},
    )
    return Model(manifest, network, Path("tiny"))


@pytest.fixture(scope="module")
def model():
    return make_model()


def with_inference(model, **changes):
    inference = dataclasses.replace(model.manifest.inference, **changes)
    return dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, inference=inference))


@pytest.fixture(scope="module")
def volume():
    """20 x 21 x 24 network voxels: 8 patches."""
    coarse = torch.from_numpy(np.random.default_rng(0).normal(0, 250, (1, 1, 7, 8, 9)))
    smooth = torch.nn.functional.interpolate(coarse, (16, 42, 48), mode="trilinear")[0, 0]
    affine = np.array([[0, 0, -2.0, 50], [0, -2, 0, -10], [5, 0, 0, 100], [0, 0, 0, 1]])
    return Volume(smooth.numpy().astype(np.int16), affine)


def session_with(model, volume, **options):
    session = InferenceSession(model, "cpu", **options)
    session.set_image(volume)
    return session


def masks(segmentation):
    return {key: segmentation[key] for key in segmentation}


def assert_same(first, second):
    first, second = masks(first), masks(second)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=str(key))


def assert_nearly_same(first, second, voxels):
    first, second = masks(first), masks(second)
    assert first.keys() == second.keys()
    for key in first:
        assert np.count_nonzero(first[key] != second[key]) <= voxels, key


@pytest.fixture(scope="module")
def reference(model, volume):
    return session_with(model, volume).predict()


def test_the_tiny_model_finds_something_of_everything(reference, volume):
    assert reference.keys() == [(task.name, name) for task in TASKS for name in task.structures]
    for key in reference:
        assert 0 < reference.voxel_count(key) < volume.array.size
    assert reference.shape == volume.shape
    np.testing.assert_array_equal(reference.affine, volume.affine)


@pytest.mark.parametrize(("blend", "threshold"), [("probabilities", 0.5), ("logits", 0.0)])
def test_the_session_equals_the_plain_loop(model, volume, blend, threshold):
    """The whole of the session in a dozen lines: no cache, no float16, no folded filters, no slabs.

    Blended logits are interpolated as such, as nnU-Net does with regions.
    """
    prepared = preprocess(volume, model.manifest.preprocessing, torch.device("cpu"))
    image = pad_to_patch(prepared.tensor, PATCH, prepared.background)
    weight = gaussian_weight(PATCH)
    sums, weights = torch.zeros(2, *image.shape), torch.zeros(image.shape)
    with torch.no_grad():
        for patch in plan_patches(image.shape, PATCH, 0.5):
            logits = model.network(image[patch.slices][None, None], 0)[0]
            sums[:, *patch.slices] += (logits.sigmoid() if threshold else logits) * weight
            weights[patch.slices] += weight
    found = session_with(with_inference(model, blend=blend), volume, precision="float32").predict("liver")
    for structure, score in zip(TASKS[0].structures, sums / weights, strict=True):
        expected = np.zeros(volume.shape, bool)
        box, mask = restore(score, prepared, threshold)
        expected[box] = mask
        assert np.count_nonzero(found[structure] != expected) <= 0.001 * expected.size


def test_a_softmax_of_blended_logits_equals_the_plain_loop(volume):
    """As nnU-Net and STU-Net do it: mean of logits over flips and patches, interpolation, highest channel."""
    structures = {"liver": 1, "liver_tumor": 2}
    inference = {"activation": "softmax", "blend": "logits", "patch_positions": "even"}
    model = with_inference(
        make_model((Task("liver", structures),), seed=23, num_structures=3),
        **inference, padding="both sides", overlap=0.25,
    )  # fmt: skip
    volume = Volume(volume.array[:, :26], volume.affine @ np.diag([1, 1, 1.25, 1]))
    prepared = preprocess(volume, model.manifest.preprocessing, torch.device("cpu"))
    assert prepared.tensor.shape == (20, 13, 30)
    image = torch.nn.functional.pad(prepared.tensor, (0, 0, 1, 2), value=prepared.background)
    sums, weights = torch.zeros(3, 20, 16, 30), torch.zeros(20, 16, 30)
    for z, x in itertools.product((0, 4), (0, 7, 14)):
        place = slice(z, z + 16), slice(None), slice(x, x + 16)
        for flip in ((), (0,), (2,), (0, 2)):
            logits = model.network(image[place].flip(flip)[None, None], 0)[0]
            sums[:, *place] += logits.flip([axis + 1 for axis in flip]) * gaussian_weight(PATCH)
            weights[place] += gaussian_weight(PATCH)
    logits = (sums / weights)[:, :, 1:14]
    to_input = [axis.to_input(torch.device("cpu")) for axis in prepared.axes]
    winners = torch.einsum("zi,yj,xk,cijk->czyx", *to_input, logits).argmax(dim=0).numpy()
    found = session_with(model, volume, precision="float32", mirror=True).predict()
    for structure, channel in structures.items():
        assert (winners == channel).mean() > 0.05
        assert np.count_nonzero(found[structure] != (winners == channel)) <= 0.001 * winners.size


@pytest.mark.parametrize("cache_bytes", [0, 4 * 16**3 * 8 * 2 + 999, 1 << 30])
def test_masks_do_not_depend_on_the_cache(model, volume, reference, cache_bytes):
    session = session_with(model, volume, cache_bytes=cache_bytes)
    for _ in range(2):
        assert_same(session.predict(), reference)


def test_a_further_task_encodes_nothing(model, volume, reference):
    session = session_with(model, volume)
    first = session.predict("liver")
    assert session.patches_encoded == PATCHES
    second = session.predict(["kidney", "colon"])
    assert session.patches_encoded == PATCHES
    for key in reference:
        found = first if key[0] == "liver" else second
        np.testing.assert_array_equal(found[key], reference[key])


def test_without_a_cache_every_prediction_encodes(model, volume):
    session = session_with(model, volume, cache_bytes=0)
    session.predict("liver")
    session.predict("kidney")
    assert session.patches_encoded == 2 * PATCHES


def test_two_sessions_give_identical_masks(model, volume, reference):
    assert_same(session_with(model, volume).predict(), reference)


def test_the_model_is_left_as_it_was(model, volume):
    before = copy.deepcopy(model.network.state_dict())
    session_with(model, volume).predict("liver")
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_progress_counts_patches(model, volume):
    calls = []
    session_with(model, volume).predict("liver", lambda done, total: calls.append((done, total)))
    assert calls == [(done, PATCHES) for done in range(1, PATCHES + 1)]


def test_a_cancelled_session_stays_usable_and_keeps_what_is_encoded(model, volume, reference):
    def cancel(done, total):
        if done == 3:
            raise Cancelled

    session = session_with(model, volume)
    with pytest.raises(Cancelled):
        session.predict("liver", cancel)
    assert session.patches_encoded == 3
    assert_same(session.predict(), reference)
    assert session.patches_encoded == PATCHES


def test_running_out_of_memory_leaves_the_session_usable(model, volume, reference, monkeypatch):
    session = session_with(model, volume)
    with monkeypatch.context() as patched:
        patched.setattr(DoDNet, "forward_features", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
        with pytest.raises(DeviceError, match="Out of memory"):
            session.predict("liver")
    assert_same(session.predict(), reference)


def test_structures_choose_tasks_and_masks(model, volume, reference):
    session = session_with(model, volume)
    found = session.predict(structures=["liver_tumor", "colon_tumor"])
    assert found.keys() == [("liver", "liver_tumor"), ("colon", "colon_tumor")]
    for key in found:
        np.testing.assert_array_equal(found[key], reference[key])
    assert session.predict("kidney", structures="kidney").keys() == [("kidney", "kidney")]


def test_a_structure_of_two_tasks_can_be_asked_of_one(model, volume):
    twice = [
        dataclasses.replace(task, structures={"liver_tumor": 1}) if task.name == "colon" else task
        for task in model.manifest.tasks
    ]
    manifest = dataclasses.replace(model.manifest, tasks=tuple(twice))
    session = session_with(dataclasses.replace(model, manifest=manifest), volume)
    tumors = [("liver", "liver_tumor"), ("colon", "liver_tumor")]
    assert session.predict(["liver", "colon"], structures="liver_tumor").keys() == tumors
    assert session.predict(structures=["colon/liver_tumor", "liver/liver"]).keys() == [
        ("liver", "liver"),
        ("colon", "liver_tumor"),
    ]
    with pytest.raises(InputError, match="No chosen task yields 'kidney/liver_tumor'"):
        session.predict(structures="kidney/liver_tumor")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"tasks": "livr"}, "perhaps you meant liver"),
        ({"structures": ["kidny"]}, "perhaps you meant kidney"),
        ({"tasks": "liver", "structures": ["kidney"]}, "No chosen task yields 'kidney'"),
        ({"roi": (900, 950, 0, 1, 0, 1)}, "outside the image"),
        ({"tasks": ["liver", None]}, "given by their names, not as None"),
        ({"structures": 3}, "given by their names, not as 3"),
        ({"effort": "thorough"}, "effort is a number"),
    ],
)
def test_wrong_requests_are_refused(model, volume, request_, message):
    with pytest.raises(InputError, match=message):
        session_with(model, volume).predict(**request_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"overlap": "0.5"}, "overlap"),
        ({"overlap": True}, "overlap"),
        ({"cache_bytes": "1GB"}, "cache_bytes is a number of bytes"),
        ({"cache_bytes": -1}, "cache_bytes is a number of bytes"),
        ({"cache_bytes": float("nan")}, "cache_bytes is a number of bytes"),
        ({"engine": None}, "engine None"),
        ({"precision": "int8"}, "precision"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        InferenceSession(model, **options)


def test_mirroring_needs_mirror_axes(model):
    with pytest.raises(InputError, match="no axes to mirror"):
        InferenceSession(with_inference(model, mirror_axes=()), mirror=True)


@pytest.mark.parametrize("given", [np.zeros((4, 5, 6)), None])
def test_what_is_no_image_or_model_is_answered_with_what_makes_one(model, volume, given):
    session = session_with(model, volume)
    with pytest.raises(InputError, match=r"An image is a Volume .*, not a (ndarray|NoneType); .*read_volume"):
        session.set_image(given)
    assert session.patches_planned == PATCHES  # the image before is still there
    with pytest.raises(InputError, match=r"A model is what load_model\(name\) returns, .* not a"):
        InferenceSession(given)
    with pytest.raises(InputError, match="A model is"):
        InferenceSession(model, region_from=volume)


def test_models_and_images_go_by_name_and_path(model, volume, tmp_path):
    package = write_tiny_model(tmp_path / "tiny", TINY_TASKS, model.manifest.preprocessing)
    write_volume(tmp_path / "ct.nii.gz", volume)
    session = InferenceSession(str(package), "cpu", region_from=package)
    assert repr(session) == "InferenceSession(tiny 1.2.3, cpu, no image)"
    session.set_image(str(tmp_path / "ct.nii.gz"))
    assert repr(session) == "InferenceSession(tiny 1.2.3, cpu, image of 16 × 42 × 48)"
    with pytest.raises(InputError, match="Unknown model 'trunk-8tasks'"):
        InferenceSession("trunk-8tasks")


def test_an_image_that_is_hardly_a_ct_is_told_once(model, volume, caplog):
    session = InferenceSession(model, "cpu", region_from=model)
    session.set_image(volume)
    assert not caplog.messages
    rescaled = volume.with_array(volume.array - volume.array.min())
    session.set_image(rescaled, check=False)
    assert not caplog.messages
    session.set_image(rescaled)
    (message,) = caplog.messages
    assert re.search("without any air .* not rescaled to HU; give a CT in HU, or what is found may", message)


@pytest.mark.parametrize("reset", [False, True])
def test_predicting_needs_an_image(model, volume, reset):
    session = InferenceSession(model, "cpu")
    if reset:
        session.set_image(volume)
        session.reset_image()
    with pytest.raises(InputError, match="call set_image"):
        session.predict("liver")


def test_a_new_image_replaces_the_old_one(model, volume, reference):
    session = session_with(model, volume.with_array(-volume.array))
    session.predict("liver")
    session.set_image(volume)
    assert session.patches_encoded == 0
    assert session.timings["encode"] == 0
    assert_same(session.predict(), reference)


def test_timings_name_the_stages(model, volume):
    session = session_with(model, volume)
    session.predict("liver")
    assert list(session.timings) == ["preprocess", "encode", "head", "restore"]
    assert all(seconds > 0 for seconds in session.timings.values())


def test_choosing_patches_is_timed_and_the_coarse_pass_within_it_once(model, volume):
    session = session_with(model, volume, region_from=model)
    before = dict(session.timings)
    start = perf_counter()
    session.predict("liver")
    passed = perf_counter() - start
    seconds = {stage: session.timings[stage] - before[stage] for stage in before}
    assert all(second > 0 for second in seconds.values())
    assert sum(seconds.values()) <= passed + 1e-6


def test_looking_for_doubt_is_timed(model, volume, monkeypatch):
    session, booked = InferenceSession(model, "cpu"), []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: booked.append(session.timings["preprocess"]))
    monkeypatch.setattr(logging.getLogger("PartialSegLib.session"), "handlers", [handler])
    session.set_image(volume.with_array(volume.array - volume.array.min()))
    assert booked == [0]  # the stage goes on while it is told


def test_bfloat16_changes_little(model, volume):
    exact = session_with(model, volume, precision="float32").predict()
    rounded = session_with(model, volume, precision="bfloat16").predict()
    assert_nearly_same(exact, rounded, 0.02 * volume.array.size)


def test_overflowing_patches_are_encoded_in_float32(model, volume, monkeypatch, caplog):
    exact = session_with(model, volume, precision="float32").predict()
    encode = DoDNet.forward_features

    def overflow(network, patch):
        features = encode(network, patch)
        return (
            features._replace(decoder=features.decoder * float("inf"))
            if torch.is_autocast_enabled("cpu")
            else features
        )

    monkeypatch.setattr(DoDNet, "forward_features", overflow)
    assert_same(session_with(model, volume, precision="bfloat16").predict(), exact)
    assert "encoded in float32" in caplog.text


def test_mirroring_averages_all_flips(model):
    """Then a mirrored image has the mirrored masks, which no random network gives without averaging."""
    array = np.random.default_rng(0).integers(-300, 300, PATCH).astype(np.int16)
    affine = np.array([[0, 0, -4.0, 0], [0, -4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1]])
    one, other = Volume(array, affine), Volume(array[::-1, :, ::-1], affine)
    session = session_with(model, one, mirror=True, precision="float32")
    found = session.predict("liver")
    assert session.patches_encoded == 4
    mirrored = session_with(model, other, mirror=True, precision="float32").predict("liver")
    plain = session_with(model, one, precision="float32").predict("liver")
    for key in found:
        assert np.count_nonzero(found[key] != mirrored[key][::-1, :, ::-1]) <= 2
        assert np.count_nonzero(found[key] != plain[key]) > 20


@pytest.mark.parametrize("blend", ["probabilities", "logits"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activation_and_blending(model, volume, activation, blend):
    found = session_with(
        with_inference(model, activation=activation, blend=blend), volume, precision="float32"
    ).predict("liver")
    organ, tumour = found["liver"], found["liver_tumor"]
    assert organ.any()
    assert tumour.any()
    if activation == "softmax":
        assert not (organ & tumour).any()
        assert (organ | tumour).mean() > 0.95


def test_softmax_scores_decide_like_argmax(model):
    from PartialSegLib.engines.network_runner import NetworkRunner

    runner = NetworkRunner(with_inference(model, activation="softmax"), torch.device("cpu"), torch.float32)
    blended = torch.rand(2, 3, 4, 5).softmax(dim=0)
    scores = runner.structure_scores(blended, TASKS[0])
    winners = blended.argmax(dim=0)
    threshold = runner.threshold(TASKS[0])
    assert torch.equal(scores["liver"] > threshold, winners == 0)
    assert torch.equal(scores["liver_tumor"] > threshold, winners == 1)


def test_an_overlap_that_would_take_days_is_refused(model):
    volume = Volume(np.zeros((150, 150, 150), np.int16), np.diag([4.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]])
    session = InferenceSession(model, "cpu", overlap=0.99)
    with pytest.raises(InputError, match=r"overlap of 0\.99, 2,460,375 patches would cover the image"):
        session.set_image(volume, check=False)
    with pytest.raises(InputError, match="no image"):
        session.predict()


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_overlap_can_be_chosen(model, volume, overlap):
    session = session_with(model, volume, overlap=overlap)
    session.predict("liver")
    expected = len(plan_patches((20, 21, 24), PATCH, overlap))
    assert session.patches_encoded == expected


def test_a_region_gives_the_masks_inside_it_and_nothing_outside(model, volume):
    session = session_with(model, volume)
    whole = session.predict("liver")
    session.reset_image()
    session.set_image(volume)
    roi = ((30, 48), (-60, -12), (102, 118))
    found = session.predict("liver", roi=roi)
    assert session.patches_encoded < PATCHES
    inside = np.zeros(volume.shape, bool)
    inside[1:4, 1:26, 1:11] = True
    for key in whole:
        np.testing.assert_array_equal(found[key], whole[key] & inside)
    assert found.provenance["roi"] == [[30, 48], [-60, -12], [102, 118]]


def test_a_region_in_the_cropped_away_air_is_refused(model, volume):
    array = np.full((40, 64, 64), -1000, np.int16)
    array[5:15, 10:25, 12:30] = 40
    session = InferenceSession(model, "cpu")
    session.set_image(Volume(array, np.diag([4.0, 4, 4, 1])), crop_to_body=True)
    with pytest.raises(InputError, match="outside the body"):
        session.predict("liver", roi=(150, 156, 200, 250, 200, 250))


def test_the_manifest_says_whether_to_crop_to_the_body(model):
    array = np.full((40, 64, 64), -1000, np.int16)
    array[5:15, 10:25, 12:30] = 40
    volume = Volume(array, np.diag([4.0, 4, 4, 1]))
    preprocessing = dataclasses.replace(model.manifest.preprocessing, crop_to_body=True)
    cropping = dataclasses.replace(
        model, manifest=dataclasses.replace(model.manifest, preprocessing=preprocessing)
    )
    patches = {}
    for name, session, crop in (
        ("never", InferenceSession(model, "cpu"), None),
        ("by manifest", InferenceSession(cropping, "cpu"), None),
        ("overruled", InferenceSession(cropping, "cpu"), False),
    ):
        session.set_image(volume, crop_to_body=crop)
        session.predict("liver")
        patches[name] = session.patches_encoded
    assert patches["by manifest"] < patches["never"] == patches["overruled"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (3, 2, 50), (70, 5, 5)])
def test_any_shape_is_segmented(model, shape):
    volume = Volume(
        np.random.default_rng(0).integers(-300, 300, shape).astype(np.float32), np.eye(4) * [2, 2, 2, 1]
    )
    found = session_with(model, volume).predict()
    assert found.shape == shape
    assert all(found[key].shape == shape for key in found)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 50), (70, 5, 5)])
def test_padding_on_both_sides_puts_every_mask_in_its_place(model, shape):
    volume = Volume(
        np.random.default_rng(0).integers(-300, 300, shape).astype(np.float32), np.eye(4) * [2, 2, 2, 1]
    )
    options = {"padding": "both sides", "patch_positions": "even"}
    session = session_with(with_inference(model, **options), volume, precision="float32")
    found = session.predict()
    assert all(found[key].shape == shape for key in found)
    image = session._require_selected().image
    assert torch.equal(image.unpad(image.tensor), image.prepared.tensor)


@pytest.mark.parametrize("orientation", ["SAR", "LIP", "PRS"])
def test_the_same_patient_in_another_orientation(model, volume, reference, orientation):
    found = session_with(model, reorient(volume, orientation)).predict()
    for key in reference:
        expected = reorient(volume.with_array(reference[key]), orientation).array
        assert np.count_nonzero(found[key] != expected) <= 0.002 * expected.size


def test_the_clean_up_of_the_task_is_applied(model, volume, reference):
    bare = dataclasses.replace(TASKS[1], postprocessing=())
    manifest = dataclasses.replace(model.manifest, tasks=(TASKS[0], bare, TASKS[2]))
    raw = session_with(dataclasses.replace(model, manifest=manifest), volume).predict("kidney")
    kidney = reference["kidney"]
    assert kidney.sum() < raw["kidney"].sum()
    assert not (kidney & ~raw["kidney"]).any()
    np.testing.assert_array_equal(reference["kidney_tumor"], raw["kidney_tumor"])


def test_provenance_says_what_was_run(reference):
    assert reference.provenance["model"] == "tiny"
    assert reference.provenance["weights_sha256"] == "0" * 64
    assert reference.provenance["overlap"] == 0.5
    assert reference.provenance["roi"] is None


def test_one_call_segments_a_file(model, volume, reference, tmp_path):
    path = tmp_path / "ct.nii.gz"
    write_volume(path, volume)
    found = segment(path, model, ["liver", "colon"], device="cpu")
    assert found.keys() == [("liver", "liver"), ("liver", "liver_tumor"), ("colon", "colon_tumor")]
    for key in found:
        np.testing.assert_array_equal(found[key], reference[key])


def test_one_call_takes_the_options_of_session_and_prediction(model, volume):
    def options(function):
        names = inspect.signature(function).parameters.values()
        return {one.name: one.default for one in names if one.name not in ("self", "model")}

    calls = []
    roi = ((30, 48), (-60, -12), (102, 118))
    asked = {"structures": "liver", "roi": roi, "on_progress": lambda *done: calls.append(done)}
    found = segment(volume, model, device="cpu", **asked)
    assert found.keys() == [("liver", "liver")]
    assert found.provenance["roi"] == [list(bound) for bound in roi]
    assert 0 < len(calls) < PATCHES
    given = options(segment)
    given.pop("volume")
    assert given == options(InferenceSession) | options(InferenceSession.predict) | {"cache_bytes": 0}


def test_sessions_in_threads_leave_the_settings_of_cudnn_as_they_were(model, volume):
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic

    before, barrier, seen = settings(), threading.Barrier(2, timeout=20), []

    def meet(done, total):
        barrier.wait()
        seen.append(settings())

    def work(_):
        session_with(model, volume).predict("liver", meet)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    runner = session_with(model, volume, precision="float32")._runner
    scores = runner.score(runner.encode(torch.zeros(PATCH)), dict(enumerate(TASKS)))
    next(scores)  # and nobody asks for the others
    assert settings() == before == (True, False)
    assert len(seen) == 2 * PATCHES
