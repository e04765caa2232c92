"""A small training of Med-DANet that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PartialSegLib.files.json_fields import from_json
from PartialSegLib.training.med_danet.config import SliceBankConfig

TASK = {"name": "liver", "structures": {"liver": 1, "liver_tumor": 2}}
VALUES: dict[str, Any] = {
    "package": {
        "name": "tiny-slices",
        "version": "0.0.1",
        "title": "Tiny",
        "license": "CC0-1.0",
        "tasks": [TASK],
    },
    "preprocessing": {
        "orientation": "SAR",
        "spacing": [24.0, 12.0, 12.0],
        "clip": [-250, 300],
        "subtract": 50,
        "divide": 100,
        "pad_value": -1000,
    },
    "input_size": 32,
    "candidates": [
        {"name": "A", "architecture": "UNet2d", "arguments": {"base_width": 2}, "epochs": 2, "weight": 1.1},
        {
            "name": "B",
            "architecture": "TransBTS2d",
            "arguments": {"base_width": 2, "num_layers": 1, "width": 8, "hidden_width": 8},
            "epochs": 3,
            "weight": 1.2,
        },
    ],
    "decision_arguments": {"stem_width": 4, "stage_widths": [8, 16, 24], "depths": [1, 1, 1]},
    "decision_epochs": 2,
    "batch_size": 8,
    "bank_learning_rate": 0.01,
    "phantoms": {"count": 2, "shape": [8, 32, 36]},
    "checkpoint_every": 3,
    "validation_slices": 8,
}  # 16 slices, two steps an epoch, 6 steps of the bank and 4 of the decision network


def tiny_config(output: Path, **changes: Any) -> SliceBankConfig:
    return from_json(SliceBankConfig, {"output": str(output), **VALUES, **changes})
