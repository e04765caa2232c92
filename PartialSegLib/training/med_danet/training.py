"""Training of Med-DANet, in the open: first all candidates of its model bank, then its decision network.

Wang et al.: Med-DANet, ECCV 2022, sections 3.2, 3.3 and 4.1.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...model import save_model
from .choice_metric import choose_candidates, slice_dice
from .collection_slices import open_slices
from .config import SliceBankConfig, slice_bank_manifest
from .losses import bank_loss, candidate_loss, decision_loss
from .run import SliceBankRun, start_slice_bank_run
from .slices import Slice, SliceSource, load_batches, steps_per_epoch

POWER = 0.9  # of the decay of the learning rate

logger = logging.getLogger(__name__)


def train_slice_bank(config: SliceBankConfig, source: SliceSource | None = None, device: str = "cpu") -> Path:
    """Train bank and decision network, write a model package, and return its folder.

    A checkpoint is written every `checkpoint_every` steps; starting again in the same output folder continues
    from it with the same slices in the same order.

    Args:
        config: of the run.
        source: the slices; None takes those that the configuration names.
        device: where to train.

    Raises:
        InputError: the configuration does not make a valid package, the folder holds another run, or the
            gradient is no longer finite.
    """
    output = Path(config.output)
    manifest = slice_bank_manifest(config)
    if source is None:
        source = open_slices(config, manifest)
    per_epoch = steps_per_epoch(source, config.batch_size)
    bank_steps, steps = (
        per_epoch * n for n in (config.bank_epochs, config.bank_epochs + config.decision_epochs)
    )
    run = start_slice_bank_run(config, manifest, len(source), device)
    run.resume(output / "checkpoint.pt")
    output.mkdir(parents=True, exist_ok=True)
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        for batch in load_batches(source, config, run.step, steps):
            batch = Slice(batch.image.to(device), batch.labels.to(device))
            torch.manual_seed(_seed_of_step(config.seed, run.step))  # for the networks' dropout
            warm_up = per_epoch * config.warm_up_epochs
            if run.step < bank_steps:
                factor = learning_rate_factor(run.step, bank_steps, warm_up)
                figures = train_bank(run, batch, config, run.step // per_epoch, factor)
            else:
                factor = learning_rate_factor(run.step - bank_steps, steps - bank_steps, warm_up)
                figures = train_decision_network(run, batch, config, factor)
            run.step += 1
            log.write(json.dumps({"step": run.step, **figures}) + "\n")
            if run.step % config.checkpoint_every == 0 or run.step == steps:
                log.flush()
                run.save(output / "checkpoint.pt")
                logger.info("step %d of %d, %s", run.step, steps, json.dumps(figures))
    license_text = f"SPDX-License-Identifier: {manifest.license}\n"
    save_model(output / "package", manifest, run.network.state_dict(), license_text, torch.float16)
    return output / "package"


def train_bank(
    run: SliceBankRun, batch: Slice, config: SliceBankConfig, epoch: int, factor: float
) -> dict[str, Any]:
    """One step of all candidates that have not left, together (equations 5 and 6).

    Candidates that have left have no gradient, so Adam passes them over; their normalisation statistics stay.

    Args:
        run: is changed.
        batch: slices, on the run's device.
        config: of the run.
        epoch: number of the epoch, from 0.
        factor: of the learning rate.

    Returns:
        For the log: the loss, and that of each candidate by its name.
    """
    members = {
        candidate.name: network
        for candidate, network in zip(config.candidates, run.network.bank.networks, strict=True)
        if epoch < candidate.epochs
    }
    _train_only(run.network, members.values())
    losses = {
        name: candidate_loss(network(batch.image), batch.labels, config.cross_entropy_weight)
        for name, network in members.items()
    }
    loss = bank_loss(list(losses.values()), len(config.candidates))
    _descend(run, run.bank_optimizer, loss, config.bank_learning_rate * factor)
    return {"loss": _rounded(loss), **{name: _rounded(value) for name, value in losses.items()}}


def train_decision_network(
    run: SliceBankRun, batch: Slice, config: SliceBankConfig, factor: float
) -> dict[str, Any]:
    """One step of the decision network (equations 4 and 7); the bank stays as it is.

    The paper acquires the choices once before; here they are those of the varied slices themselves, because
    a crop may cut off what was hard, or all that there was.

    Args:
        run: is changed.
        batch: slices, on the run's device.
        config: of the run.
        factor: of the learning rate.

    Returns:
        For the log: the loss, the share of slices for which the choice was right, and how often each choice
        was the right one, skip first.
    """
    choices = best_choices(run, batch, config.alpha)
    network = run.network.bank.decision_network
    _train_only(run.network, [network])
    logits = network(batch.image)
    weights = [config.skip_weight, *(candidate.weight for candidate in config.candidates)]
    loss = decision_loss(logits, choices, logits.new_tensor(weights))
    _descend(run, run.decision_optimizer, loss, config.decision_learning_rate * factor)
    right = (logits.argmax(dim=1) == choices).float().mean()
    counts = choices.bincount(minlength=len(weights)).tolist()
    return {"loss": _rounded(loss), "right": _rounded(right), "choices": counts}


@torch.no_grad()
def best_choices(run: SliceBankRun, batch: Slice, alpha: float) -> Tensor:
    """What equation 4 says (B) of the candidates on slices, see `choose_candidates`."""
    bank = run.network.bank
    run.network.eval()
    predictions = [network(batch.image).argmax(dim=1) for network in bank.networks]
    dice = [slice_dice(prediction, batch.labels, bank.num_classes) for prediction in predictions]
    decision, *costs = run.network.multiply_adds
    gigaflops = torch.tensor([cost - decision for cost in costs], device=batch.labels.device)
    foreground = (batch.labels > 0).sum(dim=(1, 2))
    return choose_candidates(torch.stack(dice, dim=1), gigaflops, foreground, alpha)


def learning_rate_factor(step: int, steps: int, warm_up: int) -> float:
    """Polynomial decay with power 0.9 over `steps`, after a linear rise over the first `warm_up` of them."""
    return min(1.0, (step + 1) / (warm_up + 1)) * (1 - step / steps) ** POWER


def _train_only(network: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Evaluation mode for the network, training mode for the parts."""
    network.eval()
    for part in parts:
        part.train()


def _descend(run: SliceBankRun, optimizer: torch.optim.Optimizer, loss: Tensor, learning_rate: float) -> None:
    """One step down the gradient of the loss.

    Raises:
        InputError: the gradient is not finite.
    """
    optimizer.zero_grad()
    loss.backward()
    (group,) = optimizer.param_groups
    group["lr"] = learning_rate
    norm = nn.utils.clip_grad_norm_(group["params"], math.inf)
    if not norm.isfinite():
        raise InputError(
            f"The gradient is no longer finite at step {run.step} (loss {loss.item():.3f}); lower the "
            "learning rate and start again in another folder."
        )
    optimizer.step()


def _seed_of_step(seed: int, step: int) -> int:
    return int(np.random.default_rng([seed, step]).integers(2**62))


def _rounded(value: Tensor) -> float:
    return round(float(value.detach()), 5)
