"""Reading pickled files of nnU-Net, such as the plans of version 1, without running what they ask for."""

from __future__ import annotations

import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from ..errors import InputError

LARGEST_BYTES: Final = 256 << 20  # plans list every case of the data set, and yet stay below a few megabytes

_ARRAY_PARTS = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
ALLOWED: Final = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", name): part
        for core in ("core", "_core")
        for name, part in zip(("_reconstruct", "scalar"), _ARRAY_PARTS, strict=True)
    },
}
"""What a pickle may name: plain containers and NumPy's arrays and numbers. Nothing here calls other code."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], functions: Collection[tuple[str, str]]) -> None:
        super().__init__(file)
        self._functions = functions

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._functions:
            return name
        if (module, name) not in ALLOWED:
            raise InputError(
                f"it asks for {module}.{name}; a file may hold plain values and arrays only, so ask its "
                "authors for such a one."
            )
        return ALLOWED[module, name]


def read_plain_pickle(path: Path, functions: Collection[tuple[str, str]] = ()) -> Any:
    """Unpickle containers, numbers, texts and NumPy arrays; anything else is refused before it is called.

    Args:
        path: the file.
        functions: module and name of those that the file may mention. They are neither imported nor called:
            in what is returned their name stands for them, as a text.

    Raises:
        InputError: missing, damaged or unreasonably large file, or one that asks for anything else.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError("it is too large for a file of plain values.")
        with path.open("rb") as file:
            return _PlainUnpickler(file, functions).load()
    except FileNotFoundError:
        raise InputError(f"There is no {path}; keep the files of a fold together.") from None
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    except Exception as error:  # whatever a damaged pickle provokes
        raise InputError(f"{path} is damaged or no pickle ({type(error).__name__}); copy it again.") from None
