"""What all tests share: which of them this machine can run, and the MRML scene."""

import sys
import traceback

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


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
