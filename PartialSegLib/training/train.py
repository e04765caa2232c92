"""The training loop, in the open: cases, loss, step, checkpoint, package."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import InputError
from ..json_fields import from_json
from ..manifest import Inference, Manifest, NetworkSpec, Preprocessing
from ..model import save_model
from ..networks import NETWORKS
from .cases import Cases, SyntheticCases
from .config import TrainingConfig
from .losses import partial_label_loss

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, device: str = "cpu") -> Path:
    """Train a network on partially labelled cases and write a model package.

    A checkpoint is written every `checkpoint_every` steps; starting again in the same output folder continues from it
    with the same data in the same order.

    Returns:
        The folder of the finished package.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(config)
    torch.manual_seed(config.seed)
    network = NETWORKS[config.network](**manifest.network.arguments).to(device, memory_format=torch.channels_last_3d)
    if config.initial_logit is not None:
        network.set_initial_logit(config.initial_logit)
    optimizer = make_optimizer(config, network)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    step = _resume(output, config, network, optimizer, average)
    cases = _load_cases(config, SyntheticCases(config, manifest.tasks), step)
    started = time.monotonic()
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        while step < config.iterations:
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(config, step)
            optimizer.zero_grad()
            losses = [_backward(network, next(cases), config, device) for _ in range(config.batch_size)]
            norm = nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            loss = sum(losses) / len(losses)
            if not torch.isfinite(norm):
                raise InputError(f"The loss became {loss} at step {step}; lower the learning rate and resume.")
            optimizer.step()
            _update_average(average, network, config.ema_decay, step)
            step += 1
            record = {"step": step, "loss": round(loss, 4), "seconds": round(time.monotonic() - started, 1)}
            log.write(json.dumps(record) + "\n")
            if step % config.checkpoint_every == 0 or step == config.iterations:
                log.flush()
                logger.info("step %d of %d, loss %.4f, %.0f s", step, config.iterations, loss, record["seconds"])
                _save_checkpoint(output, config, network, optimizer, average, step)
    return save_package(config, average, output / "package")


def make_optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (the paper's) or AdamW; the controller may learn more slowly than the rest.

    Its output is multiplied with the features three times over, so at full speed it drives all scores to background
    before the features mean anything, and the run does not recover.
    """
    controller = [value for name, value in network.named_parameters() if name.startswith("controller.")]
    rest = [value for name, value in network.named_parameters() if not name.startswith("controller.")]
    groups = [{"params": rest, "factor": 1.0}, {"params": controller, "factor": config.controller_factor}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        groups, config.learning_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )


def make_manifest(config: TrainingConfig) -> Manifest:
    """The manifest of the package that a run writes."""
    package: dict[str, Any] = dict(config.package)
    tasks = package.pop("tasks")
    arguments = {"num_tasks": len(tasks), **config.network_arguments}
    preprocessing = Preprocessing("SAR", config.spacing, config.clip, config.subtract, config.divide, "linear", -1000.0)
    return from_json(
        Manifest,
        {
            **package,
            "tasks": tasks,
            "network": {"architecture": config.network, "arguments": arguments},
            "preprocessing": _plain(preprocessing),
            "inference": _plain(Inference(config.patch_size, config.overlap)),
        },
    )


def _plain(part: Preprocessing | Inference | NetworkSpec) -> dict[str, Any]:
    from ..json_fields import to_json

    return to_json(part)


def save_package(config: TrainingConfig, weights: dict[str, Tensor], folder: Path) -> Path:
    """Write weights (stored as float16) as a model package."""
    license_text = f"{config.package['license']}\n"
    save_model(folder, make_manifest(config), weights, license_text, torch.float16)
    return folder


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Polynomial decay with power 0.9 (DoDNet, section 4.2), after a linear warm-up."""
    warm = min(1.0, (step + 1) / (config.warm_up + 1))
    return config.learning_rate * warm * (1 - step / config.iterations) ** 0.9


def _backward(network: nn.Module, cases: Cases, config: TrainingConfig, device: str) -> float:
    """Add the gradient of the cases of one image; features are computed once, heads once for each case."""
    image = cases.image[None].to(device, memory_format=torch.channels_last_3d)
    with torch.autocast(device, torch.bfloat16, enabled=config.mixed_precision):
        features = network.forward_features(image)
    features = type(features)(*(part.float() for part in features))
    losses = []
    for number, task in enumerate(cases.tasks.tolist()):
        logits = network.forward_head(features, task)
        target, annotated = cases.target[number : number + 1], cases.annotated[number : number + 1]
        losses.append(partial_label_loss(logits, target.to(device), annotated.to(device), config.dice_epsilon))
    loss = torch.stack(losses).mean()
    (loss / config.batch_size).backward()
    return float(loss.detach())


def _load_cases(config: TrainingConfig, data: SyntheticCases, step: int) -> Iterator[Cases]:
    """Cases from the first one of `step` on, prepared by worker processes."""
    remaining = range(step * config.batch_size, len(data))
    loader = DataLoader(
        data, batch_size=None, sampler=remaining, num_workers=config.workers, prefetch_factor=4 if config.workers else None
    )
    return iter(loader)


def _update_average(average: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, warmed up so that it forgets the start."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)


def _save_checkpoint(
    output: Path, config: TrainingConfig, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int
) -> None:
    state = {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
    temporary = output / "checkpoint.pt.partial"
    torch.save(state, temporary)
    os.replace(temporary, output / "checkpoint.pt")


def _resume(
    output: Path, config: TrainingConfig, network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> int:
    path = output / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.update(state["average"])
    logger.info("resumed at step %d", state["step"])
    return int(state["step"])
