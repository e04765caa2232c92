"""What a training run changes from step to step, and its checkpoint."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..networks import NETWORKS, PartialLabelNetwork
from .checkpoint_file import read_checkpoint, write_checkpoint
from .config import TrainingConfig
from .optimization import learning_rate, make_optimizer, position, set_learning_rate
from .tissue_head import TissueHead
from .training_step import TrainingStep
from .transfer import transfer_weights
from .workers import Workers

logger = logging.getLogger(__name__)


class Run:
    """The state of a run, at its first step.

    Args:
        config: of the run.
        arguments: keyword arguments of the network.
        workers: the processes of the run.

    Attributes:
        network: in training mode, on the device of the process.
        tissue_head: the auxiliary head, if there is one.
        average: weights by name, averaged over the steps; empty if they are not.
        step: number of finished steps.
        optimizer: of the present phase.

    Raises:
        InputError: the configuration does not fit the network.
    """

    def __init__(self, config: TrainingConfig, arguments: dict[str, Any], workers: Workers) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.workers = workers
        self.network = _initial_network(config, arguments).to(workers.device)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # missing in torch's stubs
        self.tissue_head = _make_tissue_head(config, self.network)
        if self.tissue_head is not None:
            self.tissue_head.to(workers.device)
        self.training_step = TrainingStep(self.network, self.tissue_head, config, workers)
        self.average: dict[str, Tensor] = {}
        if config.ema_decay > 0:
            self.average = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.scaler = torch.amp.GradScaler(workers.device.type, enabled=config.precision == "float16")
        self.step = 0
        self._enter_phase(0)

    def _enter_phase(self, number: int) -> None:
        """Train other weights, or with another optimizer, from now on."""
        self.phase_number = number
        self.phase = self.config.phases[number]
        modules = [self.network, *([self.tissue_head] if self.tissue_head is not None else [])]
        self.optimizer = make_optimizer(self.phase, modules)
        self._parallel: nn.Module = self.training_step
        if self.workers.size > 1:
            self._parallel = DistributedDataParallel(self.training_step, find_unused_parameters=True)

    def begin_step(self) -> float:
        """Make ready for the gradient of the next step, and return its learning rate."""
        number, step = position(self.config.phases, self.step)
        if number != self.phase_number:
            self._enter_phase(number)
        torch.manual_seed(hash((self.config.seed, self.step, self.workers.rank)))
        rate = learning_rate(self.phase, step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        return rate

    def add_gradient(self, batch: list[Any], share: float, last: bool) -> float:
        """Add the gradient of part of a batch, and return its loss, both times `share`.

        Args:
            batch: cases.
            share: of the whole batch.
            last: whether gradients are exchanged between processes after it.
        """
        waiting: AbstractContextManager[Any] = nullcontext()
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            waiting = self._parallel.no_sync()
        with waiting:
            loss = share * self._parallel(batch, self.step)
            self.scaler.scale(loss).backward()
        return float(loss.detach())

    def finish_step(self) -> float:
        """Change the weights, and return the norm of the gradient before clipping."""
        self.scaler.unscale_(self.optimizer)
        weights = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(weights, self.phase.gradient_clip or float("inf")))
        if math.isfinite(norm) or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            self._update_average()
        return norm

    def _update_average(self) -> None:
        """Exponential moving average of the weights, warmed up so that it forgets the start."""
        decay = min(self.config.ema_decay, self.step / (9 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items() if self.average else ():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What goes into the package, by name: averaged weights, or the present ones."""
        return self.average or self.network.state_dict()

    def save(self, path: Path) -> None:
        """Write a checkpoint in one stroke; an interrupted write leaves the previous one in place.

        Raises:
            InputError: the disk is full.
        """
        write_checkpoint(path, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "phase": self.phase_number,
            "network": self.network.state_dict(),
            "tissue_head": None if self.tissue_head is None else self.tissue_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
        }

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one.

        Raises:
            InputError: it cannot be read, or belongs to another network.
        """
        if not path.exists():
            return
        advice = "choose another output folder, or remove it to start anew"
        state = read_checkpoint(path, self.workers.device)
        try:
            self.network.load_state_dict(state["network"])
            if self.tissue_head is not None:
                self.tissue_head.load_state_dict(state["tissue_head"])
            self._enter_phase(int(state["phase"]))
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            text = str(error).splitlines()[0]
            raise InputError(f"{path} belongs to another configuration ({text}); {advice}.") from None
        self.scaler.load_state_dict(state["scaler"])
        self.average.update(state["average"])
        self.step = int(state["step"])
        logger.info("resumed at step %d", self.step)


def _initial_network(config: TrainingConfig, arguments: dict[str, Any]) -> PartialLabelNetwork:
    """A network that depends on the configuration alone."""
    network = NETWORKS[config.network](**arguments)
    _check_patch(config, network)
    if config.initial_logit is not None:
        network.initialize_head(config.initial_logit)
    if config.transfer is not None:
        report = transfer_weights(network, config.transfer.package, config.transfer.parts)
        logger.info("%s", report)
    return network


def _make_tissue_head(config: TrainingConfig, network: PartialLabelNetwork) -> TissueHead | None:
    """A head on the features, or on what flows into the layer that the configuration names."""
    if config.tissue is None:
        return None
    if config.tissue.layer is None:
        return TissueHead(network.feature_channels)
    try:
        layer = network.get_submodule(config.tissue.layer)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise InputError(
            f"tissue.layer: {config.network} has no module '{config.tissue.layer}'; its parts are {names}."
        ) from None
    if not isinstance(layer, nn.Conv3d):
        raise InputError(f"tissue.layer: '{config.tissue.layer}' is not a convolution; name one.")
    head = TissueHead(layer.in_channels)
    head.watch(layer)
    return head


def _check_patch(config: TrainingConfig, network: PartialLabelNetwork) -> None:
    """Refuse patches on which PyTorch's bfloat16 gradients on CPUs are wrong (seen with 2.13)."""
    if config.precision == "bfloat16" and config.patch_size[0] == 2 * network.patch_multiple[0]:
        raise InputError(
            f"inference.patch_size: {config.patch_size[0]} slices leave 2 at the bottom of the network, "
            "where PyTorch's bfloat16 gradients are wrong; choose another depth, or precision float32."
        )
