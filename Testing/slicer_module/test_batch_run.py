"""Image files to segmentation files by way of a real worker: failures, stops, kills, and the console call."""

import csv
import os
import signal
import time

import numpy as np
import pydicom
import pytest
import slicer_scene
from dicom_folders import write_study
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import InputError, Volume, read_segmentation, read_volume, write_volume
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.protocol import SegmentFile

TIMEOUT_SECONDS = 120
BROKEN = "A library cannot be loaded: DLL load failed Install PyTorch and safetensors again."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    slicer_scene.boot()
    from PartialSegSlicer.modelOptions import ModelOptions

    folder = tmp_path_factory.mktemp("modèles é") / "tiny"
    write_tiny_model(folder, TASKS, Preprocessing("SAR", (4, 4, 4), (-325, 325), divide=325), gain=20)
    return ModelOptions(str(folder), device="cpu", precision="float32").forWorker()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "bilder é"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a.nii.gz", "b.nrrd", "c.mha")):
        array = rng.integers(-1000, 200, (20 + number, 24, 26)).astype(np.int16)
        write_volume(folder / "seed.nrrd", Volume(array, np.diag([5.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]]))
        if name.endswith(".mha"):
            import SimpleITK

            SimpleITK.WriteImage(SimpleITK.ReadImage(str(folder / "seed.nrrd")), str(folder / name))
            (folder / "seed.nrrd").unlink()
        else:
            write_volume(folder / name, read_volume(folder / "seed.nrrd"))
    return folder


class Listener:
    """Keeps what a run tells."""

    def __init__(self):
        from PartialSegSlicer.batchRun import BatchListener

        self.cases, self.ends, self.progress = [], [], []
        self.listener = BatchListener(
            onCase=lambda case, outcome, done, total: self.cases.append(
                (case.name, outcome.error, done, total)
            ),
            onProgress=lambda done, total: self.progress.append((done, total)),
            onFinished=self.ends.append,
        )


@pytest.fixture
def runs(scene, model, images, tmp_path, worker_client):
    from PartialSegSlicer.batchRun import BatchRun, makeBatch

    told = Listener()

    def make(tasks="liver", paths=images, **options):
        batch = makeBatch(paths, tmp_path / "out", tasks, None, model, ".seg.nrrd")
        return BatchRun(batch, {**model, **options}, told.listener, client=worker_client)

    make.told = told
    return make


def finish(run, until=lambda: False):
    end = time.monotonic() + TIMEOUT_SECONDS
    while run.isRunning and not until():
        assert time.monotonic() < end
        run.poll(0.02)


def rows_of(batch):
    with batch.summary.open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_every_image_gets_its_file_and_a_bad_one_its_sentence(runs, images):
    (images / "b.nrrd").write_text("not an image")
    run = runs()
    run.start()
    finish(run)
    told = runs.told
    assert told.ends == [""]
    assert [case[0] for case in told.cases] == ["a", "b", "c"]
    assert [case[2:] for case in told.cases] == [(1, 3), (2, 3), (3, 3)]
    rows = rows_of(run.batch)
    assert (rows["a"]["status"], rows["b"]["status"], rows["c"]["status"]) == ("done", "failed", "done")
    assert "b.nrrd" in rows["b"]["message"]
    assert told.progress
    found = read_segmentation(run.batch.folder / "a.seg.nrrd")
    assert found.shape == read_volume(images / "a.nii.gz").shape
    volume = sum(found.volume_ml(key) for key in found if key[1] == "liver")
    assert float(rows["a"]["liver/liver [ml]"]) == pytest.approx(volume, abs=1e-3)
    assert sorted(path.name for path in run.batch.folder.iterdir()) == [
        "a.seg.nrrd", "batch.json", "c.seg.nrrd", "summary.csv",
    ]  # fmt: skip


def test_a_cancelled_batch_goes_on_with_what_is_left(runs):
    run = runs()
    run.start()
    finish(run, until=lambda: runs.told.cases)
    run.cancel()
    finish(run)
    assert "cancelled" in runs.told.ends[0]
    done = len(runs.told.cases)
    assert done < 3
    again = runs()
    again.start()
    finish(again)
    assert runs.told.ends[1] == ""
    assert len(runs.told.cases) == 3
    assert runs.told.cases[done][3] == 3 - done


@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_a_batch_that_ends_in_its_first_case_leaves_the_folder_to_other_tasks(runs, end):
    run = runs()
    run.start()
    assert rows_of(run.batch)["a"]["status"] == "writing"
    getattr(run, end)()
    finish(run)
    assert not run.batch.summary.exists()
    assert len(runs("spleen").batch.left) == 3


@pytest.mark.parametrize("step", ["record", "finish"])
def test_a_summary_that_cannot_be_written_ends_the_run(runs, monkeypatch, step):
    def refuse(*arguments):
        raise InputError("There is no room left.")

    run = runs()
    monkeypatch.setattr(run.batch, step, refuse)
    run.start()
    finish(run)
    assert runs.told.ends == ["There is no room left."]
    assert len(runs.told.cases) == (0 if step == "record" else 3)


def test_a_worker_that_is_killed_costs_its_case_only(runs):
    run = runs()
    run.start()
    finish(run, until=lambda: runs.told.progress)
    os.kill(run.client.pid, signal.SIGKILL)
    finish(run)
    errors = [error for _, error, _, _ in runs.told.cases]
    assert len(errors) == 3
    assert sum("ended unexpectedly" in error for error in errors) == 1
    assert runs.told.ends == [""]


def test_a_missing_device_stops_the_batch(runs):
    run = runs(device="cuda:7")
    run.start()
    finish(run)
    assert runs.told.cases == []
    assert "cuda:7" in runs.told.ends[0]


def test_a_library_that_does_not_load_with_the_model_stops_the_batch(runs, tmp_path, monkeypatch):
    break_library("torch", tmp_path, monkeypatch)
    run = runs()
    run.start()
    finish(run)
    assert runs.told.cases == []
    assert runs.told.ends == [BROKEN]


def test_a_worker_that_leaves_for_want_of_a_library_costs_its_case_only(runs, images, tmp_path, monkeypatch):
    break_library("SimpleITK", tmp_path, monkeypatch)
    run = runs(paths=[images / "c.mha", images / "a.nii.gz"])
    run.start()
    finish(run)
    (first, second), ends = runs.told.cases, runs.told.ends
    assert first == ("c", BROKEN, 1, 2)
    assert second == ("a", "", 2, 2)
    assert ends == [""]


def test_the_next_file_is_not_given_to_a_worker_that_is_leaving(scene, model, tmp_path, monkeypatch):
    from PartialSegSlicer.worker.workerClient import WorkerClient
    from PartialSegSlicer.worker.workerJobs import FileJob

    break_library("torch", tmp_path, monkeypatch)
    client, errors = WorkerClient(), []

    def failed(error):
        errors.append((error.kind, str(error)))
        if len(errors) < 3:
            client.start(job)  # the worker has told why, and not ended yet

    request = SegmentFile(str(tmp_path / "a.nii.gz"), str(tmp_path / "a.seg.nrrd"), ("liver",))
    job = FileJob(model, request, errors.append, failed)
    client.start(job)
    client.wait()
    client.stop()
    assert errors == [("InternalError", BROKEN)] * 3


def break_library(name, folder, monkeypatch):
    """Let workers that start from now on fail to import a library, and take their time to leave."""
    slow_end = "import shutil, time; shutil.rmtree = lambda *arguments, **options: time.sleep(0.3)"
    (folder / "broken").mkdir()
    (folder / "broken" / f"{name}.py").write_text(f"{slow_end}\nraise ImportError('DLL load failed')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))


def test_a_name_that_another_run_has_given_to_another_image_stops_the_batch(runs, images):
    (images / "other").mkdir()
    write_volume(images / "other" / "c.nrrd", read_volume(images / "b.nrrd"))
    first, second = runs(), runs(paths=images / "other")  # the folder of the results is empty for both
    first.start()
    finish(first)
    written = (first.batch.folder / "c.seg.nrrd").read_bytes()
    second.start()
    finish(second)
    assert runs.told.ends[0] == ""
    assert f"The case c in {first.batch.folder} is {images / 'c.mha'}" in runs.told.ends[1]
    assert len(runs.told.cases) == 3
    assert (first.batch.folder / "c.seg.nrrd").read_bytes() == written
    assert rows_of(first.batch)["c"]["image"] == str(images / "c.mha")


def test_the_console_call_segments_files_and_goes_on(dialogs, scene, model, images, tmp_path):
    import PartialSeg

    logic = PartialSeg.PartialSegLogic()
    cases = []

    def keep(case, outcome, done, total):
        cases.append((case.name, outcome.error, done, total))

    options = {"model": model["path"], "device": "cpu", "onCase": keep, "outputFormat": "folder"}
    batch = logic.segmentFiles(images, tmp_path / "out", ["liver", "spleen"], **options)
    assert [case.name for case in batch.done] == ["a", "b", "c"]
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir())
    (images / "d.nii.gz").touch()
    batch = logic.segmentFiles(images, tmp_path / "out", ["liver", "spleen"], **options)
    assert [case[0] for case in cases] == ["a", "b", "c", "d"]
    assert "empty" in batch.failed["d"]
    for others in (
        {"tasks": "spleen"},
        {"skipAir": True},
        {"regionFrom": model["path"]},
        {"engine": "torch"},
    ):
        with pytest.raises(InputError, match="another batch"):
            logic.segmentFiles(
                images, tmp_path / "out", **{"tasks": ["liver", "spleen"], **options, **others}
            )
    assert scene.messages == []


def test_a_worker_writes_dicom_segmentations_beside_dicom_images(scene, model, tmp_path):
    from PartialSegSlicer.batchRun import makeBatch, runBatch

    folder = write_study(tmp_path / "ct")
    batch = makeBatch(folder, tmp_path / "out", "spleen", None, model, ".dcm", anyModality=True)
    ends = []
    runBatch(batch, model, lambda case, outcome, done, total: ends.append(outcome.error), anyModality=True)
    assert ends == [""]
    (segment,) = pydicom.dcmread(tmp_path / "out" / "ct.dcm").SegmentSequence
    assert segment.TrackingID == "spleen/spleen"
