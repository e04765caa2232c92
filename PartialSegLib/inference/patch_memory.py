"""What a network takes for one patch, found out with a patch of a few voxels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..engines.network_runner import NetworkRunner
from ..manifest import Manifest
from ..networks.layers.convolution import left_to_pytorch
from ..networks.living_memory import count_living_bytes
from ..patches.feature_cache import feature_tensors, map_tensors

TORCH_SHARE, OPENVINO_SHARE = 1.5, 2.2
"""What encoding takes, as a multiple of the tensors that live at a time: measured, see docs/benchmarks.md.

The rest is what operations need inside, and memory that was given back in pieces too small to be used again.
"""
OPENVINO_BYTES, OPENVINO_WEIGHTS_SHARE = 110 << 20, 1.3
"""What OpenVINO takes to start: a fixed part, and a multiple of the network's weights; measured."""


@dataclass(frozen=True)
class PatchMemory:
    """What one patch takes, in bytes.

    Attributes:
        features: in float16, as they are kept.
        activations: while it is encoded and scored, at their most.
        engine: of OpenVINO, if the first patch starts it.
    """

    features: int
    activations: int
    engine: int = 0


def measure_patch_memory(runner: NetworkRunner, manifest: Manifest) -> PatchMemory:
    """Run the network once on a patch of twice its smallest size, and scale to the manifest's patch size.

    Tensors grow with the voxels. What the operations take beside them is a measured share.

    Args:
        runner: of the model, on the device where it is to run.
        manifest: of the model.
    """
    network = runner.network
    size = manifest.inference.patch_size
    small = [min(full, 2 * step) for full, step in zip(size, network.patch_multiple, strict=True)]
    scale = prod(size) / prod(small)
    batch = torch.zeros(1, 1, *small, device=runner.device).contiguous(memory_format=torch.channels_last_3d)
    found, living = count_living_bytes(lambda batch: _encode(runner, batch), batch)
    kept = map_tensors(Tensor.half, found)
    features = sum(tensor.nbytes for tensor in feature_tensors(kept))
    head = _living_in_head(runner, manifest, kept) if network.convolves_in_head else 0
    channels = max(max(task.structures.values()) + 1 for task in manifest.tasks)
    logits = 4 * channels * prod(size)
    scoring = scale * (features + 2 * features + head) + 2 * logits  # features in float32; scores
    if not runner.uses_openvino:
        return PatchMemory(round(scale * features), round(max(TORCH_SHARE * scale * living, scoring)))
    activations = OPENVINO_SHARE * scale * living + scoring  # it keeps its memory for the next patch
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    engine = OPENVINO_BYTES + OPENVINO_WEIGHTS_SHARE * weights
    return PatchMemory(round(scale * features), round(activations), round(engine))


def _encode(runner: NetworkRunner, batch: Tensor) -> Any:
    """Features in the precision of the runner, by PyTorch even where OpenVINO will encode."""
    half = runner.dtype != torch.float32
    with left_to_pytorch(), torch.autocast(runner.device.type, runner.dtype, enabled=half):
        return runner.network.forward_features(batch)


def _living_in_head(runner: NetworkRunner, manifest: Manifest, features: Any) -> int:
    """The most that the head of a task holds; those of other tasks do the same."""
    first = {0: manifest.tasks[0]}
    return count_living_bytes(lambda kept: list(runner.score(kept, first)), features)[1]
