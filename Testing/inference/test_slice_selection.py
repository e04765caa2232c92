"""Slice selection: kept slices come out as if all had been looked at; what is skipped is said."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting_model import (
    SHAPE,
    SLICES,
    SPEC,
    TASKS,
    Brightness,
    kept_slices,
    make_model,
    make_volume,
    without_decision,
)
from tiny_model import TASKS as TINY_TASKS
from tiny_model import write_tiny_model

from PartialSegLib.__main__ import main
from PartialSegLib.errors import Cancelled, InputError
from PartialSegLib.inference.selection import Selection
from PartialSegLib.manifest import DecisionSpec, Preprocessing, read_manifest
from PartialSegLib.model import build_decision_network, load_model, save_decision
from PartialSegLib.networks.decision_network import DecisionNetwork
from PartialSegLib.packages.installation import install_package
from PartialSegLib.patches.blending import KeptScores
from PartialSegLib.patches.slice_selection import (
    keep_slices,
    neighbor_indices,
    plan_on_slabs,
    reduce_slices,
    slice_scores,
)
from PartialSegLib.patches.sliding_window import plan_patches
from PartialSegLib.report import build_report
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.session import InferenceSession
from PartialSegLib.task_request import request_tasks
from PartialSegLib.volume import reorient, write_volume

TINY_SPEC = DecisionSpec((-1, 0, 1), (0.5, 0.5), input_size=32)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def volume():
    return make_volume()


def session_with(model, volume, **options):
    session = InferenceSession(model, "cpu", precision="float32", **options)
    session.set_image(volume)
    return session


def blended(session, task):
    """Scores (C, D, H, W) of a task on the network's grid, before anything is cleaned or restored."""
    requests = request_tasks(session.model.manifest, task, None)
    selected = session._require_selected()
    views = selected.views(requests, None, None)
    with torch.inference_mode():
        tasks = {request.number: request.task for request in requests}

        def start_keeping(number, channels):
            return KeptScores(selected.image.tensor.shape, channels, session.device)

        how = start_keeping, lambda *_: None, session.device
        kept = session._scoring.blend(selected.image, tasks, views, *how)
        return selected.image.unpad(kept[requests[0].number].scores)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=str(key))


# --- the choice of slices -------------------------------------------------------------------------------


def test_slices_are_averaged_down_along_the_axial_axis():
    image = torch.arange(4.0)[None, :, None] * torch.ones(64, 4, 96)
    squares = reduce_slices(image, 1, 32)
    assert squares.shape == (4, 32, 32)
    assert torch.equal(squares, torch.arange(4.0)[:, None, None].expand(4, 32, 32))


def test_beyond_the_image_its_outermost_slice_is_repeated():
    assert neighbor_indices(4, (-2, 0, 1)).tolist() == [[0, 0, 1], [0, 1, 2], [0, 2, 3], [1, 3, 3]]


def test_a_score_does_not_depend_on_the_slices_that_are_not_its_neighbours():
    torch.manual_seed(0)
    network = DecisionNetwork(3, 2, 32)
    with torch.no_grad():
        for _ in range(30):  # until the normalisation knows its input
            network(torch.randn(20, 3, 32, 32))
    squares = torch.randn(150, 32, 32)
    spec = dataclasses.replace(TINY_SPEC, offsets=(-1, 0, 1))
    scores = slice_scores(network.eval(), squares, spec)
    assert scores.shape == (2, 150)
    assert scores.std() > 1e-3
    few = slice_scores(network, squares[99:102], spec)
    np.testing.assert_allclose(few[:, 1], scores[:, 100], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 9, 10])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_slice_between_judged_ones_gets_the_higher_score(count, every):
    squares = torch.rand(count, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = slice_scores(Brightness(), squares, dataclasses.replace(SPEC, every=every))
    each = slice_scores(Brightness(), squares, SPEC)
    judged = list(range(0, count, every))
    for index in range(count):
        below = max(number for number in judged if number <= index)
        above = min([number for number in judged if number >= index] or [judged[-1]])
        np.testing.assert_array_equal(scores[:, index], np.maximum(each[:, below], each[:, above]))


@pytest.mark.parametrize("dilation", [0, 1, 3])
def test_kept_slices_are_widened(dilation):
    scores = np.zeros((2, 12), np.float32)
    scores[0, 5] = 0.3
    scores[1, 11] = 0.3
    spec = dataclasses.replace(SPEC, thresholds=(0.3, 0.31), dilation=dilation)
    kept = keep_slices(scores, spec)
    assert np.flatnonzero(kept[0]).tolist() == list(range(5 - dilation, 6 + dilation))
    assert not kept[1].any()


# --- exact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["SPL", "LPI", "PRS", "ASR"])
@pytest.mark.parametrize("task", list(SLICES))
def test_scores_in_kept_slices_are_the_same_to_the_bit(volume, task, orientation):
    model = make_model(orientation)
    whole = session_with(model, volume, selection="off")
    chosen = session_with(model, volume, selection="exact")
    axis = whole._require_selected().image.axial
    flipped = "I" in orientation
    kept = torch.from_numpy(kept_slices(task)[:: -1 if flipped else 1].copy())
    everything, some = (blended(session, task).movedim(axis + 1, 1) for session in (whole, chosen))
    assert torch.equal(some[:, kept], everything[:, kept])
    assert 0 < chosen.patches_encoded < whole.patches_encoded


@pytest.mark.parametrize(
    "options", [{"activation": "softmax"}, {"blend": "logits"}, {"overlap": 0.25, "patch_positions": "even"}]
)
def test_so_are_they_however_patches_are_blended(volume, options):
    model = make_model(**options)
    kept = torch.from_numpy(kept_slices("liver"))
    everything = blended(session_with(model, volume, selection="off", mirror=True), "liver")
    some = blended(session_with(model, volume, selection="exact", mirror=True), "liver")
    assert torch.equal(some[:, kept], everything[:, kept])


def test_masks_are_those_of_the_whole_in_kept_slices_and_empty_in_others(model, volume):
    whole = session_with(model, volume, selection="off").predict("liver")
    found = session_with(model, volume, selection="exact").predict("liver")
    kept = kept_slices("liver")
    assert found["liver"].any()
    for key in whole:
        np.testing.assert_array_equal(found[key], whole[key] & kept[:, None, None])


@pytest.mark.parametrize("orientation", ["LIP", "PRS"])
def test_the_image_may_come_in_any_orientation(model, volume, orientation):
    found = session_with(model, volume).predict("liver")
    turned = session_with(model, reorient(volume, orientation)).predict("liver")
    for key in found:
        expected = reorient(volume.with_array(found[key]), orientation).array
        np.testing.assert_array_equal(turned[key], expected)
    ranges = found.provenance["selection"]["tasks"]["liver"]["slices"]
    assert turned.provenance["selection"]["tasks"]["liver"]["slices"] == ranges


def test_results_depend_neither_on_what_is_kept_nor_on_other_tasks(model, volume):
    single = session_with(model, volume, cache_bytes=0)
    expected = {name: single.predict(name) for name in ("liver", "kidney")}
    for cache_bytes in (0, 300_000, 2 << 30):
        session = session_with(model, volume, cache_bytes=cache_bytes)
        for names in (["kidney", "liver"], ["liver"], ["liver", "colon", "kidney"], ["kidney"]):
            found = session.predict(names)
            for name in set(names) & expected.keys():
                for key in expected[name]:
                    np.testing.assert_array_equal(found[key], expected[name][key])


def test_a_region_of_interest_and_slices_both_count(model, volume):
    found = session_with(model, volume).predict("liver")
    roi = ((0, 60), (-100, 0), (100, 192))
    inside = session_with(model, volume).predict("liver", roi=roi)
    assert 0 < inside.voxel_count("liver") < found.voxel_count("liver")
    assert not (inside["liver"] & ~found["liver"]).any()
    beside = session_with(model, volume).predict("liver", roi=((0, 60), (-100, 0), (100, 120)))
    assert beside.voxel_count("liver") == 0
    assert beside.provenance["selection"]["patches"]["visited"] == 0


# --- fast -------------------------------------------------------------------------------------------------


def test_the_fast_plan_visits_fewer_patches_and_finds_nothing_elsewhere(model, volume):
    sessions = {mode: session_with(model, volume, selection=mode) for mode in ("off", "exact", "fast")}
    found = {mode: session.predict("liver") for mode, session in sessions.items()}
    encoded = [sessions[mode].patches_encoded for mode in ("fast", "exact", "off")]
    assert encoded == [2, 3, 8]
    assert found["fast"]["liver"].any()
    assert not found["fast"]["liver"][~kept_slices("liver")].any()


@pytest.mark.parametrize("cache_bytes", [0, 300_000, 2 << 30])
def test_fast_results_depend_neither_on_what_is_kept_nor_on_the_order_of_tasks(model, volume, cache_bytes):
    fresh = {
        names: session_with(model, volume, selection="fast", cache_bytes=0).predict(names)
        for names in (("liver",), ("kidney", "liver"), ("colon", "kidney"))
    }
    session = session_with(model, volume, selection="fast", cache_bytes=cache_bytes)
    for names in (("kidney", "colon"), ("liver",), ("liver", "kidney"), ("colon", "kidney")):
        found = session.predict(names)
        (expected,) = (result for asked, result in fresh.items() if set(asked) == set(names))
        assert {*found.keys()} == {*expected.keys()}
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])


def test_tasks_asked_for_together_share_the_patches_of_the_fast_plan(model, volume):
    session = session_with(model, volume, selection="fast")
    session.predict()
    assert session.patches_encoded <= session_with(model, volume).patches_planned


@settings(max_examples=100)
@given(
    st.lists(st.booleans(), min_size=1, max_size=90),
    st.sampled_from([(0, 16), (1, 12), (2, 8)]),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(0, 8),
)
def test_slabs_are_covered_with_no_more_patches_than_the_whole_needs(flags, axis_and_size, overlap, context):
    axis, size = axis_and_size
    shape, patch_size = [20, 20, 20], [16, 16, 16]
    shape[axis], patch_size[axis] = max(len(flags), size), size
    kept = np.zeros(shape[axis], bool)
    kept[: len(flags)] = flags
    patches = plan_patches(shape, tuple(patch_size), overlap)
    planned = plan_on_slabs(patches, kept, axis, overlap, context)
    assert planned == sorted(set(planned), key=lambda patch: patch.start)
    starts = {patch.start[axis] for patch in planned}
    covered = np.zeros(shape[axis], bool)
    for start in starts:
        assert 0 <= start <= shape[axis] - size
        covered[start : start + size] = True
    assert not (kept & ~covered).any()
    full = {patch.start[axis] for patch in patches}
    assert len(starts) <= sum(kept[start : start + size].any() for start in full)
    across = {patch.start[:axis] + patch.start[axis + 1 :] for patch in patches}
    assert len(planned) == len(starts) * len(across)


def test_a_slab_is_put_into_the_middle_of_its_patch():
    patches = plan_patches((60, 8, 8), (16, 8, 8), 0.5)
    kept = np.zeros(60, bool)
    kept[37:47] = True
    assert [patch.start for patch in plan_on_slabs(patches, kept, 0, 0.5, 2)] == [(34, 0, 0)]


def test_unless_a_patch_of_the_whole_image_holds_it():
    patches = plan_patches((60, 8, 8), (16, 8, 8), 0.5)
    kept = np.zeros(60, bool)
    kept[36:46] = True
    assert [patch.start for patch in plan_on_slabs(patches, kept, 0, 0.5, 2)] == [(32, 0, 0)]


# --- nothing, off, mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["exact", "fast"])
def test_where_nothing_is_kept_nothing_is_visited(model, selection):
    session = session_with(model, make_volume(empty=True), selection=selection)
    steps = []
    found = session.predict(on_progress=lambda done, total: steps.append((done, total)))
    assert session.patches_encoded == 0
    assert steps == []
    assert found.keys() == [(task.name, name) for task in TASKS for name in task.structures]
    assert all(found.voxel_count(key) == 0 and found[key].shape == SHAPE for key in found)
    assert found.provenance["selection"]["patches"] | {"of": 0} == {"visited": 0, "of": 0, "skipped": 1.0}


def test_a_model_without_decision_network_looks_at_everything(model, volume):
    plain = without_decision(model)
    whole = session_with(model, volume, selection="off")
    session = session_with(plain, volume)
    assert_same(session.predict(), whole.predict())
    assert session.patches_encoded == whole.patches_encoded == session.patches_planned
    for selection in ("exact", "fast"):
        with pytest.raises(InputError, match="has no decision network"):
            session_with(plain, volume, selection=selection)


def test_a_package_with_decision_network_selects_unless_told_otherwise(model, volume):
    assert_same(
        session_with(model, volume).predict(), session_with(model, volume, selection="exact").predict()
    )


@pytest.mark.parametrize(("selection", "asked"), [("auto", False), ("exact", True), ("fast", True)])
def test_a_package_may_wait_to_be_asked_for_its_decision_network(model, selection, asked):
    spec = dataclasses.replace(model.manifest.decision, automatic=False)
    waiting = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, decision=spec))
    assert (Selection.for_model(waiting, selection, False, None).mode != "off") == asked


def test_an_unknown_selection_is_refused(model):
    with pytest.raises(InputError, match="Unknown selection 'exakt'; perhaps you meant exact"):
        InferenceSession(model, "cpu", selection="exakt")


def test_a_prediction_that_was_cancelled_leaves_the_session_usable(model, volume):
    def stop(done, total):
        raise Cancelled

    session = session_with(model, volume, selection="fast")
    with pytest.raises(Cancelled):
        session.predict("liver", on_progress=stop)
    assert_same(session.predict("liver"), session_with(model, volume, selection="fast").predict("liver"))


# --- what was skipped is said -----------------------------------------------------------------------------


def test_provenance_and_report_say_what_was_skipped(model, volume, tmp_path):
    session = session_with(model, volume)
    found = session.predict(["liver", "kidney", "colon"])
    selection = found.provenance["selection"]
    assert selection["slices"] == "exact"
    assert selection["patches"]["visited"] == session.patches_encoded
    assert selection["patches"]["of"] == session.patches_planned
    liver = selection["tasks"]["liver"]
    assert liver["slices"] == {"visited": 8, "of": 70, "skipped": round(62 / 70, 3)}
    assert liver["skipped_slices"] == [[0, 18], [27, 69]]
    assert selection["tasks"]["colon"]["skipped_slices"] == [[0, 69]]
    assert build_report(found, {}, "ct")["provenance"]["selection"] == selection
    write_segmentation(tmp_path / "found.seg.nrrd", found)
    assert read_segmentation(tmp_path / "found.seg.nrrd").provenance["selection"] == selection


@pytest.mark.parametrize("orientation", ["SPL", "PSL"])
def test_of_a_softmax_slices_between_kept_and_dropped_ones_are_skipped(volume, orientation):
    """Both channels are wanted, so every voxel that is looked at belongs to a structure."""
    model = make_model(orientation, activation="softmax")
    settings = dataclasses.replace(
        model.manifest.preprocessing, spacing=tuple(6 if axis == "S" else 4 for axis in orientation)
    )
    manifest = dataclasses.replace(model.manifest, preprocessing=settings)
    found = session_with(dataclasses.replace(model, manifest=manifest), volume).predict("liver")
    filled = (found["liver"] | found["liver_tumor"]).any(axis=(1, 2))
    said = found.provenance["selection"]["tasks"]["liver"]
    assert 0 < said["slices"]["visited"] == filled.sum() < 70
    assert not any(filled[first : last + 1].any() for first, last in said["skipped_slices"])


def test_without_selection_nothing_is_said_to_be_skipped(model, volume):
    selection = session_with(model, volume, selection="off").predict("liver").provenance["selection"]
    assert selection["slices"] == "off"
    assert selection["patches"]["skipped"] == 0
    assert selection["tasks"]["liver"]["skipped_slices"] == []


# --- packages ---------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """A package with a decision network of random weights."""
    folder = write_tiny_model(
        tmp_path / "source" / "tiny", TINY_TASKS, Preprocessing("SPL", (4, 4, 4), (-325, 325))
    )
    torch.manual_seed(1)
    save_decision(folder, TINY_SPEC, DecisionNetwork(3, 2, 32).state_dict())
    return folder


def edit_manifest(package, change):
    document = json.loads((package / "model.json").read_text())
    change(document)
    (package / "model.json").write_text(json.dumps(document))


def test_a_package_keeps_its_decision_network(package):
    model = load_model(package)
    assert model.manifest.decision == TINY_SPEC
    assert isinstance(model.decision, DecisionNetwork)
    assert not model.decision.training
    expected = DecisionNetwork(3, 2, 32).state_dict().keys()
    assert model.decision.state_dict().keys() == expected
    assert all(value.dtype != torch.float16 for value in model.decision.state_dict().values())


def test_adding_one_changes_nothing_else(package):
    before = load_model(package)
    save_decision(package, dataclasses.replace(TINY_SPEC, dilation=4), DecisionNetwork(3, 2, 32).state_dict())
    after = load_model(package)
    assert after.manifest.decision.dilation == 4
    assert after.sha256 == before.sha256
    assert sorted(path.name for path in package.iterdir()) == [
        "LICENSE", "decision.safetensors", "model.json", "weights.safetensors",
    ]  # fmt: skip


def test_a_package_without_one_says_nothing_of_it(tmp_path):
    folder = write_tiny_model(tmp_path / "tiny", TINY_TASKS, Preprocessing("SPL", (4, 4, 4), (-325, 325)))
    assert "decision" not in json.loads((folder / "model.json").read_text())
    assert load_model(folder).decision is None


def test_it_is_installed_with_its_package(package, models):
    assert load_model(install_package(package)).decision is not None


def test_a_changed_file_is_refused(package):
    path = package / "decision.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"decision\.safetensors is not the file of its manifest"):
        load_model(package)


def test_a_missing_file_is_refused(package):
    (package / "decision.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks its file decision\.safetensors"):
        load_model(package)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "GhostNet"}, "decision.architecture: expected 'DecisionNetwork', got \"GhostNet\""),
        ({"thresholds": [0.5]}, "decision.thresholds: expected one for each of 2 tasks, got 1"),
        ({"thresholds": [0.5, 1.5]}, "decision.thresholds: expected scores from 0 to 1, got 1.5"),
        ({"offsets": [-1, 1]}, "decision.offsets: expected different numbers of slices, 0 among them"),
        ({"offsets": [0, 0]}, "decision.offsets: expected different numbers of slices"),
        ({"every": 0}, "decision.every: expected slices from 1 on, got 0"),
        ({"dilation": -1}, "decision.dilation: expected slices from 0 on, got -1"),
        ({"input_size": 16}, "decision.input_size: expected 32 pixels or more, got 16"),
        ({"size": 32}, "decision.size: unknown field"),
        ({"arguments": {"stages": 3}}, "decision.arguments: DecisionNetwork cannot be built with them"),
        ({"offsets": [0]}, "the weights do not fit DecisionNetwork: stem.0.weight has shape"),
    ],
)
def test_every_fault_of_the_manifest_has_its_sentence(package, change, sentence):
    edit_manifest(package, lambda document: document["decision"].update(change))
    with pytest.raises(InputError) as refusal:
        load_model(package)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_description_without_file_is_refused(package):
    edit_manifest(package, lambda document: document["files"].pop("decision.safetensors"))
    with pytest.raises(InputError, match=r"files: no entry for decision\.safetensors"):
        read_manifest(package)


def test_weights_that_do_not_fit_leave_the_package_as_it_was(package):
    before = (package / "model.json").read_bytes()
    with pytest.raises(InputError, match="do not fit"):
        save_decision(package, TINY_SPEC, DecisionNetwork(3, 5, 32).state_dict())
    spec = dataclasses.replace(TINY_SPEC, thresholds=(0.5,))
    with pytest.raises(InputError, match="expected one for each of 2 tasks"):
        save_decision(package, spec, DecisionNetwork(3, 1, 32).state_dict())
    assert (package / "model.json").read_bytes() == before


def test_the_network_is_described_without_storage():
    network = build_decision_network(TINY_SPEC)
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}


# --- command line -----------------------------------------------------------------------------------------


def test_the_command_line_has_a_switch(package, volume, tmp_path):
    write_volume(tmp_path / "ct.nii.gz", volume)
    common = ["segment", str(tmp_path / "ct.nii.gz"), "--model", str(package), "--device", "cpu"]
    reports = {}
    for number, selection in enumerate((["--selection", "off"], [], ["--selection", "fast", "--skip-air"])):
        report = tmp_path / f"{number}.json"
        output = tmp_path / f"{number}.seg.nrrd"
        assert main([*common, "-o", str(output), "--report", str(report), *selection]) == 0
        reports[number] = json.loads(report.read_text())["provenance"]["selection"]
    assert [reports[number]["slices"] for number in range(3)] == ["off", "exact", "fast"]
    assert [reports[number]["skip_air"] for number in range(3)] == [False, False, True]


def test_the_command_line_refuses_what_the_model_cannot_do(package, volume, tmp_path, capsys):
    write_volume(tmp_path / "ct.nii.gz", volume)
    plain = tmp_path / "plain"
    shutil.copytree(package, plain)
    edit_manifest(plain, lambda document: document.pop("decision"))
    arguments = ["segment", str(tmp_path / "ct.nii.gz"), "--model", str(plain), "--device", "cpu"]
    assert main([*arguments, "-o", str(tmp_path / "x.seg.nrrd"), "--selection", "fast"]) == 2
    assert "has no decision network" in capsys.readouterr().err


def test_of_the_patches_that_hold_a_slab_the_most_central_is_taken():
    patches = plan_patches((14, 8, 8), (8, 8, 8), 0.75)
    assert [patch.start[0] for patch in patches] == [0, 2, 4, 6]
    kept = np.zeros(14, bool)
    kept[7:9] = True
    assert [patch.start for patch in plan_on_slabs(patches, kept, 0, 0.75, 0)] == [(4, 0, 0)]
