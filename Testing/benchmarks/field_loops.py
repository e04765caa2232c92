"""A model in MONAI's sliding window, file to file, in a process of its own, for `make bench-field`.

Reading, resampling and writing are ours: figures differ by the loop and the network's arithmetic alone.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import measuring
import monai.inferers  # noqa: F401 - not within the time that is measured
import torch
from benchmark import monai_masks
from measuring import timed

from PartialSegLib import Segmentation, Volume, load_model, read_volume, write_segmentation


def predict(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory, in float32, with every patch visited.

    Args:
        settings: `package` and `image`; `output`, a file; `tasks`, their names or null for all; `threads`.
    """
    torch.set_num_threads(settings["threads"])
    record: dict[str, Any] = {}
    model = timed(record, "load", lambda: load_model(settings["package"]))
    names = settings["tasks"] or [task.name for task in model.manifest.tasks]
    numbers = [number for number, task in enumerate(model.manifest.tasks) if task.name in names]

    def run() -> None:
        volume = timed(record, "read", lambda: read_volume(settings["image"]))
        masks = monai_masks(model, volume, numbers, record)
        timed(record, "write", lambda: write_segmentation(settings["output"], _segmentation(volume, masks)))

    timed(record, "total", run)
    record["outside the network"] = record["total"] - record["network"]
    record["peak memory MB"] = measuring.peak_memory_mb()
    return record


def _segmentation(volume: Volume, masks: dict[tuple[str, str], Any]) -> Segmentation:
    segmentation = Segmentation(volume.shape, volume.affine)
    for (task, structure), mask in masks.items():
        segmentation.add(task, structure, None, mask)
    return segmentation


if __name__ == "__main__":
    measuring.report(predict(json.loads(sys.argv[1])))
