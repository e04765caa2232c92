"""What a training run changes from step to step, and its checkpoint."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model import load_model
from ..networks import NETWORKS, PartialLabelNetwork
from .config import TrainingConfig
from .tissue_head import TissueHead

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The state of a run.

    Attributes:
        network: in training mode, on the device of the run.
        tissue_head: the auxiliary head on its features.
        optimizer: of the network's parameters.
        average: weights by name, averaged over the steps; they go into the package.
        step: number of finished steps.
    """

    network: PartialLabelNetwork
    tissue_head: TissueHead
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0

    def update_average(self, decay: float) -> None:
        """Exponential moving average of the weights, warmed up so that it forgets the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, path: Path) -> None:
        """Write a checkpoint in one stroke; an interrupted write leaves the previous one in place."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "tissue_head": self.tissue_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        temporary = path.with_name(f"{path.name}.partial")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.tissue_head.load_state_dict(state["tissue_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.update(state["average"])
        self.step = int(state["step"])
        logger.info("resumed at step %d", self.step)


def start_run(config: TrainingConfig, arguments: dict[str, object], device: str) -> Run:
    """A run at step 0: an initial network that depends on the seed alone.

    Args:
        config: of the run.
        arguments: keyword arguments of the network.
        device: where to train.
    """
    torch.manual_seed(config.seed)
    network = NETWORKS[config.network](**arguments)
    _check_patch(config, network)
    network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # missing in torch's stubs
    if config.initial_logit is not None:
        network.initialize_head(config.initial_logit)
    if config.start_from is not None:
        network.load_state_dict(load_model(config.start_from).network.state_dict())
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    tissue_head = _make_tissue_head(config, network).to(device)
    return Run(network, tissue_head, make_optimizer(config, network, tissue_head), average)


def _make_tissue_head(config: TrainingConfig, network: PartialLabelNetwork) -> TissueHead:
    """A head on the features, or on what flows into the layer `tissue_layer`."""
    if config.tissue_layer is None:
        return TissueHead(network.feature_channels)
    try:
        layer = network.get_submodule(config.tissue_layer)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise InputError(
            f"tissue_layer: {config.network} has no module '{config.tissue_layer}'; its parts are {names}."
        ) from None
    if not isinstance(layer, nn.Conv3d):
        raise InputError(f"tissue_layer: '{config.tissue_layer}' is not a convolution; name one.")
    head = TissueHead(layer.in_channels)
    head.watch(layer)
    return head


def _check_patch(config: TrainingConfig, network: PartialLabelNetwork) -> None:
    """Refuse patches on which PyTorch's bfloat16 gradients on CPUs are wrong (seen with 2.13)."""
    if config.mixed_precision and config.patch_size[0] == 2 * network.patch_multiple[0]:
        raise InputError(
            f"patch_size: {config.patch_size[0]} slices leave 2 at the bottom of the network, where "
            "PyTorch's bfloat16 gradients are wrong; choose another depth, or mixed_precision false."
        )


def make_optimizer(
    config: TrainingConfig, network: nn.Module, tissue_head: nn.Module
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (the paper's) or AdamW; the controller may learn more slowly than the rest.

    Its output is multiplied with the features three times over, so at full speed it drives all scores to
    background before the features mean anything, and the run does not recover.
    """
    parameters = list(network.named_parameters())
    controller = [value for name, value in parameters if name.startswith("controller.")]
    rest = [value for name, value in parameters if not name.startswith("controller.")]
    rest += tissue_head.parameters()
    groups = [{"params": rest, "factor": 1.0}, {"params": controller, "factor": config.controller_factor}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        groups, config.learning_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
