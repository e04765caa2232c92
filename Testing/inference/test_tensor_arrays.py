"""Tensors and arrays, with and without a PyTorch that knows the numpy beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import Volume, segment
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.pytorch import tensor_arrays
from PartialSegLib.pytorch.tensor_arrays import array_of, tensor_of

TYPES = ("bool", "uint8", "int16", "int32", "int64", "float32", "float64")


@pytest.fixture(params=[True, False], ids=["fitting", "strangers"])
def numpy_is_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The second case is that of PyTorch 2.2 beside numpy 2, the only one for Slicer on macOS."""
    monkeypatch.setattr(tensor_arrays, "_know_each_other", lambda: request.param)
    return request.param


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3), ()])
def test_values_type_and_shape_survive_both_ways(
    numpy_is_known: bool, kind: str, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    tensor = tensor_of(array)
    assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{kind}", shape)
    assert tensor.tolist() == array.tolist()
    back = array_of(tensor)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_arrays_that_cannot_be_written_to_and_slices_are_copied(numpy_is_known: bool) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    assert array_of(tensor_of(array[:, 1:, ::2])).tolist() == array[:, 1:, ::2].tolist()
    if not numpy_is_known:  # PyTorch warns and hands out the memory itself
        array.setflags(write=False)
        tensor_of(array).zero_()
        assert array.any()
    assert array_of(torch.arange(6).reshape(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_segmentation_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = write_tiny_model(tmp_path / "tiny", TASKS, Preprocessing("SAR", (4, 4, 4), (-325, 325)))
    array = np.random.default_rng(0).normal(0, 250, (20, 24, 26)).astype(np.int16)
    volume = Volume(array, np.diag([3.0, 3.0, 3.0, 1.0]))
    expected = segment(volume, package)
    monkeypatch.setattr(tensor_arrays, "_know_each_other", lambda: False)
    found = segment(volume, package)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
