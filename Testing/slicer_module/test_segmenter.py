"""From a volume node to segments by way of a real worker process, killed, cancelled and confused."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import slicer
import torch
from full_disk import full_disk
from scene_nodes import (
    ctNode,
    expectedPoints,
    obliqueAffine,
    rigid,
    segmentationNode,
    segmentIds,
    segmentPoints,
    transformNode,
)
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import InferenceSession, InputError, Volume, load_model
from PartialSegLib.manifest import Preprocessing

from PartialSegSlicer import segmenter
from PartialSegSlicer.scene.provenance import provenanceOf
from PartialSegSlicer.segmenter import Request, Segmenter
from PartialSegSlicer.worker import workerClient
from PartialSegSlicer.worker.workerClient import WorkerClient
from PartialSegSlicer.worker.workerJobs import ReceivedSegment

TIMEOUT_SECONDS = 120
PREPROCESSING = Preprocessing("SAR", (4, 4, 4), (-325, 325), divide=325)
KILLS = 50


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modèles é") / "tiny"
    return write_tiny_model(folder, TASKS, PREPROCESSING, gain=20)


@pytest.fixture(scope="module")
def array():
    coarse = torch.from_numpy(np.random.default_rng(0).normal(0, 250, (1, 1, 6, 7, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (30, 36, 40), mode="trilinear")
    return smooth[0, 0].numpy().astype(np.int16)


@pytest.fixture
def run(worker_client, package):
    return Run(Segmenter(worker_client), package)


class Run:
    """Runs requests to their end and keeps what was told."""

    def __init__(self, segmenter, package):
        self.segmenter = segmenter
        self.model = {"path": str(package), "device": "cpu", "precision": "float32"}
        self.answers = []
        self.progress = []

    def start(self, volumeNode, tasks=("liver",), **options):
        self.answers.clear()
        self.segmenter.start(
            Request(
                volumeNode,
                tuple(tasks),
                self.model,
                onFinished=self.answers.append,
                onFailed=self.answers.append,
                onProgress=lambda done, total: self.progress.append((done, total)),
                **options,
            )
        )

    def pollUntil(self, condition):
        end = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < end
            self.segmenter.poll(0.02)

    def __call__(self, volumeNode, tasks=("liver",), **options):
        self.start(volumeNode, tasks, **options)
        self.pollUntil(lambda: self.answers)
        (answer,) = self.answers
        return answer


def namesOf(scene):
    return sorted(scene.node.GetNthNode(number).GetID() for number in range(scene.node.GetNumberOfNodes()))


def inProcess(package, array, affine, task):
    session = InferenceSession(load_model(package), "cpu", precision="float32")
    session.set_image(Volume(array, affine))
    return session.predict(task)


def test_segments_lie_where_the_library_finds_them(scene, run, package, array):
    affine = obliqueAffine((4.0, 3.5, 3.0))
    result = run(ctNode(affine, array))
    expected = inProcess(package, array, affine, "liver")
    assert len(result.segmentIds) == 2
    for id, key in zip(result.segmentIds, expected, strict=True):
        box, mask = expected.cropped(key)
        points = expectedPoints(affine, ReceivedSegment(*key, box, mask))
        np.testing.assert_allclose(segmentPoints(result.segmentationNode, id), points, atol=1e-3)
    segment = result.segmentationNode.GetSegmentation().GetSegment(result.segmentIds[0])
    assert provenanceOf(segment)["model"] == "tiny"
    assert run.progress[-1][0] == run.progress[-1][1]


def test_a_further_task_encodes_nothing_and_joins_the_same_node(scene, run, array):
    volumeNode = ctNode(obliqueAffine((4.0, 3.5, 3.0)), array)
    first = run(volumeNode)
    assert run.segmenter.keepsFeatures(volumeNode, run.model)
    second = run(volumeNode, ["spleen"], segmentationNode=first.segmentationNode)
    assert first.reply["patches_encoded"] > 0
    assert second.reply["patches_encoded"] == 0
    assert len(segmentIds(first.segmentationNode)) == 3


def test_changed_voxels_are_sent_again(scene, run, array):
    volumeNode = ctNode(array=array.copy())
    run(volumeNode)
    import slicer

    slicer.util.arrayFromVolume(volumeNode)[:10] = -1000
    slicer.util.arrayFromVolumeModified(volumeNode)
    assert not run.segmenter.keepsFeatures(volumeNode, run.model)
    assert run(volumeNode).reply["patches_encoded"] > 0


def test_another_effort_sends_neither_model_nor_image_again(scene, run, array, package):
    volumeNode = ctNode(obliqueAffine((4.0, 3.5, 3.0)), array)
    run.model = {**run.model, "region_from": str(package), "effort": 0.0}
    assert run(volumeNode).reply["patches_encoded"] == 0
    run.model = {**run.model, "effort": 1.0}
    assert run.segmenter.keepsFeatures(volumeNode, run.model)
    first = run(volumeNode)
    assert first.reply["patches_encoded"] > 0
    assert first.reply["provenance"]["selection"]["region_from"]["effort"] == 1.0
    run.model = {**run.model, "effort": 0.5}
    assert run(volumeNode).reply["patches_encoded"] == 0


def test_unwanted_structures_are_left_out(scene, run, array):
    result = run(ctNode(array=array), ["liver", "spleen"], excluded=frozenset(["liver/liver_tumor"]))
    found = result.segmentIds + [f"PartialSeg_{task}_{name}" for task, name in result.notFound]
    assert sorted(found) == ["PartialSeg_liver_liver", "PartialSeg_spleen_spleen"]


def test_a_table_is_made_when_asked_for(scene, run, array):
    result = run(ctNode(array=array), makeTable=True)
    table = scene.node.GetFirstNodeByClass("vtkMRMLTableNode")
    assert table.GetNumberOfRows() == len(result.segmentIds)


def test_a_cancelled_run_leaves_the_scene_as_it_was(scene, run, array):
    volumeNode = ctNode(array=array)
    before = namesOf(scene)
    run.start(volumeNode)
    run.segmenter.cancel()
    run.pollUntil(lambda: run.answers)
    assert run.answers[0].kind == "Cancelled"
    assert namesOf(scene) == before
    assert run(volumeNode).segmentIds


def test_cancelled_runs_leave_no_files_behind(scene, run, array):
    volumeNode = ctNode(array=array)
    assert run(volumeNode).segmentIds
    for _number in range(3):
        slicer.util.arrayFromVolumeModified(volumeNode)
        run.start(volumeNode)
        run.segmenter.cancel()
        run.pollUntil(lambda: run.answers)
    assert run(volumeNode).segmentIds
    files = [path.name for path in run.segmenter.client._process.scratch.glob("*.npy")]
    assert len(files) == 1  # the image of the last run


def test_what_the_worker_refuses_is_told_in_a_sentence(scene, run, array):
    before = namesOf(scene)
    error = run(ctNode(array=array), ["brain"])
    assert error.kind == "InputError"
    assert "brain" in str(error)
    assert len(namesOf(scene)) == len(before) + 1  # the volume


def test_an_image_that_does_not_fit_on_the_disk_is_told_and_leaves_nothing(scene, run, array):
    volumeNode = ctNode(array=array)
    assert run(volumeNode).segmentIds
    volumeNode.GetImageData().Modified()  # the image is sent again
    with full_disk():
        error = run(volumeNode)
    assert error.kind == "InputError"
    assert "could not be handed to the worker" in str(error)
    assert "Free some disk space" in error.advice
    assert len(list(run.segmenter.client._process.scratch.glob("image-*"))) == 1  # the first one
    assert run(volumeNode).segmentIds


def test_a_request_without_a_volume_or_a_task_is_refused_at_once(scene, run, array):
    with pytest.raises(InputError, match="No volume"):
        run.start(None)
    with pytest.raises(InputError, match="No task"):
        run.start(ctNode(array=array), [])
    with pytest.raises(InputError, match="structures: expected at least one name"):
        run.start(ctNode(array=array), structures=())


@pytest.mark.parametrize("deleted", ["volume", "segmentation"])
def test_a_node_deleted_meanwhile_is_told(scene, run, array, deleted):
    nodes = {"volume": ctNode(array=array), "segmentation": segmentationNode()}
    run.start(nodes["volume"], segmentationNode=nodes["segmentation"])
    scene.node.RemoveNode(nodes[deleted])
    run.pollUntil(lambda: run.answers)
    assert f"The {deleted} was deleted" in str(run.answers[0])
    assert segmentIds(nodes["segmentation"]) == []


def test_nothing_is_added_to_an_image_that_took_the_place_of_another(scene, run, array):
    volumeNode = ctNode(array=array)
    run.start(volumeNode)
    slicer.util.updateVolumeFromArray(volumeNode, np.full((60, 60, 60), -1000, np.int16))
    run.pollUntil(lambda: run.answers)
    assert "got other voxels or another geometry while it was segmented" in str(run.answers[0])
    run.start(volumeNode)
    scene.node.Clear(0)
    ctNode(array=array, name="Other patient")  # has the node ID of the first
    run.pollUntil(lambda: run.answers)
    assert "The volume was deleted" in str(run.answers[0])
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_nothing_is_added_to_an_image_whose_spacing_was_corrected_meanwhile(scene, run, array):
    volumeNode = ctNode(array=array)
    run.start(volumeNode)
    volumeNode.SetSpacing(*(2 * np.array(volumeNode.GetSpacing())))
    run.pollUntil(lambda: run.answers)
    assert "got other voxels or another geometry while it was segmented" in str(run.answers[0])
    run.start(volumeNode)
    volumeNode.SetAndObserveTransformNodeID(transformNode(rigid()).GetID())  # its segments move along
    run.pollUntil(lambda: run.answers)
    assert len(run.answers[0].segmentIds) == 2


def test_what_is_edited_during_a_run_is_not_replaced(scene, run, array):
    volumeNode, told = ctNode(array=array), []
    first = run(volumeNode).segmentationNode
    id = first.GetSegmentation().GetSegmentIDs()[0]
    run.start(volumeNode, segmentationNode=first, onWarning=told.append)
    edited = slicer.util.arrayFromSegmentBinaryLabelmap(first, id, volumeNode)
    edited[:] = np.arange(edited.shape[0])[:, None, None] == 3
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, first, id, volumeNode)
    run.pollUntil(lambda: run.answers)
    (result,) = run.answers
    assert result.segmentationNode is not first
    assert len(result.segmentIds) == 2
    assert told == [result.note]
    assert "were edited while new ones were computed" in result.note
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(first, id, volumeNode)
    np.testing.assert_array_equal(kept, edited)


def test_a_model_that_was_replaced_is_loaded_anew(scene, run, array, tmp_path):
    folder = write_tiny_model(tmp_path / "tiny", TASKS, PREPROCESSING, gain=20)
    run.model = {**run.model, "path": str(folder)}
    volumeNode = ctNode(array=array)
    before = run(volumeNode).reply["provenance"]["weights_sha256"]
    shutil.rmtree(folder)
    write_tiny_model(folder, TASKS, PREPROCESSING, gain=40)
    result = run(volumeNode)
    assert result.reply["provenance"]["weights_sha256"] != before
    assert result.reply["patches_encoded"] > 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
def test_a_worker_that_hangs_is_ended_after_a_cancel(scene, run, array, monkeypatch):
    monkeypatch.setattr(workerClient, "CANCEL_SECONDS", 0.2)
    run.start(ctNode(array=array))
    os.kill(run.segmenter.client.pid, signal.SIGSTOP)
    run.segmenter.cancel()
    run.pollUntil(lambda: run.answers)
    assert run.answers[0].kind == "Cancelled"
    assert run.segmenter.client.pid is None


@pytest.mark.parametrize("deleted", ["volume", "segmentation"])
def test_a_node_deleted_while_segments_are_added_is_told(scene, run, array, deleted):
    nodes = {"volume": ctNode(array=array), "segmentation": segmentationNode()}
    run.start(nodes["volume"], segmentationNode=nodes["segmentation"])
    run.pollUntil(lambda: segmentIds(nodes["segmentation"]))
    assert not run.answers
    scene.node.RemoveNode(nodes[deleted])
    run.pollUntil(lambda: run.answers)
    assert str(run.answers[0]) == "The volume or the segmentation was deleted while segments were added."
    assert not run.segmenter.isBusy


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
def test_the_next_run_can_be_started_when_the_end_of_one_is_told(scene, run, array, monkeypatch, fails):
    def table(node):
        raise RuntimeError("no room\nfor a table")
        yield

    if fails:
        monkeypatch.setattr(segmenter, "volumesTableSteps", table)
    volumeNode, answers = ctNode(array=array), []

    def goOn(answer):
        answers.append(answer)
        run.start(volumeNode, ["spleen"])

    run.segmenter.start(
        Request(volumeNode, ("liver",), run.model, makeTable=True, onFinished=goOn, onFailed=goOn)
    )
    run.pollUntil(lambda: answers)
    assert run.segmenter.isBusy
    run.pollUntil(lambda: run.answers)
    assert run.answers[0].segmentIds
    if fails:
        assert answers[0].kind == "InternalError"
        assert "RuntimeError: no room Try again; if it happens once more, report" in str(answers[0])


def test_a_library_that_was_repaired_works_at_the_next_click(scene, package, array, tmp_path, monkeypatch):
    """Of a torch that cannot be imported, submodules stay in the worker, so it must not go on."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").touch()
    broken = "from . import version\nraise ImportError('DLL load failed while importing torch')\n"
    (tmp_path / "torch" / "__init__.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = Run(Segmenter(WorkerClient()), package)
    volumeNode = ctNode(array=array)
    error = run(volumeNode)
    assert error.kind == "InternalError"
    assert "A library cannot be loaded: DLL load failed" in str(error)
    process = run.segmenter.client._process
    run.pollUntil(lambda: not process.isRunning)
    shutil.rmtree(tmp_path / "torch")
    assert run(volumeNode).segmentIds
    run.segmenter.stop()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_worker_changes_nothing_and_the_next_click_succeeds(scene, run, array):
    volumeNode, node = ctNode(array=array), segmentationNode()
    assert run(volumeNode, segmentationNode=node).segmentIds
    before, segments = namesOf(scene), segmentIds(node)
    rng = random.Random(0)
    start = time.monotonic()
    run(volumeNode, segmentationNode=node)
    warm = time.monotonic() - start
    died = 0
    for _ in range(KILLS):
        if not run.segmenter.client.isWarm or rng.random() < 0.2:
            assert run(volumeNode, segmentationNode=node).segmentIds
        volumeNode.GetImageData().Modified()  # the image is sent and encoded again
        run.start(volumeNode, segmentationNode=node)
        end = time.monotonic() + rng.uniform(0, 2 * warm)
        run.pollUntil(lambda end=end: time.monotonic() > end or run.answers)
        process = run.segmenter.client._process
        if process is not None:  # a kill that came after the end of its run shows only now
            os.kill(process.pid, signal.SIGKILL)
            run.pollUntil(lambda process=process: run.answers and not process.isRunning)
        run.pollUntil(lambda: run.answers)
        died += getattr(run.answers[0], "kind", "") == "WorkerDied"
        assert namesOf(scene) == before
        assert segmentIds(node) == segments
    assert died > 0
    assert run(volumeNode, segmentationNode=node).segmentIds
