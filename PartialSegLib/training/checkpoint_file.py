"""Checkpoints of all training loops: written in one stroke, read without executing what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..output_files import replacing


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
        InputError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # what torch raises on a damaged file depends on where the damage is
        text = str(error).splitlines()[0]
        advice = "choose another output folder, or remove it to start anew"
        raise InputError(f"{path} cannot be read ({text}); {advice}.") from None
    return state
