"""The training loop, in the open: cases, loss, step, checkpoint, package."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import InputError
from ..feature_cache import map_tensors
from ..json_fields import from_json, to_json
from ..manifest import Inference, Manifest, Preprocessing
from ..model import save_model
from ..networks import PartialLabelNetwork
from .cases import Cases, SyntheticCases
from .config import TrainingConfig
from .losses import partial_label_loss
from .run import Run, start_run

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, device: str = "cpu") -> Path:
    """Train a network on partially labelled cases and write a model package; return its folder.

    A checkpoint is written every `checkpoint_every` steps; starting again in the same output folder continues
    from it with the same data in the same order.

    Raises:
        InputError: the configuration does not make a valid package, or the gradient is no longer finite.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(config)
    run = start_run(config, manifest.network.arguments, device)
    run.resume(output / "checkpoint.pt")
    cases = _load_cases(config, SyntheticCases(config, manifest.tasks), run.step)
    started = time.monotonic()
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        while run.step < config.iterations:
            for group in run.optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(config, run.step)
            run.optimizer.zero_grad()
            losses = [_backward(run, next(cases), config, device) for _ in range(config.batch_size)]
            loss = sum(losses) / len(losses)
            norm = nn.utils.clip_grad_norm_(run.network.parameters(), config.gradient_clip)
            if not torch.isfinite(norm):
                raise InputError(
                    f"The gradient is no longer finite at step {run.step} (loss {loss:.3f}); "
                    "lower the learning rate and start again: the run goes on from its last checkpoint."
                )
            run.optimizer.step()
            run.update_average(config.ema_decay)
            run.step += 1
            seconds = round(time.monotonic() - started, 1)
            log.write(json.dumps({"step": run.step, "loss": round(loss, 4), "seconds": seconds}) + "\n")
            if run.step % config.checkpoint_every == 0 or run.step == config.iterations:
                log.flush()
                run.save(output / "checkpoint.pt")
                logger.info("step %d of %d, loss %.4f, %.0f s", run.step, config.iterations, loss, seconds)
    return save_package(config, run.average, output / "package")


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Polynomial decay with power 0.9 (DoDNet, section 4.2), after a linear warm-up."""
    warm = min(1.0, (step + 1) / (config.warm_up + 1))
    return config.learning_rate * warm * (1 - step / config.iterations) ** 0.9


def make_manifest(config: TrainingConfig) -> Manifest:
    """The manifest of the package that a run writes.

    Raises:
        InputError: a field of the package or a setting of the run is not valid in a manifest.
    """
    arguments = {"num_tasks": len(config.package.get("tasks", ())), **config.network_arguments}
    preprocessing = Preprocessing(
        "SAR",
        config.spacing,
        config.clip,
        config.subtract,
        config.divide,
        "linear",
        pad_value=-1000.0,
        crop_to_body=True,
    )
    fields: dict[str, Any] = {
        **config.package,
        "network": {"architecture": config.network, "arguments": arguments},
        "preprocessing": to_json(preprocessing),
        "inference": to_json(Inference(config.patch_size, config.overlap)),
    }
    return from_json(Manifest, fields)


def save_package(config: TrainingConfig, weights: dict[str, Tensor], folder: Path) -> Path:
    """Write weights (stored as float16) as a model package, and return its folder."""
    data = config.package.get("training", {}).get("data", "see model.json")
    license_text = f"SPDX-License-Identifier: {config.package['license']}\n\nTrained on: {data}\n"
    save_model(folder, make_manifest(config), weights, license_text, torch.float16)
    return folder


def _backward(run: Run, cases: Cases, config: TrainingConfig, device: str) -> float:
    """Add the gradient of the cases of one image; features are computed once, heads once for each case."""
    image = cases.image[None].to(device, memory_format=torch.channels_last_3d)
    with torch.autocast(device, torch.bfloat16, enabled=config.mixed_precision):
        features = run.network.forward_features(image)
    features = map_tensors(Tensor.float, features)
    loss = torch.zeros((), device=device)
    if config.tissue_weight > 0:
        voxels, tissues = cases.voxels.to(device), cases.tissues.to(device)
        watched = features[0] if run.tissue_head.watched is None else run.tissue_head.watched
        loss = config.tissue_weight * run.tissue_head.loss(watched, voxels, tissues)
    if run.step >= config.tissue_iterations:
        loss = loss + _one_task_losses(run.network, features, cases, config).mean()
    (loss / config.batch_size).backward()
    return float(loss.detach())


def _one_task_losses(
    network: PartialLabelNetwork, features: tuple[Tensor, ...], cases: Cases, config: TrainingConfig
) -> Tensor:
    """The loss of each case (N) of one image."""
    device = features[0].device
    losses = []
    for number, task in enumerate(cases.tasks.tolist()):
        logits = network.forward_head(features, task)
        target, annotated = (part[number : number + 1].to(device) for part in (cases.target, cases.annotated))
        weights = config.dice_epsilon, config.foreground_weight, config.background_weight
        losses.append(partial_label_loss(logits, target, annotated, *weights))
    return torch.stack(losses)


def _load_cases(config: TrainingConfig, data: SyntheticCases, step: int) -> Iterator[Cases]:
    """Cases from the first one of `step` on, prepared by worker processes."""
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(step * config.batch_size, len(data)),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    return iter(loader)
