"""What a training run changes from step to step, and its checkpoint."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..files.json_fields import from_json, to_json
from ..networks import NETWORKS, PartialLabelNetwork
from .config import TrainingConfig
from .loop.checkpoint_file import check_collection, check_settings
from .loop.phased_run import PhasedRun, StepResult
from .loop.steps import CHECKPOINT_FILE
from .loop.workers import Workers
from .tissue_head import TissueHead
from .training_step import TrainingStep
from .transfer import transfer_weights

logger = logging.getLogger(__name__)


class Run(PhasedRun):
    """The state of a run of the main loop, at its first step.

    Args:
        config: of the run.
        arguments: keyword arguments of the network.
        workers: the processes of the run.
        cases: digest of those of the collection; None for synthetic ones.

    Attributes:
        network: in training mode, on the device of the process.
        tissue_head: the auxiliary head, if there is one.
        average: weights by name, averaged over the steps; empty if they are not.

    Raises:
        InputError: the configuration does not fit the network.
    """

    def __init__(
        self, config: TrainingConfig, arguments: dict[str, Any], workers: Workers, cases: str | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.cases = cases
        self.network = _initial_network(config, arguments).to(workers.device)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # missing in torch's stubs
        self.tissue_head = _make_tissue_head(config, self.network)
        if self.tissue_head is not None:
            self.tissue_head.to(workers.device)
        self.training_step = TrainingStep(self.network, self.tissue_head, config, workers)
        self.average: dict[str, Tensor] = {}
        if config.ema_decay > 0:
            self.average = {name: value.clone() for name, value in self.network.state_dict().items()}
        modules = [self.network, *([self.tissue_head] if self.tissue_head is not None else [])]
        super().__init__(modules, config.phases, config.precision, config.seed, workers)

    def enter_phase(self, number: int) -> None:
        """Train other weights, or with another optimizer, from now on."""
        super().enter_phase(number)
        self._parallel = self.workers.parallel(self.training_step, has_unused=True)

    def take_step(self, batch: list[Any]) -> StepResult:
        """Change the weights once, by the images that this process has of a batch."""
        rate = self.begin_step()
        parts = self.config.accumulate
        size = len(batch) // parts
        losses = []
        for part in range(parts):
            images = batch[part * size : (part + 1) * size]
            losses.append(self.add_gradient(images, last=part == parts - 1))
        loss, norm = self.finish_step(torch.stack(losses).sum())
        return StepResult(loss, rate, norm)

    def add_gradient(self, batch: list[Any], last: bool) -> Tensor:
        """Add the gradient of part of a batch, and return what it adds to the loss.

        Args:
            batch: cases.
            last: whether gradients are exchanged between processes after it.
        """
        waiting: AbstractContextManager[Any] = nullcontext()
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            waiting = self._parallel.no_sync()
        with waiting:
            loss = self._parallel(batch, self.step)
            self.scaler.scale(loss).backward()
        return loss.detach()

    def weights_changed(self) -> None:
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

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            **super().state(),
            "config": to_json(self.config),
            "cases": self.cases,
            "network": self.network.state_dict(),
            "tissue_head": None if self.tissue_head is None else self.tissue_head.state_dict(),
            "average": self.average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            InputError: it is of a run with other settings or cases.
        """
        if "config" in state:  # not in checkpoints of early versions
            self._check_config(from_json(TrainingConfig, state["config"]), int(state["phase"]))
        check_collection(Path(self.config.output), state.get("cases"), self.cases)
        self.network.load_state_dict(state["network"])
        if self.tissue_head is not None:
            self.tissue_head.load_state_dict(state["tissue_head"])
        super().load_state(state)
        self.average.update(state["average"])

    def _check_config(self, held: TrainingConfig, phase: int) -> None:
        """Refuse the settings of another run; phases after the present one may be any."""
        settings = [
            {
                **to_json(config),
                "package": {"tasks": config.package.get("tasks")},
                "phases": to_json(config)["phases"][: phase + 1],
            }
            for config in (held, self.config)
        ]
        check_settings(Path(self.config.output), *settings)


def _initial_network(config: TrainingConfig, arguments: dict[str, Any]) -> PartialLabelNetwork:
    """A network that depends on the configuration alone.

    A checkpoint holds all weights, so a run that goes on does not need the package that it began from.
    """
    network = NETWORKS[config.network](**arguments)
    _check_bfloat16_depth(config, network)
    if config.initial_logit is not None:
        network.initialize_head(config.initial_logit)
    if config.transfer is not None and not (Path(config.output) / CHECKPOINT_FILE).is_file():
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


def _check_bfloat16_depth(config: TrainingConfig, network: PartialLabelNetwork) -> None:
    """Refuse patches on which PyTorch's bfloat16 gradients on CPUs are wrong (seen with 2.13)."""
    if config.precision == "bfloat16" and config.patch_size[0] == 2 * network.patch_multiple[0]:
        raise InputError(
            f"inference.patch_size: {config.patch_size[0]} slices leave 2 at the bottom of the network, "
            "where PyTorch's bfloat16 gradients are wrong; choose another depth, or precision float32."
        )
