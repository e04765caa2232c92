"""Which importer an official checkpoint needs, told by its container and the names of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from .checkpoint import PARALLEL_PREFIX, read_checkpoint
from .nnunet_checkpoint import COMPILED_PREFIX

FIRST_WEIGHTS = {
    "dodnet": "layer0.0.gn1.weight",
    "transdodnet": "ResCNN_DeformTR.backbone.conv1.weight",
    "stunet": "conv_blocks_context.0.0.conv3.weight",
    "nnunet": "encoder.stages.0.",
}
"""What the name of a weight starts with in the checkpoints of one system and in no other's."""


def recognize_checkpoint(checkpoint: Path) -> str:
    """The key of `IMPORTERS` for a checkpoint.

    Raises:
        InputError: the file cannot be read, or is of none of the systems.
    """
    if checkpoint.with_name(f"{checkpoint.name}.pkl").is_file():  # only nnU-Net version 1 writes two files
        return "multitalent"
    names = _weight_names(read_checkpoint(checkpoint))
    for importer, start in FIRST_WEIGHTS.items():
        if any(name.startswith(start) for name in names):
            return importer
    if checkpoint.suffix == ".model":  # as nnU-Net version 1 calls them
        raise InputError(f"There is no {checkpoint}.pkl; keep the files of a fold together.")
    raise InputError(
        f"{checkpoint} is of none of the systems that can be imported (DoDNet, TransDoDNet, MultiTalent, "
        "STU-Net, nnU-Net version 2); check which network the checkpoint is of."
    )


def _weight_names(contents: Any) -> list[str]:
    """Names of the weights of any of the containers, without the prefixes of wrappers."""
    for key in ("network_weights", "state_dict", "model"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    names = [name for name in contents if isinstance(name, str)] if isinstance(contents, dict) else []
    return [name.removeprefix(PARALLEL_PREFIX).removeprefix(COMPILED_PREFIX) for name in names]
