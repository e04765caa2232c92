"""One preprocessed case on disk: compressed arrays of which boxes are read, and what placing patches needs.

A case is a folder: `image.b2nd` float16 (C, D, H, W), `labels.b2nd` uint8 or uint16 (D, H, W) with the values
of the label map, `voxels.npz` with some voxels (n, 3) of each value, and `case.json`, a `CaseSummary`.

The arrays are Blosc2's: blocks of 16 x 48 x 48 voxels in chunks of 32 x 96 x 96, compressed by Zstandard. For
a phantom of 300 x 400 x 400 voxels they take 24 MB, and a patch of 64 x 192 x 192 is read in 22 ms, in 24 ms
when the file is not in memory. Memory-mapped npy files take 144 MB, 14 and 57 ms; zarr 32 MB and 47 ms; LZ4
in place of Zstandard 39 MB, 18 and 30 ms. What does not fit into memory would make training wait.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node
from secrets import token_hex
from typing import Any, Final

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ...files.file_names import is_from_file_manager
from ...files.json_fields import from_json, to_json
from ...files.output_files import explained_writing_errors

Size = tuple[int, int, int]

IMAGE_FILE: Final = "image.b2nd"
LABELS_FILE: Final = "labels.b2nd"
VOXELS_FILE: Final = "voxels.npz"
CASE_FILE: Final = "case.json"
FILES: Final = {IMAGE_FILE, LABELS_FILE, VOXELS_FILE, CASE_FILE}
BLOCK: Final = (16, 48, 48)
CHUNK: Final = (32, 96, 96)
KEPT_VOXELS: Final = 5000
PARTIAL: Final = ".partial-"  # in the name of a folder in which a case is being written
STALE_AFTER_S: Final = 6 * 3600  # a case is written within minutes, perhaps by another computer


@dataclass(frozen=True)
class LabelValue:
    """A value of the label map other than 0 that occurs in a case.

    Attributes:
        value: as in the label map.
        voxels: how many there are.
        low, high: the box around them (z, y, x): first voxels, and the first ones beyond.
    """

    value: int
    voxels: int
    low: Size
    high: Size


@dataclass(frozen=True)
class CaseSummary:
    """What `case.json` says of a case.

    Attributes:
        settings: hash of everything that the case was made from.
        shape: voxels (z, y, x).
        background: the scaled intensity outside the image, for each channel.
        values: of the label map, ascending.
        image_content: see `case_images.image_content`; empty where an earlier version prepared the case.
    """

    settings: str
    shape: Size
    background: tuple[float, ...]
    values: tuple[LabelValue, ...]
    image_content: str = ""


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case; nothing but its summary is held in memory.

    Attributes:
        folder: of the case.
        summary: its `case.json`.
    """

    folder: Path
    summary: CaseSummary

    def read_image(self, start: Size, size: Size) -> np.ndarray:
        """Part of the image, float32 (C, *size); voxels outside the image have its background.

        Args:
            start: first voxel (z, y, x), which may lie outside.
            size: voxels (z, y, x).

        Raises:
            InputError: the file is missing or damaged.
        """
        outside = np.array(self.summary.background)[:, None, None, None]
        return self._read(IMAGE_FILE, start, size, outside).astype(np.float32)

    def read_labels(self, start: Size, size: Size) -> np.ndarray:
        """Part of the label map, uint8 or int32 (*size); voxels outside the image are 0, as `read_image`."""
        labels = self._read(LABELS_FILE, start, size, np.array(0))
        return labels if labels.dtype == np.uint8 else labels.astype(np.int32)  # torch knows little of uint16

    def voxels_of(self, value: int) -> np.ndarray:
        """Indices (n, 3) of up to 5,000 random voxels with a value of the label map that occurs.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.folder / VOXELS_FILE
        try:
            with path.open("rb") as file, np.load(file) as kept:
                voxels: np.ndarray = kept[str(value)]
        except Exception as error:  # whatever archives and their arrays raise when they are damaged
            raise _unreadable(path, error) from None
        return voxels.astype(np.int64)

    def _read(self, name: str, start: Size, size: Size, outside: np.ndarray) -> np.ndarray:
        path, blosc2 = self.folder / name, _blosc2()
        bounds = list(zip(start, size, self.summary.shape, strict=True))
        inside = [slice(min(max(s, 0), m), min(max(s + n, 0), m)) for s, n, m in bounds]
        try:
            part: np.ndarray = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})[(..., *inside)]
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from None
        if part.shape[-3:] == tuple(size):
            return part
        result = np.empty((*part.shape[:-3], *size), part.dtype)
        result[:] = outside
        place = [slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True)]
        result[..., place[0], place[1], place[2]] = part
        return result


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({error}); delete its folder and start again.")


def read_case(folder: Path) -> PreparedCase | None:
    """A prepared case; None if there is none, or not a whole one."""
    try:
        values = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        return PreparedCase(folder, from_json(CaseSummary, values))
    except (OSError, ValueError):  # also InputError: written by another version
        return None


def is_prepared(folder: Path, settings: str) -> bool:
    """Whether a whole case made with these settings is there."""
    case = read_case(folder)
    return case is not None and case.summary.settings == settings


def check_place(folder: Path) -> None:
    """Refuse a place for a case where something else lies.

    Raises:
        InputError: the folder holds other files than those of a case.
    """
    if not _has_only_files_of_a_case(folder):
        raise InputError(f"{folder} is no prepared case; choose a new folder for the prepared cases.")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left, hours ago, in a folder of cases."""
    for leftover in folder.glob(f".*{PARTIAL}*"):
        with suppress(OSError):  # another process was quicker
            if time.time() - leftover.stat().st_mtime > STALE_AFTER_S and _has_only_files_of_a_case(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def write_case(
    folder: Path,
    image: np.ndarray,
    labels: np.ndarray,
    background: tuple[float, ...],
    settings: str,
    image_content: str = "",
) -> None:
    """Write a case in one stroke; one of other settings is replaced, one of the same settings stays.

    Args:
        folder: of the case.
        image: (C, D, H, W), scaled; kept as float16.
        labels: (D, H, W) uint8 or uint16.
        background: scaled intensity outside the image, for each channel.
        settings: see `CaseSummary`.
        image_content: see `CaseSummary`.

    Raises:
        InputError: the place cannot be written to, or its disk is full.
    """
    depth, height, width = labels.shape
    values = label_values(labels)
    voxels: dict[str, Any] = {str(value.value): _some_voxels(labels, value) for value in values}
    summary = CaseSummary(settings, (depth, height, width), background, values, image_content)
    with _new_case(folder, settings) as temporary:
        (temporary / IMAGE_FILE).write_bytes(_compressed(image.astype(np.float16, copy=False)))
        (temporary / LABELS_FILE).write_bytes(_compressed(labels))
        with (temporary / VOXELS_FILE).open("wb") as file:
            np.savez(file, **voxels)
        (temporary / CASE_FILE).write_text(json.dumps(to_json(summary)) + "\n", encoding="utf-8")


def label_values(labels: np.ndarray) -> tuple[LabelValue, ...]:
    """The values other than 0 in a label map (D, H, W), ascending, with their voxel counts and boxes."""
    counts = np.bincount(labels.ravel())
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            z, y, x = box
            low, high = (z.start, y.start, x.start), (z.stop, y.stop, x.stop)
            found.append(LabelValue(value, int(counts[value]), low, high))
    return tuple(found)


@contextmanager
def _new_case(folder: Path, settings: str) -> Iterator[Path]:
    """A folder to write a case into, which takes its place at once."""
    temporary = _beside(folder)
    try:
        with explained_writing_errors(folder):
            temporary.mkdir(parents=True)
            yield temporary
            _put_in_place(temporary, folder, settings)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, settings: str) -> None:
    """Rename a finished case, unless another process was quicker."""
    for attempts_left in reversed(range(10)):
        if is_prepared(folder, settings):
            return
        try:
            _remove_case(folder)
            temporary.rename(folder)
            return
        except OSError:  # another process did the same, or a virus scanner looks at it
            if not attempts_left:
                raise
            time.sleep(0.1)


def _beside(folder: Path) -> Path:
    """A name that no other process on any computer takes."""
    return folder.with_name(f".{node()}-{os.getpid()}-{token_hex(4)}{PARTIAL}{folder.name}")


def _remove_case(folder: Path) -> None:
    """Remove a case if there is one, or what is left of one; nobody ever sees half of it."""
    check_place(folder)
    aside = _beside(folder)
    with suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _has_only_files_of_a_case(folder: Path) -> bool:
    """Whether a folder holds nothing else; also if there is none, or no more."""
    try:
        names = {path.name for path in folder.iterdir()}
        return {name for name in names if not is_from_file_manager(name)} <= FILES
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _some_voxels(labels: np.ndarray, value: LabelValue) -> np.ndarray:
    """Up to `KEPT_VOXELS` indices (n, 3) uint16 of a value, the same ones each time."""
    box = tuple(slice(low, high) for low, high in zip(value.low, value.high, strict=True))
    voxels = np.argwhere(labels[box] == value.value) + np.array(value.low)
    if len(voxels) > KEPT_VOXELS:
        voxels = voxels[np.random.default_rng(value.value).choice(len(voxels), KEPT_VOXELS, replace=False)]
    return voxels.astype(np.uint16)


def _compressed(array: np.ndarray) -> bytes:
    """A contiguous Blosc2 frame, written by Python because Blosc2 keeps quiet about a full disk."""
    blosc2 = _blosc2()
    channels = (1,) * (array.ndim - 3)
    settings = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    chunk = tuple(min(n, size) for n, size in zip(CHUNK, array.shape[-3:], strict=True))
    block = tuple(min(n, size) for n, size in zip(BLOCK, array.shape[-3:], strict=True))
    stored = blosc2.asarray(
        np.ascontiguousarray(array), chunks=channels + chunk, blocks=channels + block, cparams=settings
    )
    frame: bytes = stored.to_cframe()
    return frame


def _blosc2() -> Any:
    """Blosc2, imported only here: it is an optional package."""
    try:
        import blosc2  # type: ignore[import-untyped]
    except ImportError as error:
        advice = """pip install ".[training]" in the repository's folder"""
        raise InputError(
            f"Training on a collection needs Blosc2 ({error}); install it by {advice}."
        ) from None
    return blosc2
