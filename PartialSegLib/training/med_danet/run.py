"""What a training of Med-DANet changes from step to step, and its checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ...json_fields import to_json
from ...manifest import Manifest
from ...networks import MedDANet
from ..checkpoint_file import read_checkpoint, write_checkpoint
from .config import SliceBankConfig

WITHOUT_EFFECT = ("output", "package", "checkpoint_every", "workers")
"""Fields of the configuration that may change when a run is continued."""

logger = logging.getLogger(__name__)


@dataclass
class SliceBankRun:
    """The state of a run.

    Attributes:
        network: on the device of the run.
        bank_optimizer: of the candidates.
        decision_optimizer: of the decision network.
        identity: what may not change when the run is continued, as plain JSON.
        step: number of finished steps, those of the decision network behind those of the bank.
    """

    network: MedDANet
    bank_optimizer: torch.optim.Optimizer
    decision_optimizer: torch.optim.Optimizer
    identity: dict[str, Any]
    step: int = 0

    def save(self, path: Path) -> None:
        """Write a checkpoint in one stroke.

        Raises:
            InputError: the place cannot be written to.
        """
        state = {
            "identity": self.identity,
            "step": self.step,
            "network": self.network.state_dict(),
            "bank_optimizer": self.bank_optimizer.state_dict(),
            "decision_optimizer": self.decision_optimizer.state_dict(),
        }
        write_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one.

        Raises:
            InputError: it belongs to a run with another configuration or other slices.
        """
        if not path.exists():
            return
        state = read_checkpoint(path)
        for name, value in self.identity.items():
            if state["identity"].get(name) != value:
                raise InputError(
                    f"{path.parent} holds a run with another {name}; choose another output folder, or "
                    "take the configuration of that run."
                )
        self.network.load_state_dict(state["network"])
        self.bank_optimizer.load_state_dict(state["bank_optimizer"])
        self.decision_optimizer.load_state_dict(state["decision_optimizer"])
        self.step = state["step"]
        logger.info("resumed at step %d", self.step)


def start_slice_bank_run(
    config: SliceBankConfig, manifest: Manifest, num_slices: int, device: str
) -> SliceBankRun:
    """A run at step 0, whose networks depend on the seed alone.

    Args:
        config: of the run.
        manifest: of its package.
        num_slices: that it is trained on.
        device: where to train.

    Raises:
        InputError: the network cannot be built so.
    """
    torch.manual_seed(config.seed)
    try:
        network = MedDANet(**manifest.network.arguments).to(device)
    except (TypeError, ValueError) as error:
        raise InputError(f"candidates, decision_arguments or input_size: {error}") from None
    identity = {key: value for key, value in to_json(config).items() if key not in WITHOUT_EFFECT}
    return SliceBankRun(
        network,
        _adam(network.bank.networks, config.bank_learning_rate, config),
        _adam(network.bank.decision_network, config.decision_learning_rate, config),
        {**identity, "tasks": config.package["tasks"], "number of slices": num_slices},
    )


def _adam(part: nn.Module, learning_rate: float, config: SliceBankConfig) -> torch.optim.Adam:
    return torch.optim.Adam(
        part.parameters(), learning_rate, weight_decay=config.weight_decay, amsgrad=config.amsgrad
    )
