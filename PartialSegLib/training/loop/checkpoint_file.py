"""Checkpoints of all training loops: written in one stroke, read without executing what is in them.

They hold the settings of their run, and only a run with the same settings and cases goes on from them, but
for those that decide how long and how fast is trained, where files lie, what is written and who computes it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ...files.output_files import replace_patiently, replacing
from ...pytorch.safe_torch import require_safe_torch

MAY_CHANGE = {
    "output", "collection.collection", "collection.prepared", "collection.preparing_processes", "workers",
    "accumulate", "compile",
    "phases.iterations", "phases.learning_rate", "phases.decay", "phases.epoch", "phases.warm_up",
    "phases.warm_up_start", "phases.gradient_clip", "iterations", "learning_rate", "decision_epochs",
    "bank_learning_rate", "decision_learning_rate", "warm_up_epochs", "checkpoint_every",
    "validate_every", "validation_slices", "synthetic.validation_images", "collection.validation_patches",
    "overlap", "inference.overlap", "store_float16",
}  # fmt: skip
"""Settings of the three loops with other values of which a run may go on."""
CONFIG_FILE, PREVIOUS_FILE = "config.json", "config-previous.json"


def write_config(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run into its folder; others that are there become `config-previous.json`.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    path, text = folder / CONFIG_FILE, json.dumps(settings, indent=2) + "\n"
    # What stands there may be a person's own, in any encoding.
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
        replace_patiently(path, folder / PREVIOUS_FILE)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state with its "step"; an interrupted write leaves the previous checkpoint in place.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (InputError, RuntimeError) as error:  # torch's own writer knows only the latter
        raise InputError(
            f"The checkpoint of step {state['step']} cannot be written to {path.parent} ({error}); "
            "free space and start again: the run goes on from its last checkpoint."
        ) from None


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a state, its tensors onto a device.

    Raises:
        InputError: the file is damaged, or PyTorch is too old to read it safely.
    """
    require_safe_torch()
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not isinstance(state.get("step", 0), int):
            raise ValueError("it is no checkpoint of a run")
    except Exception as error:  # what torch raises on a damaged file depends on where the damage is
        text = str(error).splitlines()[0]
        advice = "choose another output folder, or remove it to start anew"
        raise InputError(f"{path} cannot be read ({text}); {advice}.") from None
    return state


def check_settings(place: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other settings than those of `MAY_CHANGE`.

    Args:
        place: file or folder of the run.
        held: its settings, as plain JSON.
        wanted: those of the run that shall go on.

    Raises:
        InputError: the settings differ; the first that does is named.
    """
    difference = _first_difference("", held, wanted)
    if difference is not None:
        name, before, now = difference
        raise InputError(
            f"{place} holds a run with {name} {_shown(before)}, not {_shown(now)}; choose another output "
            "folder, or remove it to start anew."
        )


def check_collection(place: Path, held: str | None, wanted: str | None) -> None:
    """Refuse to go on with a run whose collection has changed.

    Args:
        place: file or folder of the run.
        held: digest of its cases; None in checkpoints of early versions.
        wanted: that of the run that shall go on.

    Raises:
        InputError: the digests differ.
    """
    if held is not None and held != wanted:
        raise InputError(
            f"{place} holds a run that was begun when its collection had other cases, splits or label rules; "
            "give it the collection as it was, or choose another output folder to start anew."
        )


def _first_difference(name: str, held: Any, wanted: Any) -> tuple[str, Any, Any] | None:
    """Place, value and wanted value of what differs first."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = {f"{name}.{key}".lstrip("."): key for key in {**wanted, **held}}
        parts = [(path, held.get(key), wanted.get(key)) for path, key in keys.items()]
    elif isinstance(held, list) and isinstance(wanted, list) and len(held) == len(wanted):
        parts = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(held, wanted, strict=True))]
    else:
        return None if held == wanted else (name, held, wanted)
    counted = (part for part in parts if re.sub(r"\[\d+\]", "", part[0]) not in MAY_CHANGE)
    return next(filter(None, (_first_difference(*part) for part in counted)), None)


def _shown(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
