"""What every run has: its step, the optimizer of the present phase, the precision, and a checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...pytorch.devices import PRECISIONS, check_precision
from .checkpoint_file import read_checkpoint, write_checkpoint
from .optimization import Phase, check_phases, learning_rate, make_optimizer, position, set_learning_rate
from .workers import Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What is logged of a step.

    Attributes:
        loss: of the batch of this process.
        rate: learning rate.
        norm: of the gradient, before clipping.
        figures: further ones, by the names of their columns.
    """

    loss: float
    rate: float
    norm: float
    figures: Mapping[str, float] = field(default_factory=dict)


class PhasedRun:
    """The state of a run, at its first step; what a step computes is up to the subclass.

    Args:
        modules: what is trained.
        phases: one after the other.
        precision: of convolutions; the loss of float16 is scaled.
        seed: of what is random inside networks.
        workers: the processes of the run.

    Attributes:
        step: number of finished steps.
        phase_number: of the present phase.
        optimizer: of the present phase.

    Raises:
        InputError: a phase names parameters that there are not.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        phases: Sequence[Phase],
        precision: str,
        seed: int,
        workers: Workers,
    ) -> None:
        check_precision(workers.device, precision)
        self.modules = modules
        self.phases = phases
        self.precision = precision
        self.seed = seed
        self.workers = workers
        self.scaler = torch.amp.GradScaler(workers.device.type, enabled=precision == "float16")
        self.step = 0
        check_phases(phases, modules)
        self.enter_phase(0)

    @property
    def iterations(self) -> int:
        """Steps of the whole run."""
        return sum(phase.iterations for phase in self.phases)

    def take_step(self, batch: Any) -> StepResult:
        """Change the weights once, by what this process has of a batch."""
        raise NotImplementedError

    def enter_phase(self, number: int) -> None:
        """Train other weights, or with another optimizer, from now on."""
        self.phase_number = number
        self.phase = self.phases[number]
        self.optimizer = make_optimizer(self.phase, self.modules)

    def begin_step(self) -> float:
        """Make ready for the gradient of the next step, and return its learning rate."""
        number, step = position(self.phases, self.step)
        if number != self.phase_number:
            self.enter_phase(number)
        drawn = np.random.default_rng([self.seed, self.step, self.workers.rank])
        torch.manual_seed(int(drawn.integers(2**63)))
        rate = learning_rate(self.phase, step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        return rate

    def finish_step(self, loss: torch.Tensor) -> tuple[float, float]:
        """Change the weights; return the loss and the norm of the gradient before clipping.

        Both are read from the device at once, the only time that a step waits for it.
        """
        self.scaler.unscale_(self.optimizer)
        weights = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        clipped = nn.utils.clip_grad_norm_(weights, self.phase.gradient_clip or math.inf)
        value, norm = torch.stack([loss.detach(), clipped.to(loss)]).tolist()
        if math.isfinite(norm) or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            self.weights_changed()
        return value, norm

    def weights_changed(self) -> None:
        """Called at the end of each step."""

    def save(self, path: Path) -> None:
        """Write a checkpoint in one stroke; an interrupted write leaves the previous one in place.

        Raises:
            InputError: the disk is full.
        """
        write_checkpoint(path, self.state())

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one.

        Raises:
            InputError: it cannot be read, belongs to another run, is further than this one shall go, or not
                all processes see it.
        """
        state = read_checkpoint(path, self.workers.device) if path.exists() else {}
        steps = self.workers.gathered(int(state.get("step", 0)))
        if len(set(steps)) > 1:
            raise InputError(
                f"The processes of the run would go on from different steps ({', '.join(map(str, steps))}) "
                f"by what they find at {path}; `output` must lie on a file system that all nodes see."
            )
        if not state:
            return
        try:
            self.load_state(state)
        except InputError:
            raise
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            text = str(error).splitlines()[0]
            raise InputError(
                f"{path} belongs to another configuration ({text}); choose another output folder, or remove "
                "it to start anew."
            ) from None
        if self.step > self.iterations:
            raise InputError(
                f"{path} is of step {self.step}, but only {self.iterations} steps are asked for; ask for "
                "more, or write a package of it with --package-now and the config.json beside it."
            )
        logger.info("resumed at step %d", self.step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "phase": self.phase_number,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.enter_phase(int(state["phase"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])


def mixed_precision(precision: str, device: torch.device, enabled: bool = True) -> torch.autocast:
    """A context in which convolutions run in a precision, where they are asked to."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=enabled and precision != "float32")
