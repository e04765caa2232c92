"""Models that find what is bright, so that a test knows what is found and where it is uncertain."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from PartialSegLib.manifest import FileEntry, Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import Model
from PartialSegLib.networks import PartialLabelNetwork

NEVER = 425  # HU, brighter than anything after clipping
LIVER = Task("liver", {"liver": 0, "liver_tumor": 1})


class Bright(PartialLabelNetwork):
    """Channel c scores 0.5 at its threshold in HU; it is uncertain of 36 HU below to 36 HU above.

    A softmax has a background of logit 0 first, and each further channel takes over at its threshold.
    """

    patch_multiple = (1, 1, 1)

    def __init__(self, thresholds: tuple[float, ...], is_softmax: bool) -> None:
        super().__init__()
        self.thresholds = thresholds
        self.is_softmax = is_softmax

    def forward_features(self, patches: Tensor) -> Tensor:
        return patches

    def forward_head(self, features: Tensor, task: int) -> Tensor:
        logits = [20 * (features.float() - threshold / 325) for threshold in self.thresholds]
        return torch.cat([0 * logits[0], *accumulate(logits)] if self.is_softmax else logits, dim=1)


def bright_model(
    *tasks: Task,
    spacing: float = 8,
    thresholds: tuple[float, ...] = (100, NEVER),
    orientation: str = "SPL",
    **inference: object,
) -> Model:
    """The model coarse 1: patches of 16 x 16 x 16 voxels, intensities from -1 to 1."""
    manifest = Manifest(
        name="coarse",
        version="1",
        title="A threshold",
        license="CC0-1.0",
        network=NetworkSpec("DoDNet"),
        preprocessing=Preprocessing(orientation, (spacing,) * 3, (-325, 325), divide=325),
        inference=Inference((16, 16, 16), **inference),
        tasks=tasks or (LIVER,),
        files={"weights.safetensors": FileEntry("1" * 64, 0)},
    )
    return Model(manifest, Bright(thresholds, inference.get("activation") == "softmax"), Path("coarse"))
