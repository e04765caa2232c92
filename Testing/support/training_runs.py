"""Small training runs: configurations that take a second, and their curves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from PartialSegLib.files.json_fields import from_json
from PartialSegLib.training import TrainingConfig

TASKS = [
    {"name": "liver", "structures": {"liver": 0, "liver_tumor": 1}},
    {"name": "colon", "structures": {"colon_tumor": 1}},
    {"name": "spleen", "structures": {"spleen": 0}},
]
PACKAGE = {"name": "tiny", "version": "0.0.1", "title": "Tiny", "license": "Apache-2.0", "tasks": TASKS}
PREPROCESSING = {
    "orientation": "SAR", "spacing": [12.0, 14.0, 14.0], "clip": [-250, 300], "subtract": 50, "divide": 100,
    "pad_value": -1000,
}  # fmt: skip
DODNET = {"widths": [8, 8, 8, 8, 8], "depths": [1, 1, 1, 1, 1], "groups": 4}
TRANSDODNET = {
    "width": 24, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 4, "planes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1], "decoder_widths": [8, 8, 8, 8, 8],
}  # fmt: skip


def tiny_values(output: Path | str, **changes: Any) -> dict[str, Any]:
    """A run of six steps of a tiny DoDNet on phantoms; objects among the changes are merged, None removes.

    With another network the arguments of DoDNet are left out.
    """
    values: dict[str, Any] = {
        "output": str(output), "package": PACKAGE, "network_arguments": DODNET, "batch_size": 1,
        "preprocessing": PREPROCESSING, "inference": {"patch_size": [16, 16, 16], "overlap": 0.25},
        "synthetic": {"validation_images": 1}, "phases": [{"iterations": 6, "gradient_clip": 12}],
        "checkpoint_every": 3, "workers": 0, "ema_decay": 0.9,
    }  # fmt: skip
    if "network" in changes:
        values["network_arguments"] = {}
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) and value else value
    return {key: value for key, value in values.items() if value is not None}


def tiny_config(output: Path | str, **changes: Any) -> TrainingConfig:
    """`tiny_values` as a configuration."""
    return from_json(TrainingConfig, tiny_values(output, **changes))


def losses_of(output: Path) -> list[float]:
    """The loss of every step in a run's log."""
    with (output / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
