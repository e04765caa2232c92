"""Optimizers and learning rates: a run has phases, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from ...errors import InputError
from ...files.json_fields import require, require_at_least
from ...sentences import suggestion


@dataclass(frozen=True)
class Phase:
    """One stretch of a run.

    Attributes:
        iterations: steps.
        optimizer: SGD with Nesterov momentum, AdamW, or Adam, whose weight decay is part of the gradient.
        learning_rate: at the start; see `decay`.
        decay: "polynomial" multiplies by (1 - e/E)^0.9 (DoDNet, section 4.1; nnU-Net), "rising" by
            (e + 1)/E, "constant" by 1; e is the epoch of the phase, E their number.
        epoch: steps for which the learning rate stays the same.
        warm_up: first epochs, in which the learning rate rises linearly from `warm_up_start` of it instead.
        warm_up_start: fraction.
        momentum: of SGD; 0 for none.
        amsgrad: of Adam and AdamW: steps by the largest second moment so far.
        weight_decay: of all weights.
        gradient_clip: largest norm of the gradient; None does not clip.
        only: trains only parameters whose name starts with one of these, such as heads; empty trains all.
        factors: of the learning rate of parameters whose name starts so, as in {"controller.": 0.5}.
    """

    iterations: int
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    learning_rate: float = 0.01
    decay: Literal["polynomial", "rising", "constant"] = "polynomial"
    epoch: int = 1
    warm_up: int = 0
    warm_up_start: float = 0.0
    momentum: float = 0.99
    amsgrad: bool = False
    weight_decay: float = 3e-5
    gradient_clip: float | None = None
    only: tuple[str, ...] = ()
    factors: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what no phase can mean."""
        require_at_least(self, iterations=1, epoch=1, warm_up=0, warm_up_start=0, weight_decay=0)
        require(self.learning_rate > 0, f"learning_rate: expected more than 0, got {self.learning_rate}")
        require(0 <= self.momentum < 1, f"momentum: expected 0 or more and less than 1, got {self.momentum}")
        clip = self.gradient_clip
        require(clip is None or clip > 0, f"gradient_clip: expected more than 0 or null, got {clip}")
        for start, factor in (self.factors or {}).items():  # a negative one would climb the loss
            require(factor >= 0, f"factors.{start}: expected 0 or more, got {factor}")


class Position(NamedTuple):
    """Where in its phases a run is: the number of the phase, and the step within it."""

    number: int
    step: int


def position(phases: Sequence[Phase], step: int) -> Position:
    """The phase of a step of the run; the last phase has no end."""
    for number, phase in enumerate(phases[:-1]):
        if step < phase.iterations:
            return Position(number, step)
        step -= phase.iterations
    return Position(len(phases) - 1, step)


def learning_rate(phase: Phase, step: int) -> float:
    """Learning rate of a step of a phase."""
    epoch, epochs = step // phase.epoch, -(-phase.iterations // phase.epoch)
    if epoch < phase.warm_up:
        rise = phase.warm_up_start + (1 - phase.warm_up_start) * epoch / phase.warm_up
        return phase.learning_rate * rise
    if phase.decay == "polynomial":
        return phase.learning_rate * max(0.0, 1 - epoch / epochs) ** 0.9
    if phase.decay == "rising":
        return phase.learning_rate * (epoch + 1) / epochs
    return phase.learning_rate


def check_phases(phases: Sequence[Phase], modules: Iterable[nn.Module]) -> None:
    """Refuse phases that name parameters which none of the modules has.

    Raises:
        InputError: a start of a name in `only` or `factors` fits no parameter.
    """
    names = [name for module in modules for name, _ in module.named_parameters()]
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    for number, phase in enumerate(phases):
        for field, starts in (("only", phase.only), ("factors", tuple(phase.factors or ()))):
            for start in starts:
                if not any(name.startswith(start) for name in names):
                    raise InputError(
                        f"phases[{number}].{field}: no parameter's name starts with {start}; "
                        f"{suggestion(start.partition('.')[0], parts)}."
                    )


def make_optimizer(phase: Phase, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """The optimizer of a phase; parameters that it does not train stop requiring gradients.

    DoDNet's controller may need a smaller learning rate than the rest: its output is multiplied with the
    features three times over, so at full speed it drives all scores to background before the features mean
    anything.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not phase.only or name.startswith(phase.only))
            if parameter.requires_grad:
                factors = (f for start, f in (phase.factors or {}).items() if name.startswith(start))
                groups.setdefault(next(factors, 1.0), []).append(parameter)
    options = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    if phase.optimizer != "sgd":
        adam = torch.optim.AdamW if phase.optimizer == "adamw" else torch.optim.Adam
        decay = phase.weight_decay
        return adam(options, phase.learning_rate, weight_decay=decay, amsgrad=phase.amsgrad)
    return torch.optim.SGD(
        options,
        phase.learning_rate,
        phase.momentum,
        weight_decay=phase.weight_decay,
        nesterov=phase.momentum > 0,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of every group, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
