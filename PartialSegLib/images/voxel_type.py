"""The smallest of two voxel types that holds a CT: int16, or float32 where int16 would lose something."""

import numpy as np

from ..errors import InputError


def compact(array: np.ndarray) -> np.ndarray:
    """Return voxels as int16 if that loses nothing, else as float32.

    Args:
        array: Voxels of any real type, in planes along the first axis.

    Returns:
        The array itself where it has the right type already.

    Raises:
        InputError: When a voxel is NaN or infinite.
    """
    if array.dtype == np.int16:
        return array
    if array.dtype.kind == "f":
        largest = np.finfo(np.float32).max
        finite = [bool((np.abs(plane) <= largest).all()) for plane in array]
        if not all(finite):
            raise InputError(
                f"Voxels are NaN or infinite (first in slice {finite.index(False)}); "
                "replace them by air (-1000 HU) before segmenting."
            )
    limits = np.iinfo(np.int16)
    is_integer = array.dtype.kind in "biu" or all(bool((plane == np.rint(plane)).all()) for plane in array)
    in_range = limits.min <= array.min() and array.max() <= limits.max
    return array.astype(np.int16 if is_integer and in_range else np.float32, copy=False)
