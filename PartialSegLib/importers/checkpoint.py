"""Reading pickled checkpoints without running them, and renaming their weights without losing one."""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..manifest import Manifest
from ..pytorch.safe_torch import require_safe_torch
from .restricted_pickle import PlainScalar, PlainType

NUMBERS: list[Any] = [  # logs of nnU-Net hold NumPy's numbers; its own functions believe any address
    (PlainType, "numpy.dtype"),
    (PlainScalar, "numpy.core.multiarray.scalar"),
    (PlainScalar, "numpy._core.multiarray.scalar"),
]
_MOST_REPEATED_BYTES = 1 << 30
"""Which tensors may have beyond what the file stores; a few kilobytes could become any number of them."""
_MOST_CHECKED_BYTES, _CHUNK_BYTES = 64 << 30, 1 << 20
PARALLEL_PREFIX = "module."  # written by DataParallel and DistributedDataParallel


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """What an importer makes of a checkpoint, ready for `save_model`."""

    manifest: Manifest
    state_dict: dict[str, Tensor]
    license_text: str


def read_checkpoint(path: Path) -> Any:
    """Unpickle a checkpoint of tensors and plain containers; anything else is refused before it is called.

    Raises:
        InputError: missing or damaged file, or a pickle that asks for any other function or class.
        MemoryError: too little memory.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}; check the path.")
    require_safe_torch()
    if _has_damaged_record(path):
        raise InputError(f"{path} is damaged, its checksums do not fit; copy or download it again.")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS):
            warnings.simplefilter("ignore")  # torch warns of pickle protocols other than its own
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    except MemoryError:  # the file may be sound
        raise
    except Exception as error:  # whatever a damaged file provokes inside torch
        sought_behind_the_end = getattr(error, "errno", None) == errno.EINVAL
        if isinstance(error, OSError) and not sought_behind_the_end:
            reason = error.strerror or str(error)
            raise InputError(f"{path} cannot be read ({reason}); check its permissions.") from None
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            raise MemoryError(str(error)) from None
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and forbidden:
            raise InputError(
                f"{path} is refused because loading it would call {forbidden[1]}; a checkpoint may hold "
                "tensors and plain values only, so ask its authors for such a file."
            ) from None
        raise InputError(
            f"{path} is damaged or not a PyTorch checkpoint; copy or download it again."
        ) from None


def _has_damaged_record(path: Path) -> bool:
    """Whether a record of a checkpoint in today's format, a zip, is another than was written.

    torch does not look: a bit that has changed on the way would become a weight of 1e36.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_CHECKED_BYTES:
                return False
            for entry in archive.infolist():
                if entry.CRC:  # torch can be told to leave it out
                    with archive.open(entry) as record:
                        while record.read(_CHUNK_BYTES):
                            pass
            return False
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return True
    except (
        NotImplementedError,
        RuntimeError,
    ):  # encrypted, or compressed in a way of its own: torch refuses it
        return False


def _can_be_mapped(path: Path) -> bool:
    """Whether torch can take the weights from the file piece by piece, without a copy of them in memory."""
    if os.name == "nt" or not zipfile.is_zipfile(path):  # Windows cannot remove a file that is mapped
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def refuse_unknown_keys(container: Mapping[str, Any], weights_key: str, known: set[str]) -> None:
    """Refuse a container that holds more than the weights and what is known to lie beside them.

    Raises:
        InputError: naming the first unknown key.
    """
    unknown = sorted(map(str, container.keys() - known))
    if unknown:
        raise InputError(
            f"the key {unknown[0]!r} beside {weights_key!r} is unknown; choose the file that training saved."
        )


def named_weights(contents: Any, place: str = "") -> dict[str, Any]:
    """The contents, if they are a dictionary with names for keys.

    Args:
        contents: what should be the weights.
        place: where they should be, for the message.

    Raises:
        InputError: they are something else, or there are none.
    """
    if not isinstance(contents, dict) or not contents or not all(isinstance(key, str) for key in contents):
        raise InputError(f"it holds no named weights{place}; choose the file that training saved.")
    return contents


def without_parallel_prefix(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Strip "module." from the keys if every key has it."""
    if all(key.startswith(PARALLEL_PREFIX) for key in weights):
        return {key.removeprefix(PARALLEL_PREFIX): value for key, value in weights.items()}
    return dict(weights)


def official_name(name: str, rules: Mapping[str, str]) -> str:
    """Apply every rule, a regular expression and its replacement, to the name of one of our weights."""
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def renamed_weights(
    weights: Mapping[str, Any], network: nn.Module, rules: Mapping[str, str]
) -> dict[str, Tensor]:
    """Give official weights the names of our network, float32 or integers, consuming every key.

    Args:
        weights: official name to tensor.
        network: ours, with or without storage.
        rules: from our names to the official ones, see `official_name`.

    Raises:
        InputError: a key is unknown, missing, no tensor of the kind our network has, of another shape, or
            has more values than the file; it is named.
    """
    expected = {official_name(name, rules): (name, wanted) for name, wanted in network.state_dict().items()}
    result, repeated = {}, 0
    for key, value in weights.items():
        if key not in expected:
            raise InputError(
                f"the key {key!r} is not part of this network; check which network the checkpoint is of."
            )
        name, wanted = expected[key]
        if not is_stored(value) or not _is_of_kind(value, wanted):
            raise InputError(
                f"the key {key!r} is not a tensor of weights; choose the file that training saved."
            )
        if value.shape != wanted.shape:
            raise InputError(
                f"the key {key!r} has shape {tuple(value.shape)}, but this network expects "
                f"{tuple(wanted.shape)}; check which network the checkpoint is of."
            )
        repeated += max(0, value.numel() * value.element_size() - value.untyped_storage().nbytes())
        if repeated > _MOST_REPEATED_BYTES:
            raise InputError(
                f"the key {key!r} repeats a few values instead of storing {tuple(value.shape)} of them; "
                "choose the file that training saved."
            )
        result[name] = value.float() if wanted.is_floating_point() else value
    missing = [key for key, (name, _) in expected.items() if name not in result]
    if missing:
        raise InputError(f"the key {missing[0]!r} is missing; check which network the checkpoint is of.")
    return result


def is_stored(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor with all of its values."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _is_of_kind(value: Tensor, wanted: Tensor) -> bool:
    """Whether both are floating-point, or integers of the same type."""
    return value.is_floating_point() if wanted.is_floating_point() else value.dtype == wanted.dtype
