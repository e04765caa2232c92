"""The wire between Slicer and the worker: one JSON object a line, and arrays in files of a scratch folder.

Requests are `{"id", "method", "params"}`, replies `{"id", "result"}` or `{"id", "error"}`; before its reply a
request may have `{"id", "progress"}` and `{"id", "warning"}`. Requests are answered one after the other; the
end of the input ends the worker. Lines are UTF-8 and hold ASCII only. The client makes and removes the
scratch folder; the worker deletes an image when another takes its place, the client the masks it has read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .files.json_fields import from_json, require
from .sentences import suggestion

LINE_LIMIT = 1 << 20
"""Longest line in bytes; arrays travel in files."""
_LARGEST_ID = 1 << 53  # beyond it JSON readers disagree on whole numbers
_ARRAY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.npy", re.ASCII)

Row = tuple[float, float, float, float]


class ProtocolError(ValueError):
    """A line or an array file that the other side should not have sent; the message is one sentence.

    Attributes:
        id: number of the request; None if it is not known.
    """

    def __init__(self, message: str, id: int | None = None) -> None:
        super().__init__(message)
        self.id = id


@dataclass(frozen=True)
class LoadModel:
    """Parameters of `load_model`.

    Attributes:
        path: name of an installed package, or a folder.
        device, precision, overlap, mirror, cache_bytes, selection, skip_air, engine: as of
            `InferenceSession`.
        region_from: name or folder of the package of a coarse model that looks first; None for none.
        effort: of the coarse model, 0 (fast) to 1 (thorough), as of `CoarsePass`; without one it means
            nothing. A prediction may have another.
    """

    path: str
    device: str = "auto"
    precision: str = "auto"
    overlap: float | None = None
    mirror: bool = False
    cache_bytes: int | None = None
    selection: str = "auto"
    skip_air: bool = False
    region_from: str | None = None
    effort: float = 1.0
    engine: str = "auto"

    def __post_init__(self) -> None:
        """Refuse a budget below nothing, and an effort that is no share."""
        require(
            self.cache_bytes is None or self.cache_bytes >= 0,
            f"cache_bytes: expected 0 or more bytes, or null, got {self.cache_bytes}",
        )
        _require_effort(self.effort)


@dataclass(frozen=True)
class SetImage:
    """Parameters of `set_image`.

    Attributes:
        array: name of a file in the scratch folder with voxels (z, y, x) in HU.
        affine: from array index order (k, j, i, 1) to RAS mm, as in `Volume`.
        crop_to_body: look only at the box around the body; None does what the model's manifest says.
    """

    array: str
    affine: tuple[Row, Row, Row, Row]
    crop_to_body: bool | None = None

    def __post_init__(self) -> None:
        """Refuse names that are no plain file names."""
        require(
            bool(_ARRAY_NAME.fullmatch(self.array)),
            f"array: expected the bare name of a .npy file in the scratch folder, got {self.array[:60]!r}",
        )


@dataclass(frozen=True)
class Predict:
    """Parameters of `predict`.

    Attributes:
        tasks: names of tasks; None for all that yield a wanted structure.
        structures: ids of the structures to return; None for all of the tasks.
        roi: region of interest x0, x1, y0, y1, z0, z1 in RAS mm; None for the whole image.
        effort: instead of that of `load_model`, so that another one keeps image and features; None for that.
    """

    tasks: tuple[str, ...] | None
    structures: tuple[str, ...] | None = None
    roi: tuple[float, float, float, float, float, float] | None = None
    effort: float | None = None

    def __post_init__(self) -> None:
        """Refuse to segment nothing, and an effort that is no share."""
        for name in ("tasks", "structures"):
            require(getattr(self, name) != (), f"{name}: expected at least one name, or null for all")
        _require_effort(self.effort)


@dataclass(frozen=True)
class SegmentFile:
    """Parameters of `segment_file`: an image file in, a segmentation file out; the image set before is lost.

    Attributes:
        image: absolute path of an image file or a folder with one DICOM series.
        output: absolute path of what `write_segmentation` shall write.
        tasks: names of tasks; None for all that yield a wanted structure.
        structures: ids of the structures to return; None for all of the tasks.
        any_modality: accept an image that does not look like a CT in HU.
    """

    image: str
    output: str
    tasks: tuple[str, ...] | None = None
    structures: tuple[str, ...] | None = None
    any_modality: bool = False

    def __post_init__(self) -> None:
        """Refuse relative paths: client and worker have different working directories."""
        for name in ("image", "output"):
            path = getattr(self, name)
            require(Path(path).is_absolute(), f"{name}: expected an absolute path, got {path[:60]!r}")


METHODS: dict[str, type[LoadModel] | type[SetImage] | type[Predict] | type[SegmentFile]] = {
    "load_model": LoadModel,
    "set_image": SetImage,
    "predict": Predict,
    "segment_file": SegmentFile,
}
CANCEL = "cancel"


@dataclass(frozen=True)
class Request:
    """A request to be answered."""

    id: int
    method: str
    params: LoadModel | SetImage | Predict | SegmentFile


@dataclass(frozen=True)
class Cancel:
    """Asks for the end of the running request; has no reply of its own."""


@dataclass(frozen=True)
class LoadedModel:
    """Result of `load_model`: the device and precision in use, and per task its structures.

    `keeps_image` says whether the image set before is still there, because the model is the same.
    """

    name: str
    version: str
    sha256: str
    device: str
    precision: str
    tasks: dict[str, list[str]]
    keeps_image: bool


@dataclass(frozen=True)
class ImageSet:
    """Result of `set_image`: the patches that cover the image, and seconds per stage."""

    patches: int
    timings: dict[str, float]


@dataclass(frozen=True)
class FoundSegment:
    """One structure of a prediction.

    Attributes:
        task: name of the task.
        structure: id of the structure.
        array: name of a file in the scratch folder: uint8 (z, y, x), 1 inside; the reader deletes it.
        box: (start, stop) along (z, y, x) of the voxels that the array fills; all 0 when nothing was found.
        voxels: number of voxels inside.
    """

    task: str
    structure: str
    array: str
    box: tuple[tuple[int, int], ...]
    voxels: int


@dataclass(frozen=True)
class Prediction:
    """Result of `predict`: every structure asked for, seconds per stage, and patches that had no features."""

    segments: list[FoundSegment]
    provenance: dict[str, Any]
    timings: dict[str, float]
    patches_encoded: int


@dataclass(frozen=True)
class FileSegment:
    """One structure of a segmentation that was written to a file."""

    task: str
    structure: str
    voxels: int
    volume_ml: float


@dataclass(frozen=True)
class SegmentedFile:
    """Result of `segment_file`: every structure asked for, and seconds per stage."""

    segments: list[FileSegment]
    provenance: dict[str, Any]
    timings: dict[str, float]


Result = LoadedModel | ImageSet | Prediction | SegmentedFile


def ready_message(version: str, pid: int) -> dict[str, Any]:
    """The worker's first line, sent when it has read its first one: both directions of the pipe work."""
    return {"ready": {"version": version, "pid": pid}}


def progress_message(id: int, done: int, total: int) -> dict[str, Any]:
    """Patches done and patches in total; starts anew when a request is tried again."""
    return {"id": id, "progress": [done, total]}


def warning_message(id: int, sentence: str) -> dict[str, Any]:
    """Something a person should know, while the request goes on."""
    return {"id": id, "warning": sentence}


def result_message(id: int, result: Result) -> dict[str, Any]:
    """The reply to a request that was served."""
    return {"id": id, "result": dataclasses.asdict(result)}


def error_message(id: int | None, kind: str, message: str, advice: str = "") -> dict[str, Any]:
    """The reply to a request that failed: what happened, and what to do next."""
    return {"id": id, "error": {"type": kind, "message": message, "advice": advice}}


def encode(message: Mapping[str, Any]) -> str:
    """One line without its end: ASCII only, and no NaN or infinity."""
    return json.dumps(message, allow_nan=False, separators=(",", ":"))


def decode(line: str | bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ProtocolError: the line is something else.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError(f"A line is not JSON: {_shown(line)}; send one JSON object a line.") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"A line is no JSON object: {_shown(line)}; send one JSON object a line.")
    return message


def parse_request(line: bytes) -> Request | Cancel:
    """Check what a line asks for.

    Raises:
        ProtocolError: naming the field that is missing, unknown or of another type.
    """
    message = decode(line)
    method, given = message.get("method"), message.get("id")
    if method == CANCEL:
        return Cancel()
    if type(given) is not int or not 0 <= given <= _LARGEST_ID:
        raise ProtocolError(f"id: expected a whole number, got {_shown(json.dumps(given))}.")
    if not isinstance(method, str):
        raise ProtocolError(f"method: expected a text, got {_shown(json.dumps(method))}.", given)
    if method not in METHODS:
        raise ProtocolError(f"Unknown method {method[:60]!r}; {suggestion(method[:60], METHODS)}.", given)
    try:
        params = from_json(METHODS[method], message.get("params", {}), "params")
    except (InputError, OverflowError) as error:
        raise ProtocolError(f"{method}: {error}.", given) from None
    return Request(given, method, params)


def _require_effort(effort: float | None) -> None:
    require(effort is None or 0 <= effort <= 1, f"effort: expected 0 (fast) to 1 (thorough), got {effort}")


def _shown(line: str | bytes) -> str:
    """The beginning of a line, for messages."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
