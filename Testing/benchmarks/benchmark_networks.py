"""The official networks on one patch each, for `make bench`: seconds, rate of arithmetic, memory.

A whole CT would take minutes on a CPU; what it would take is the number of patches times the seconds of one.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.importers import multitalent
from PartialSegLib.manifest import (
    WEIGHTS_FILE,
    FileEntry,
    Inference,
    Manifest,
    NetworkSpec,
    Preprocessing,
    Task,
)
from PartialSegLib.model import Model
from PartialSegLib.networks import NETWORKS
from PartialSegLib.patches.sliding_window import plan_patches
from PartialSegLib.structures import load_structures

CASE_MM = (450.0, 384.0, 384.0)  # the phantom of 300 x 512 x 512 voxels


class Official(NamedTuple):
    """An official network, and the grid it works on."""

    spec: NetworkSpec
    patch_size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    overlap: float = 0.5
    positions: str = "even"


MOTS = ((64, 192, 192), (1.5, 0.8, 0.8), 0.5, "stride")
MULTITALENT = ((96, 192, 192), (1.5, 1.0, 1.0))
OFFICIAL = {
    "DoDNet": Official(NetworkSpec("DoDNet"), *MOTS),
    "TransDoDNet": Official(NetworkSpec("TransDoDNet"), *MOTS),
    "MultiTalent U-Net": Official(multitalent.UNET, *MULTITALENT),
    "MultiTalent residual encoder": Official(multitalent.RESIDUAL_ENCODER_UNET, *MULTITALENT),
    "STU-Net base (FLARE23)": Official(NetworkSpec("STUNet"), (48, 128, 160), (2.5, 1.5, 1.5), 0.2),
}


def random_model(official: Official) -> Model:
    """The network with random weights, as a model."""
    torch.manual_seed(0)
    network = NETWORKS[official.spec.architecture](**official.spec.arguments).requires_grad_(False).eval()
    manifest = Manifest(
        name="random",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=official.spec,
        preprocessing=Preprocessing("SPL", official.spacing, (-325, 325)),
        inference=Inference(official.patch_size),
        tasks=_tasks(network),
        files={WEIGHTS_FILE: FileEntry("0" * 64, 1)},
    )
    return Model(manifest, network, Path())


def _tasks(network: Any) -> tuple[Task, ...]:
    """A task for each head, which yields as many structures as the head has channels."""
    ends = getattr(network, "task_ends", None)
    channels = [network.num_structures] * network.num_tasks
    if ends is not None:
        channels = [end - start for start, end in pairwise((0, *ends))]
    return tuple(
        Task(
            f"task {number}", {name: channel for channel, name in enumerate(list(load_structures())[:count])}
        )
        for number, count in enumerate(channels)
    )


def facts(official: Official, model: Model) -> dict[str, Any]:
    """What needs no measurement: patches of the case, arithmetic and features of one."""
    shape = [round(mm / step) for mm, step in zip(CASE_MM, official.spacing, strict=True)]
    patches = plan_patches(shape, official.patch_size, official.overlap, official.positions)
    network: Any = model.network
    flops = count_patch_flops(network, official.patch_size, network.num_tasks)
    return {
        "patch": "x".join(map(str, official.patch_size)),
        "GFLOPs of a patch": flops.features / 1e9,
        "a further task's share": max(flops.heads) / (flops.features + max(flops.heads)),
        "patches of the case": len(patches),
    }
