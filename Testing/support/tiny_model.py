"""A small model package with random weights, for tests of what surrounds the network."""

from pathlib import Path
from typing import Any

import torch

from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import save_model
from PartialSegLib.networks import DoDNet

ARGUMENTS = {"num_tasks": 2, "widths": (16, 16, 16), "depths": (1, 1, 1)}
TASKS = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("spleen", {"spleen": 0}))


def write_tiny_model(
    folder: Path,
    tasks: tuple[Task, ...],
    preprocessing: Preprocessing,
    gain: float = 1.0,
    name: str = "tiny",
    mirror_axes: tuple[int, ...] = (),
    **fields: Any,
) -> Path:
    """Write the package tiny 1.2.3; `gain` multiplies the controller's weights, so that heads differ."""
    torch.manual_seed(0)
    network = DoDNet(**ARGUMENTS).requires_grad_(False)
    network.controller.weight.mul_(gain)
    manifest = Manifest(
        name=name,
        version="1.2.3",
        title="Random weights",
        license="CC0-1.0",
        network=NetworkSpec("DoDNet", ARGUMENTS),
        preprocessing=preprocessing,
        inference=Inference((16, 16, 16), mirror_axes=mirror_axes),
        tasks=tasks,
        **fields,
    )
    save_model(folder, manifest, network.state_dict(), "Public domain")
    return folder
