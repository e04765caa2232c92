"""What the worker is asked to do, what it finds, and what it fails with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from PartialSegLib.protocol import FileSegment, Predict, SegmentFile
from PartialSegLib.volume import Volume


class WorkerError(RuntimeError):
    """What went wrong in the worker, in a sentence.

    Attributes:
        kind: the worker's error type, such as InputError, OutOfMemoryError or Cancelled; WorkerDied when the
            process has ended by itself.
        advice: what to do next; may be empty.
    """

    def __init__(self, kind: str, message: str, advice: str = "") -> None:
        super().__init__(f"{message} {advice}".strip())
        self.kind = kind
        self.advice = advice


@dataclass(frozen=True)
class ReceivedSegment:
    """What the worker found of one structure: a boolean mask (z, y, x) of a box of the volume's voxels."""

    task: str
    structure: str
    box: tuple[slice, slice, slice]
    mask: np.ndarray


@dataclass
class Job:
    """One click: segment tasks of an image with a model.

    Attributes:
        model: parameters of the worker's `load_model`.
        volume: what to segment; its array is read by another thread until it has been sent.
        imageKey: changes whenever the voxels or the geometry of the volume change.
        request: what to predict.
        onFinished: called with the segments and the rest of the reply (provenance, timings, patches_encoded).
        onFailed: called with a `WorkerError`; kind Cancelled after a cancel.
        onProgress: called with the patches done and in total.
        onWarning: called with a sentence.
    """

    model: dict[str, Any]
    volume: Volume
    imageKey: object
    request: Predict
    onFinished: Callable[[list[ReceivedSegment], dict[str, Any]], object]
    onFailed: Callable[[WorkerError], object]
    onProgress: Callable[[int, int], object] = lambda done, total: None
    onWarning: Callable[[str], object] = lambda sentence: None


@dataclass
class FileJob:
    """One image file to be turned into a segmentation file, without the scene.

    Attributes:
        model: parameters of `load_model`, as of `Job`.
        request: image and segmentation file, and what to look for.
        onFinished: called with what was found of each structure.
        onFailed, onProgress, onWarning: as of `Job`.
    """

    model: dict[str, Any]
    request: SegmentFile
    onFinished: Callable[[list[FileSegment]], object]
    onFailed: Callable[[WorkerError], object]
    onProgress: Callable[[int, int], object] = lambda done, total: None
    onWarning: Callable[[str], object] = lambda sentence: None
