"""Child processes of the module: where their files lie, and that nothing of them is left."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scene_nodes import ctNode

from PartialSegSlicer.childProcess import childOptions, killTree
from PartialSegSlicer.temporaryFolder import startWorker, temporaryFolder
from PartialSegSlicer.workerClient import FileJob, WorkerClient
from PartialSegSlicer.workerProcess import WorkerProcess

READER = [sys.executable, "-c", "import sys; sys.stdin.read()"]
linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")


def waitUntil(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def isAlive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@linux
def test_what_a_launcher_has_started_is_killed_with_it():
    launcher = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, **childOptions()
    )
    with launcher:
        child = int(launcher.stdout.readline())
        killTree(launcher)
        assert launcher.wait() != 0
        waitUntil(lambda: not isAlive(child))
        killTree(launcher)  # what has ended is left alone


def test_a_worker_ends_with_its_client():
    processes = []

    def start():
        processes.append(WorkerProcess(READER))
        return processes[0]

    client = WorkerClient(start)
    client.start(FileJob({}, {}, print, print))
    assert processes[0].isRunning
    del client
    gc.collect()
    waitUntil(lambda: not processes[0].isRunning and not processes[0].scratch.exists())


def test_arrays_lie_in_the_folder_of_the_application_settings(scene, tmp_path, monkeypatch):
    import slicer

    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    process = startWorker()
    assert process.scratch.parent == tmp_path
    process.stop()
    waitUntil(lambda: not process.isRunning and not process.scratch.exists())
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "none"))
    assert temporaryFolder() != str(tmp_path / "none")


def test_scripts_use_the_stored_folder_of_models(dialogs, tmp_path, monkeypatch):
    import qt

    from PartialSeg import PartialSegLogic

    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", "elsewhere")
    qt.QSettings().setValue("PartialSeg/modelFolder", str(tmp_path))
    PartialSegLogic()
    assert os.environ["PARTIALSEG_MODEL_DIR"] == str(tmp_path)


def test_scripts_are_told_what_speaks_against_a_volume(dialogs, caplog):
    import numpy as np

    from PartialSeg import PartialSegLogic

    logic = PartialSegLogic()
    magnetic = ctNode(array=np.full((20, 20, 20), 300, np.int16))
    logic.segmentAsync(magnetic, "liver", device="cpu")
    logic.cleanup()
    assert "does not look like a CT in HU" in caplog.text
