"""What a training of Med-DANet changes from step to step: first all candidates of its bank, then its choices.

Wang et al.: Med-DANet, ECCV 2022, sections 3.2, 3.3 and 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...files.json_fields import to_json
from ...manifest import Manifest
from ...networks import MedDANet
from ..loop.checkpoint_file import check_collection, check_settings
from ..loop.phased_run import PhasedRun, StepResult, mixed_precision
from ..loop.shared_batch_norm import share_batch_norm
from ..loop.workers import Workers
from .choice_metric import best_choices
from .config import SliceBankConfig
from .losses import bank_loss, candidate_loss, decision_loss
from .slices import Slice

Judged = tuple[Tensor, dict[str, Tensor]]
"""A loss, and figures for the log by the names of their columns."""


class SliceBankRun(PhasedRun):
    """The state of a run at its first step, whose networks depend on the seed alone.

    Args:
        config: of the run.
        manifest: of its package.
        num_slices: that it is trained on.
        steps_per_epoch: batches of them.
        workers: the processes of the run; batch normalisation sees the slices of all of them.
        cases: digest of those of the collection; None for other slices.

    Attributes:
        network: on the device of the process.
        identity: settings of the run, as plain JSON; most may not change when it is continued.
        figures: names of the columns that a step fills in the log.

    Raises:
        InputError: the network cannot be built so.
    """

    def __init__(
        self,
        config: SliceBankConfig,
        manifest: Manifest,
        num_slices: int,
        steps_per_epoch: int,
        workers: Workers,
        cases: str | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        try:
            network = MedDANet(**manifest.network.arguments)
        except (TypeError, ValueError) as error:
            raise InputError(f"candidates, decision_arguments or input_size: {error}") from None
        if workers.size > 1:
            share_batch_norm(network, workers)
        self.config = config
        self.cases = cases
        self.network = network.to(workers.device)
        self.steps_per_epoch = steps_per_epoch
        settings = {key: value for key, value in to_json(config).items() if key != "package"}
        self.identity = {**settings, "tasks": config.package["tasks"], "number of slices": num_slices}
        losses = [f"loss/{candidate.name}" for candidate in config.candidates]
        self.figures = (*losses, "right", *(f"choice/{option}" for option in network.bank.options))
        phases = config.phases(steps_per_epoch)
        super().__init__([self.network], phases, config.precision, config.seed, workers)

    def enter_phase(self, number: int) -> None:
        """Train the candidates (0) or the decision network (1) from now on."""
        super().enter_phase(number)
        bank = self.network.bank
        parts = [bank.decision_network] if number else list(bank.networks)
        self._parts = [self.workers.parallel(part) for part in parts]

    def take_step(self, batch: Slice) -> StepResult:
        """Change the weights once, by the slices that this process has of a batch."""
        rate = self.begin_step()
        batch = Slice(*(part.to(self.workers.device, non_blocking=True) for part in batch))
        loss, figures = self._judge_choices(batch) if self.phase_number else self._judge_candidates(batch)
        self.scaler.scale(loss).backward()
        means = self.workers.means(torch.stack(list(figures.values())).detach().tolist())
        value, norm = self.finish_step(loss)
        return StepResult(value, rate, norm, dict(zip(figures, means, strict=True)))

    def _judge_candidates(self, batch: Slice) -> Judged:
        """Of all candidates that have not left, together (equations 5 and 6).

        Candidates that have left have no gradient, so Adam passes them over; their normalisation statistics
        stay.
        """
        config, epoch = self.config, self.step // self.steps_per_epoch
        members = {
            candidate.name: part
            for candidate, part in zip(config.candidates, self._parts, strict=True)
            if epoch < candidate.epochs
        }
        _train_only(self.network, members.values())
        losses = {}
        for name, member in members.items():
            with mixed_precision(self.precision, self.workers.device):
                logits = member(batch.image)
            losses[f"loss/{name}"] = candidate_loss(
                logits.float(), batch.labels, config.cross_entropy_weight, self.workers
            )
        return bank_loss(list(losses.values()), len(config.candidates)), losses

    def _judge_choices(self, batch: Slice) -> Judged:
        """Of the decision network (equations 4 and 7); the bank stays as it is.

        The paper acquires the choices once before; here they are those of the varied slices themselves,
        because a crop may cut off what was hard, or all that there was. Figures are the share of slices for
        which the choice was right, and the share for which each choice is the right one.
        """
        choices = best_choices(self.network, batch, self.config.alpha)
        _train_only(self.network, self._parts)
        (decide,) = self._parts
        logits = decide(batch.image)
        weights = [self.config.skip_weight, *(candidate.weight for candidate in self.config.candidates)]
        loss = decision_loss(logits, choices, logits.new_tensor(weights))
        right = (logits.argmax(dim=1) == choices).float().mean()
        shares = choices.bincount(minlength=len(weights)) / len(choices)
        options = self.network.bank.options
        named = {f"choice/{option}": share for option, share in zip(options, shares, strict=True)}
        return loss, {"right": right, **named}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        own = {"identity": self.identity, "cases": self.cases, "network": self.network.state_dict()}
        return {**super().state(), **own}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            InputError: it is of a run with another configuration or other slices.
        """
        check_collection(Path(self.config.output), state.get("cases"), self.cases)
        check_settings(Path(self.config.output), state["identity"], self.identity)
        self.network.load_state_dict(state["network"])
        super().load_state(state)


def _train_only(network: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Evaluation mode for the network, training mode for the parts."""
    network.eval()
    for part in parts:
        part.train()
