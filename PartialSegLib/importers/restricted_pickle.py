"""Reading pickled files of nnU-Net, such as the plans of version 1, without running what they ask for."""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np

from ..errors import InputError

LARGEST_BYTES: Final = 256 << 20  # plans list every case of the data set, and yet stay below a few megabytes


class StandIn:
    """Called in the place of what NumPy has, which believes the addresses that a pickle holds."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Refuse a state; without this a pickle could change the class itself."""
        raise InputError(_refusal("a value with a forged state"))


class PlainType(StandIn):
    """In the place of numpy.dtype: a kind of number or text, its size and byte order, and nothing else.

    Raises:
        InputError: any other type, such as one of objects, of fields or of bytes without a meaning.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not re.fullmatch("[biufc][0-9]{1,2}|[SU][0-9]{1,9}", code):
            raise InputError(_refusal(f"values of NumPy's type {str(code)[:40]!r}"))
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, and refuse a subtype, names and fields."""
        _version, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise InputError(_refusal("a NumPy type with a forged state"))
        self.dtype = self.dtype.newbyteorder(order)


class PlainScalar(StandIn):
    """In the place of NumPy's function scalar.

    Raises:
        InputError: the type is not a `PlainType`, or there are no bytes for one value.
    """

    __slots__ = ()

    def __new__(cls, kind: Any, data: Any = None) -> Any:
        """The value, a number or text of NumPy."""
        return _values(kind, (), data)[()]


class _Array(np.ndarray):
    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        values = _values(kind, shape, data, "F" if fortran else "C")
        checked: Any = (1, values.shape, values.dtype, bool(fortran), data)
        super().__setstate__(checked)


class _NewArray(StandIn):
    """In the place of NumPy's function _reconstruct: an empty array, which waits for its state."""

    __slots__ = ()

    def __new__(cls, *ignored: Any) -> Any:
        return np.zeros(0).view(_Array)


def _values(kind: Any, shape: Any, data: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    """The array that these bytes are, neither more nor fewer.

    Raises:
        InputError: the type is not a `PlainType`, or the bytes are no bytes or another number of them.
    """
    if not isinstance(kind, PlainType) or not isinstance(data, bytes):
        raise InputError(_refusal("an array without plain values"))
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise InputError(_refusal("an array of another size than its bytes"))
    values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    if kind.dtype.kind == "U":
        values.tolist()  # numbers that are no characters are found now
    return values


def _refusal(what: str) -> str:
    advice = "a file may hold plain values and arrays only, so ask its authors for such a one."
    return f"it asks for {what}; {advice}"


ALLOWED: Final = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "ndarray"): StandIn,
    ("numpy", "dtype"): PlainType,
    **{
        (f"numpy.{core}.multiarray", name): part
        for core in ("core", "_core")
        for name, part in (("_reconstruct", _NewArray), ("scalar", PlainScalar))
    },
}
"""What a pickle may name: plain containers, and what we make of NumPy's arrays and numbers."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], functions: Collection[tuple[str, str]]) -> None:
        super().__init__(file)
        self._functions = functions

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._functions:
            return name
        if (module, name) not in ALLOWED:
            raise InputError(_refusal(f"{module}.{name}"))
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
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions."
        ) from None
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    except MemoryError:  # the file may be sound
        raise
    except Exception as error:  # whatever a damaged pickle provokes
        raise InputError(f"{path} is damaged or no pickle ({type(error).__name__}); copy it again.") from None
