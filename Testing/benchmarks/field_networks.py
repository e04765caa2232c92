"""What a further task costs, how fast a network encodes, and what a voxel costs, for `make bench-field`."""

from __future__ import annotations

import json
import statistics
import sys
from math import prod
from typing import Any

import measuring
import torch
from benchmark import convolution_share
from benchmark_networks import random_model
from field_cases import AXES, GRIDS
from field_models import FULL, QUICK
from measuring import seconds_of

from PartialSegLib import InferenceSession, Volume, load_model, read_volume
from PartialSegLib.model import Model
from PartialSegLib.phantom import make_phantom
from PartialSegLib.volume import reorient


def further_task(settings: dict[str, Any]) -> dict[str, Any]:
    """The first task of an image, and the median of the others, whose features are there."""
    model = _model(settings)
    image = settings.get("image")
    volume = read_volume(image) if image else _patch_volume(model, settings["quick"])
    session = InferenceSession(model, "cpu", **settings["options"])
    first, *others = (task.name for task in model.manifest.tasks)
    session.set_image(volume)
    session.predict(first)  # an engine may compile the network at first
    record = {"first": seconds_of(lambda: (session.set_image(volume), session.predict(first)))}
    record["patches"] = session.patches_encoded
    record["further"] = statistics.median(
        seconds_of(lambda name=name: session.predict(name)) for name in others
    )
    record["patches of further tasks"] = session.patches_encoded - record["patches"]
    return {**record, "further / first": record["further"] / record["first"]}


def encode_rate(settings: dict[str, Any]) -> dict[str, Any]:
    """The rate of encoding a patch, and that of its convolutions alone."""
    return convolution_share(_model(settings), settings["repetitions"], settings["options"]["engine"])


def voxel_cost(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of all tasks of an image for each voxel that a patch visits, without reading and writing."""
    model, volume = _model(settings), read_volume(settings["image"])
    session = InferenceSession(model, "cpu", cache_bytes=0, **settings["options"])
    session.set_image(volume)
    session.predict()  # the first calls of a process take longer
    total = seconds_of(lambda: (session.set_image(volume), session.predict()))
    visited = session.patches_encoded * prod(model.manifest.inference.patch_size)
    return {
        "total": total,
        "patches": session.patches_encoded,
        "seconds of a million voxels": total / visited * 1e6,
        "encoding a million voxels": session.timings["encode"] / visited * 1e6,
    }


def _model(settings: dict[str, Any]) -> Model:
    """A network of the run with random weights, or the model of that name."""
    torch.set_num_threads(settings["threads"])
    networks = (QUICK if settings["quick"] else FULL).networks
    name = settings["network"]
    return random_model(networks[name]) if name in networks else load_model(name)


def _patch_volume(model: Model, quick: bool) -> Volume:
    """A phantom as large as one patch, on the grid of the other phantoms."""
    grid, _ = GRIDS["tiny" if quick else "phantom"]
    steps, sizes = model.manifest.preprocessing.spacing, model.manifest.inference.patch_size
    shape = [round(step * size / fine) for step, size, fine in zip(steps, sizes, grid, strict=True)]
    return reorient(make_phantom(1, grid, (shape[0], shape[1], shape[2])).volume, AXES)


if __name__ == "__main__":
    wanted = {"further": further_task, "rate": encode_rate, "voxels": voxel_cost}
    given = json.loads(sys.argv[1])
    measuring.report(wanted[given["what"]](given))
