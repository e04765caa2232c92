"""Checkpoints of nnU-Net version 2, with the plan and the data set they were trained for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .checkpoint import (
    is_stored,
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    without_parallel_prefix,
)
from .nnunet_plans import Plan
from .plan_fields import printable

CONTAINER_KEYS = {
    *("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch"),
    *("init_args", "trainer_name", "inference_allowed_mirroring_axes"),
}
COMPILED_PREFIX = "_orig_mod."

FIRST_NAMES = {
    r"^decoder\.encoder\.": "encoder.",  # the decoder holds the encoder
    r"\.all_modules\.0\.": ".conv.",  # version 2 keeps each layer of a unit twice
    r"\.all_modules\.1\.": ".norm.",
    r"\.all_modules\.2\.": ".norm.",  # behind a dropout, if the plan has one
    r"\.all\.0\.": ".conv.",  # so does version 1, with a dropout between the two
    r"\.all\.2\.": ".norm.",
}


@dataclass(frozen=True)
class TrainedModel:
    """What a model folder of nnU-Net holds.

    Attributes:
        plan: plans.json and dataset.json, and the configuration that was trained.
        weights: of each fold, official name to tensor, one name for each.
        trainer: class that trained, such as nnUNetTrainer.
        mirror_axes: along which training mirrored.
        checkpoints: the files with the weights.
    """

    plan: Plan
    weights: tuple[dict[str, Any], ...]
    trainer: str
    mirror_axes: tuple[int, ...]
    checkpoints: tuple[Path, ...]

    @property
    def place(self) -> Path:
        """What to name in messages: the checkpoint, or the folder of several."""
        return self.checkpoints[0] if len(self.checkpoints) == 1 else self.checkpoints[0].parent.parent


def read_trained_model(*checkpoints: Path) -> TrainedModel:
    """Read checkpoints, plans.json and dataset.json; nothing of the plan is checked yet.

    plans.json and dataset.json lie two folders above the checkpoint, or are in it. Trainer and mirror axes
    are those of the first checkpoint, as in nnU-Net.

    Args:
        checkpoints: of one fold, or of several folds of one model.

    Raises:
        InputError: a file is missing or damaged, is no model of nnU-Net version 2, or not of the same plan.
    """
    folds = [_read_fold(checkpoint) for checkpoint in checkpoints]
    for fold in folds[1:]:
        if fold.plan != folds[0].plan:
            raise InputError(
                f"{fold.checkpoints[0]} was trained by another plan than {folds[0].checkpoints[0]}; choose "
                "folds of one model."
            )
    return replace(
        folds[0],
        weights=tuple(weights for fold in folds for weights in fold.weights),
        checkpoints=checkpoints,
    )


def _read_fold(checkpoint: Path) -> TrainedModel:
    """A model of one fold."""
    contents = read_checkpoint(checkpoint)
    try:
        if not isinstance(contents, dict) or "network_weights" not in contents:
            raise InputError("it holds no 'network_weights'; choose the checkpoint that training saved.")
        refuse_unknown_keys(contents, "network_weights", CONTAINER_KEYS)
        arguments = contents.get("init_args")
        arguments = arguments if isinstance(arguments, dict) else {}
        folder = checkpoint.parent.parent
        plans = _json_beside(folder / "plans.json", arguments.get("plans"))
        dataset = _json_beside(folder / "dataset.json", arguments.get("dataset_json"))
        configuration = printable(arguments.get("configuration", "3d_fullres"))
        weights = without_parallel_prefix(
            named_weights(contents["network_weights"], " under 'network_weights'")
        )
        weights = {key.removeprefix(COMPILED_PREFIX): value for key, value in weights.items()}
        return TrainedModel(
            Plan(plans, dataset, configuration),
            (without_duplicates(weights),),
            printable(contents.get("trainer_name", "nnUNetTrainer")),
            _mirror_axes(contents.get("inference_allowed_mirroring_axes")),
            (checkpoint,),
        )
    except InputError as error:
        raise InputError(f"{checkpoint} is not a model of nnU-Net version 2: {error}") from None


def _mirror_axes(stored: Any) -> tuple[int, ...]:
    """Axes of the network's grid along which training mirrored; None where it did not."""
    axes = () if stored is None else stored
    if not isinstance(axes, list | tuple) or not all(axis in (0, 1, 2) for axis in axes):
        raise InputError(
            f"inference_allowed_mirroring_axes is {stored!r}, not some of 0, 1 and 2; choose the checkpoint "
            "that training saved."
        )
    return tuple(int(axis) for axis in axes)


def _json_beside(path: Path, stored: Any) -> dict[str, Any]:
    """The contents of a file of the model folder, or what the checkpoint stored of it."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else stored
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} cannot be read ({error}).") from None
    if not isinstance(contents, dict):
        raise InputError(f"there is no {path.name} in {path.parent}; keep the model folder together.")
    return contents


def without_duplicates(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Keep one of the names that nnU-Net gives to the same weights, after checking that they are the same.

    Args:
        weights: official name to tensor.

    Raises:
        InputError: two names of one tensor hold different values; both are named.
    """
    result: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value in weights.items():
        first = key
        for pattern, replacement in FIRST_NAMES.items():
            first = re.sub(pattern, replacement, first)
        if first in result and not _equal(result[first], value):
            raise InputError(
                f"the keys {names[first]!r} and {key!r} should hold the same weights but differ; "
                "choose the file that training saved."
            )
        result.setdefault(first, value)
        names.setdefault(first, key)
    return result


def _equal(one: Any, other: Any) -> bool:
    return is_stored(one) and is_stored(other) and one.equal(other)
