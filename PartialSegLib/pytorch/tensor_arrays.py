"""Tensors from arrays and back, also where PyTorch was built for another numpy.

The last PyTorch for Macs with Intel's instructions, 2.2, knows numpy 1 only; 3D Slicer for macOS has these
instructions and numpy 2. What they exchange then is plain memory.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

_TYPES: dict[type[np.generic], torch.dtype] = {
    np.bool_: torch.bool,
    np.uint8: torch.uint8,
    np.int16: torch.int16,
    np.int32: torch.int32,
    np.int64: torch.int64,
    np.float32: torch.float32,
    np.float64: torch.float64,
}


def tensor_of(array: np.ndarray) -> Tensor:
    """An array as a tensor on the CPU, of the same shape and type; it shares memory where it can.

    Args:
        array: of any shape; bool, uint8, int16 to int64, float32 or float64.
    """
    if _know_each_other():
        return torch.from_numpy(array)
    return _view(np.require(array, requirements=("C", "W")))


def array_of(tensor: Tensor) -> np.ndarray:
    """A tensor on any device as an array of the same shape and type; it shares memory where it can."""
    tensor = tensor.detach().cpu()
    if _know_each_other():
        return tensor.numpy()
    types = {torch_type: numpy_type for numpy_type, torch_type in _TYPES.items()}
    array = np.empty(tuple(tensor.shape), types[tensor.dtype])
    _view(array).copy_(tensor)
    return array


def _view(array: np.ndarray) -> Tensor:
    kind = _TYPES[array.dtype.type]
    if array.size == 0:  # there is no buffer of nothing
        return torch.empty(array.shape, dtype=kind)
    return torch.frombuffer(array, dtype=kind).reshape(array.shape)


@functools.cache
def _know_each_other() -> bool:
    try:
        torch.from_numpy(np.zeros(1))
    except RuntimeError:  # Numpy is not available
        return False
    return True
