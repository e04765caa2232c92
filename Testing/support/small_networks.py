"""A small network of every kind, with random weights, as packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from PartialSegLib.importers import dodnet, multitalent
from PartialSegLib.importers.nnunet_resampling import SEPARATE_ABOVE
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import Model, load_model, save_model
from PartialSegLib.networks import NETWORKS
from PartialSegLib.networks.unet import MULTITALENT_TASK_CHANNELS

_U_NET: dict[str, Any] = {
    "widths": [8, 12, 16],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "depths": [1, 1, 1],
    "decoder_depths": [1, 1],
}
_FLARE = (Task("FLARE", {"liver": 1, "spleen": 3, "tumor": 14}),)

SMALL_NETWORKS: dict[str, tuple[dict[str, Any], tuple[Task, ...], dict[str, Any]]] = {
    "DoDNet": ({"num_tasks": 7, "widths": [16, 16, 16], "depths": [1, 1, 1]}, dodnet.MOTS_TASKS, {}),
    "TransDoDNet": (
        {"num_tasks": 7, "width": 48, "num_levels": 2, "encoder_layers": 1, "decoder_layers": 1}
        | {"depths": [1, 1, 1, 1], "planes": [8, 8, 8, 8]},
        dodnet.MOTS_TASKS,
        {},
    ),
    "UNet": ({**_U_NET, "task_channels": list(MULTITALENT_TASK_CHANNELS)}, multitalent.TASKS, {}),
    "ResidualEncoderUNet": ({**_U_NET, "task_channels": [15]}, _FLARE, {"activation": "softmax"}),
    "STUNet": ({"base_width": 4}, _FLARE, {"activation": "softmax", "blend": "logits"}),
}
"""By architecture: arguments of the network, tasks, and further fields of the manifest's inference."""


def small_model(architecture: str, folder: Path) -> Model:
    """The model, loaded from a package that is written into the folder."""
    arguments, tasks, inference = SMALL_NETWORKS[architecture]
    torch.manual_seed(0)
    manifest = Manifest(
        name="small",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=NetworkSpec(architecture, arguments),
        preprocessing=Preprocessing("SPL", (3.0, 2.0, 2.0), (-200, 300), separate_above=SEPARATE_ABOVE),
        inference=Inference((32, 64, 64), patch_positions="even", padding="both sides", **inference),
        tasks=tasks,
    )
    save_model(
        folder / "package", manifest, NETWORKS[architecture](**arguments).state_dict(), "Public domain"
    )
    return load_model(folder / "package")
