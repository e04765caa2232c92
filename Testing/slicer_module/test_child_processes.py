"""Child processes of the module: where their files lie, and that nothing of them is left."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import pythonqt
from scene_nodes import ctNode

from PartialSegLib.protocol import FoundSegment
from PartialSegLib.worker.scratch import ScratchFolder

from PartialSegSlicer.worker import workerClient, workerProcess
from PartialSegSlicer.worker.backgroundWork import BackgroundWork
from PartialSegSlicer.worker.childProcess import childOptions, killTree, lastWords, pythonProgram, wasKilled
from PartialSegSlicer.worker.temporaryFolder import removeLeftovers, startWorker, temporaryFolder
from PartialSegSlicer.worker.workerClient import FileJob, WorkerClient
from PartialSegSlicer.worker.workerProcess import WorkerProcess

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


@pytest.mark.parametrize(("home", "program"), [("/Slicer", "python-real"), (None, "PythonSlicer")])
def test_pythonslicer_is_only_started_where_its_environment_is_missing(tmp_path, monkeypatch, home, program):
    suffix = ".exe" if os.name == "nt" else ""
    for name in ("PythonSlicer", "python-real"):
        (tmp_path / (name + suffix)).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "") if home else monkeypatch.delenv("PYTHONHOME", raising=False)
    assert Path(pythonProgram()).stem == program


CRASHED = "error: [C:/Slicer 5.12/bin/./python-real.exe] exit abnormally - Report the problem."


@pytest.mark.parametrize(
    ("code", "lines", "killed", "words"),
    [
        (1, ["loading", CRASHED], True, "loading"),
        (1, [f"{CRASHED}\r"], True, ""),
        (-9, ["loading"], True, "loading"),
        (1, ["ValueError: no"], False, "ValueError: no"),
        (0, [], False, ""),
    ],
)
def test_what_the_launcher_says_of_a_crash_is_understood(code, lines, killed, words):
    assert (wasKilled(code, lines), lastWords(lines)) == (killed, words)


CRASH = "import ctypes, faulthandler, numpy; faulthandler.enable(); ctypes.string_at(0)"
CRASH_ON_WINDOWS = """12:00:01 predict 3 begins
Windows fatal exception: access violation

Thread 0x00001f44 (most recent call first):
  File "C:\\Slicer\\PartialSegLib\\worker\\wire.py", line 147 in read_lines

Current thread 0x00002a10 (most recent call first):
  <no Python frame>
  ...
"""


def test_the_last_words_of_a_crash_name_it_and_not_where_it_was():
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)
    assert lastWords(done.stderr.splitlines()) in (
        "Fatal Python error: Segmentation fault",
        "Windows fatal exception: access violation",
    )
    assert lastWords(CRASH_ON_WINDOWS.splitlines()) == "Windows fatal exception: access violation"


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


@pytest.fixture
def slicerLoop(monkeypatch):
    """Slicer's event loop until no timer is due: PythonQt keeps the GIL in it, unlike PySide6."""
    due = []
    timer = type("QTimer", (), {"singleShot": lambda milliseconds, function: due.append(function)})
    monkeypatch.setattr(pythonqt.qt, "QTimer", timer)
    sleep = ctypes.PyDLL(None).usleep  # does not release the GIL

    def run():
        sleep(100_000)
        while due:
            due.pop()()
            sleep(100_000)

    return run


@linux
@pytest.mark.parametrize("program", ["import sys; sys.stdin.read()", "import time; time.sleep(60)"])
def test_a_worker_ends_though_slicers_event_loop_holds_up_threads(monkeypatch, slicerLoop, program):
    monkeypatch.setattr(workerProcess, "_GRACE_SECONDS", 0.1)
    process = WorkerProcess([sys.executable, "-c", program])
    assert process.isRunning
    process.stop()
    slicerLoop()
    assert not isAlive(process.pid)
    assert not process.scratch.exists()


@linux
def test_a_model_is_installed_though_slicers_event_loop_holds_up_threads(slicerLoop):
    work = BackgroundWork(lambda: str([time.sleep(0) for _ in range(100)]), "test")  # each lets go of the GIL
    work.start()
    for _ in range(10):
        slicerLoop()
        if work.isDone():
            break
    assert work.answer


def jobOf(answers, warnings=None):
    warn = print if warnings is None else warnings.append
    return FileJob({}, {}, answers.append, answers.append, onWarning=warn)


def test_a_worker_that_does_not_hear_us_is_given_up(monkeypatch):
    monkeypatch.setattr(workerClient, "READY_SECONDS", 0.1)
    client, answers = WorkerClient(lambda: WorkerProcess(READER)), []
    client.start(jobOf(answers))
    client.wait()
    assert answers[0].kind == "WorkerDied"
    assert "did not answer within" in str(answers[0])
    assert client.pid is None


def test_a_worker_of_another_version_is_told():
    program = 'import sys; input(); print(\'{"ready": {"version": "0.0.1", "pid": 1}}\')'
    client, answers, warnings = WorkerClient(lambda: WorkerProcess([sys.executable, "-c", program])), [], []
    client.start(jobOf(answers, warnings))
    client.wait()
    assert "the worker 0.0.1; restart Slicer" in warnings[0]
    assert "ended unexpectedly" in str(answers[0])


def test_a_worker_whose_folder_was_cleaned_away_is_replaced():
    client = WorkerClient(lambda: WorkerProcess(READER))
    for _ in range(2):
        client.start(jobOf([]))
        first, client._job = client._process, None
        shutil.rmtree(first.scratch)
    client.start(jobOf([]))
    assert client._process.scratch.is_dir()
    assert client._process is not first
    client.stop()


def test_only_what_a_crashed_slicer_has_left_is_removed(tmp_path):
    process = WorkerProcess(READER, tmp_path)
    for name, files in {"crashed": ["PartialSeg-in-use", "image-1.npy"], "main": ["image-1.npy"]}.items():
        (tmp_path / f"PartialSeg-{name}").mkdir()
        for file in files:
            (tmp_path / f"PartialSeg-{name}" / file).touch()
    removeLeftovers(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {process.scratch.name, "PartialSeg-main"}
    process.stop()


def endWorker(process):
    ScratchFolder(process.scratch).remove_all()
    process.stop()


@pytest.mark.parametrize("end", [endWorker, WorkerProcess.stop])
def test_an_image_that_windows_holds_on_to_is_removed_by_the_next_slicer(tmp_path, monkeypatch, end):
    process, unlink = WorkerProcess(READER, tmp_path), os.unlink

    def refuse_mapped(path, **options):
        if str(path).endswith("image-1.npy"):
            raise PermissionError(13, "The file is mapped")
        unlink(path, **options)

    for name in ("image-1.npy", "mask-2-0.npy"):
        (process.scratch / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse_mapped)
        end(process)
        waitUntil(lambda: not (process.scratch / "mask-2-0.npy").exists())
        waitUntil(lambda: process._mark.closed and not reapers())
        removeLeftovers(tmp_path)
    assert {file.name for file in process.scratch.iterdir()} == {"PartialSeg-in-use", "image-1.npy"}
    removeLeftovers(tmp_path)
    assert not process.scratch.exists()


def test_a_mask_that_a_virus_scanner_holds_on_to_is_read_all_the_same(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "The process cannot access the file", str(path))

    np.save(tmp_path / "mask-2-0.npy", np.ones((1, 2, 3), np.uint8))
    found = FoundSegment("liver", "liver", "mask-2-0.npy", ((0, 1), (0, 2), (0, 3)), 6)
    monkeypatch.setattr(os, "unlink", refuse)
    assert workerClient._readSegment(tmp_path, found).mask.sum() == 6


def reapers():
    return [thread for thread in threading.enumerate() if thread.name == "PartialSeg reap"]


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
