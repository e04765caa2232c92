"""The configuration of one training run: plain data from a JSON file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run; the same configuration gives the same data in the same order.

    Args:
        output: folder of the run: checkpoints, log.jsonl, and the finished package in `package/`.
        package: fields of the manifest that describe the model: name, version, title, license, citation and
            tasks.
        network: architecture, a key of `NETWORKS`.
        network_arguments: keyword arguments of the network.
        patch_size: voxels (z, y, x).
        spacing: mm (z, y, x).
        clip: Hounsfield range; then (HU - subtract) / divide.
        overlap: of the patches at inference, written to the manifest.
        atlas: label map of `training.atlas`; None trains on phantoms alone.
        atlas_share: share of images made from the atlas.
        lesion_probability: for each kind of lesion, in every image.
        lesion_contrast: of tumours to the organ around them, relative to the phantom's.
        cases_per_image: one-task cases made of each image; features are computed once for all of them.
        batch_size: images a step; gradients are accumulated.
        optimizer: "sgd" with Nesterov momentum, as in the paper, or "adamw".
        iterations, learning_rate, momentum, weight_decay: of the optimizer; polynomial decay with power 0.9.
        controller_factor: learning rate of DoDNet's controller relative to the rest.
        initial_logit: every score starts near this logit, see `DoDNet.initialize_head`; None keeps the
            official start.
        gradient_clip: largest norm of the gradient.
        warm_up: steps with linearly rising learning rate.
        start_from: package (name or folder) with the initial weights; None starts from random ones.
        dice_epsilon, foreground_weight, background_weight: of the loss, see `partial_label_loss`.
        tissue_weight: weight of the auxiliary loss of `TissueHead`; 0 trains on one-task labels alone.
        tissue_iterations: first steps in which nothing but the tissue head is trained.
        tissue_layer: name of the network's module whose input the tissue head reads; None reads the features.
        tissue_voxels: voxels sampled for it from each image.
        tissue_power, lesion_focus: which voxels they are, see `sample_voxels`.
        ema_decay: decay of the averaged weights that are saved; 0 saves the last ones.
        mixed_precision: bfloat16 convolutions; on CPUs, no stage of the network may see a patch 2 voxels deep
            (torch 2.13 then computes a wrong gradient of the weights).
        checkpoint_every: steps between checkpoints.
        seed: of everything.
        workers: processes that prepare data.
    """

    output: str
    package: dict[str, Any]
    network: str = "DoDNet"
    network_arguments: dict[str, Any] = field(default_factory=dict)
    patch_size: tuple[int, int, int] = (48, 96, 96)
    spacing: tuple[float, float, float] = (4.0, 3.5, 3.5)
    clip: tuple[float, float] = (-250.0, 300.0)
    subtract: float = 50.0
    divide: float = 100.0
    overlap: float = 0.25
    atlas: str | None = None
    atlas_share: float = 0.4
    lesion_probability: float = 0.4
    lesion_contrast: float = 1.0
    cases_per_image: int = 1
    batch_size: int = 2
    optimizer: str = "sgd"
    iterations: int = 1000
    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    controller_factor: float = 1.0
    initial_logit: float | None = None
    start_from: str | None = None
    gradient_clip: float = 12.0
    warm_up: int = 0
    dice_epsilon: float = 1.0
    foreground_weight: float = 0.0
    background_weight: float = 0.0
    tissue_weight: float = 0.0
    tissue_iterations: int = 0
    tissue_voxels: int = 32768
    tissue_layer: str | None = None
    tissue_power: float = 0.5
    lesion_focus: float = 1.0
    ema_decay: float = 0.0
    mixed_precision: bool = False
    checkpoint_every: int = 100
    seed: int = 0
    workers: int = 1

    @property
    def num_structures(self) -> int:
        """Output channels of the head."""
        return int(self.network_arguments.get("num_structures", 2))


def read_config(path: Path | str) -> TrainingConfig:
    """Read a configuration; relative paths in it stay relative to the working directory.

    Raises:
        InputError: the file is missing, is not JSON, or has an unknown or missing field.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"No training configuration at {path}; give the path of a JSON file.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}); correct it and start again.") from None
    fields = {f.name: f for f in dataclasses.fields(TrainingConfig)}
    for name in values:
        if name not in fields:
            raise InputError(
                f"{path} has the unknown field '{name}'; known fields are {', '.join(sorted(fields))}."
            )
    for name in ("output", "package"):
        if name not in values:
            raise InputError(f"{path} lacks the field '{name}'; add it.")
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return TrainingConfig(**arguments)
