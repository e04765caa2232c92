"""What all tests share: which of them this machine can run, and the MRML scene."""

import os
import signal
import sys
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from small_packages import write_package, zip_package

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Files of tests need not outlive a power cut; waiting for the disk takes up to 50 ms for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_models_of_the_user(tmp_path_factory):
    """Tests neither see nor change what the user has installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path_factory.mktemp("user") / "models"))
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Programs that tests start heed Ctrl+C as on a terminal; shells let what they start with & ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def scene(monkeypatch):
    """The empty MRML scene; what VTK complains of, and exceptions in observers, fail the test at its end."""
    import slicer_scene

    scene = slicer_scene.reset()
    monkeypatch.setattr(
        sys, "excepthook", lambda *error: scene.messages.extend(traceback.format_exception(*error))
    )
    yield scene
    assert not scene.messages


@pytest.fixture
def dialogs(scene):
    """The scene with windows, offscreen; message boxes are answered and recorded."""
    import pythonqt

    with pythonqt.panel_windows() as dialogs:
        yield dialogs


@pytest.fixture
def widget(dialogs):
    """The panel, shown in the empty scene."""
    from panel_steps import makeWidget

    widget = makeWidget()
    yield widget
    widget.cleanup()


@pytest.fixture
def volumeNode(widget):
    """A coarse phantom CT, chosen in the panel."""
    import pythonqt
    from panel_steps import addPhantomNode

    node = addPhantomNode()
    pythonqt.choose(widget.ui.inputSelector, "Phantom")
    return node


@pytest.fixture(scope="module")
def worker_client():
    """One worker for a whole file: starting it takes most of the time."""
    import slicer_scene

    slicer_scene.boot()
    from PartialSegSlicer.worker.workerClient import WorkerClient

    client = WorkerClient()
    yield client
    client.stop()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small model package as somebody may have downloaded it."""
    return write_package(tmp_path / "source" / "tiny")


@pytest.fixture
def archive(package: Path, tmp_path: Path) -> Path:
    """The same in a .zip."""
    return zip_package(package, tmp_path / "tiny.zip", "tiny/")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, which does not exist yet."""
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path / "models"
