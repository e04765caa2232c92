"""The training loop, in the open: batch, loss, gradient, step, checkpoint, package.

python -m PartialSegLib.training CONFIG.json
torchrun --nproc-per-node 4 -m PartialSegLib.training CONFIG.json --device cuda
"""

from __future__ import annotations

import copy
import logging
import math
import time
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..devices import explained_memory_errors
from ..errors import InputError, OutOfMemoryError
from ..json_fields import from_json, suggestion, to_json
from ..manifest import Manifest
from ..model import build_network, check_tasks_served, save_model
from ..networks import NETWORKS, PartialLabelNetwork
from .cases import Cases
from .config import TrainingConfig
from .data import batches, prepare, training_cases, validation_cases
from .losses import SUMMED
from .run import Run
from .run_log import RunLog
from .run_report import write_report
from .validation import PICTURE_FILE, validate
from .workers import Workers, joined_workers

logger = logging.getLogger(__name__)

CHECKPOINT_FILE, PACKAGE_FOLDER = "checkpoint.pt", "package"


def train(config: TrainingConfig, device: str = "cpu") -> Path:
    """Train a network on partially labelled cases and write a model package; return its folder.

    Starting again in the same output folder continues from its checkpoint with the same data in the same
    order: on CPUs in float32 to the bit.

    Args:
        config: of the run.
        device: "cpu", "cuda" or "cuda:N"; with `torchrun` each process takes one GPU.

    Raises:
        InputError: the configuration cannot be trained, loss or gradient are no longer finite, memory or disk
            are full, or another process of the run has stopped.
    """
    manifest = make_manifest(config)
    with joined_workers(device) as workers:
        _check_batch(config, workers)
        try:
            with explained_memory_errors(workers.device):
                return _train(config, manifest, workers)
        except OutOfMemoryError as error:
            raise InputError(
                f"Out of memory on {workers.device} with patches of {list(config.patch_size)} and "
                f"{config.batch_size // workers.size // config.accumulate} at a time; raise `accumulate` or "
                "choose a smaller `inference.patch_size`."
            ) from error


def _train(config: TrainingConfig, manifest: Manifest, workers: Workers) -> Path:
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    if workers.leads:
        prepare(config, manifest)
    workers.wait()
    run = Run(config, manifest.network.arguments, workers)
    run.resume(output / CHECKPOINT_FILE)
    channels = run.network.num_structures
    feed = batches(training_cases(config, manifest, channels), config, workers, run.step)
    watched = validation_cases(config, manifest, channels) if workers.leads else None
    with RunLog(output, run.step, config.iterations, workers.leads) as log:
        while run.step < config.iterations:
            rate = run.begin_step()
            asked = time.monotonic()
            batch = next(feed)
            waited = time.monotonic() - asked
            share = 1.0 if config.loss.kind in SUMMED else 1 / config.accumulate
            size = len(batch) // config.accumulate
            loss = 0.0
            for part in range(config.accumulate):
                cases = batch[part * size : (part + 1) * size]
                loss += run.add_gradient(cases, share, last=part == config.accumulate - 1)
            norm = run.finish_step()
            if not math.isfinite(loss) or not (math.isfinite(norm) or run.scaler.is_enabled()):
                raise InputError(
                    f"The loss ({loss:.3g}) or its gradient ({norm:.3g}) is no longer finite at step "
                    f"{run.step}; lower the learning rate and start again: the run goes on from its last "
                    "checkpoint."
                )
            log.add_step(run.step, workers.mean(loss), rate, norm, waited)
            done = run.step == config.iterations
            if done or (config.validate_every and run.step % config.validate_every == 0):
                _validate(run, watched, manifest, log, output)
            if done or run.step % config.checkpoint_every == 0:
                log.flush()
                if workers.leads:
                    run.save(output / CHECKPOINT_FILE)
    if workers.leads:
        save_package(config, manifest, run.weights, output / PACKAGE_FOLDER)
        write_report(output, config, manifest)
    workers.wait()
    return output / PACKAGE_FOLDER


def _validate(run: Run, cases: Dataset[Cases] | None, manifest: Manifest, log: RunLog, output: Path) -> None:
    """See how the weights that would be saved do, if there are cases to see it on."""
    if cases is None:
        return
    network = copy.deepcopy(run.network).eval()
    network.load_state_dict(run.weights)
    images = (cases[i] for i in range(len(cases)))  # type: ignore[arg-type] # both kinds of cases have a length
    picture = output / PICTURE_FILE
    log.add_validation(run.step, validate(network, images, manifest, run.workers.device, picture))


def make_manifest(config: TrainingConfig) -> Manifest:
    """The manifest of the package that a run writes.

    Raises:
        InputError: a field of the package or a setting of the run is not valid in a manifest, or the network
            cannot serve the tasks.
    """
    if config.network not in NETWORKS:
        raise InputError(
            f"network: unknown network {config.network!r}; {suggestion(config.network, NETWORKS)}."
        )
    tasks = config.package.get("tasks", [])
    if config.only_tasks:
        tasks = [task for task in tasks if task.get("name") in config.only_tasks]
    arguments = dict(config.network_arguments)
    if "num_tasks" in signature(NETWORKS[config.network]).parameters:
        arguments.setdefault("num_tasks", len(tasks))
    fields: dict[str, Any] = {
        **config.package,
        "tasks": tasks,
        "network": {"architecture": config.network, "arguments": arguments},
        "preprocessing": to_json(config.preprocessing),
        "inference": to_json(config.inference),
    }
    manifest = from_json(Manifest, fields)
    network = build_network(manifest.network)
    check_tasks_served(network, manifest)
    _check_patch(network, manifest)
    return manifest


def _check_patch(network: PartialLabelNetwork, manifest: Manifest) -> None:
    """Refuse patches that the network cannot be trained on, before anything is prepared."""
    channels, size = manifest.network.arguments.get("in_channels", 1), manifest.inference.patch_size
    try:
        network.train().forward_features(torch.empty(1, channels, *size, device="meta"))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"inference.patch_size: {manifest.network.architecture} cannot be trained on patches of "
            f"{list(size)} voxels ({error}); choose another size."
        ) from None


def save_package(
    config: TrainingConfig, manifest: Manifest, weights: dict[str, torch.Tensor], folder: Path
) -> None:
    """Write weights as a model package."""
    data = config.package.get("training", {}).get("data", "see model.json")
    license_text = f"SPDX-License-Identifier: {config.package['license']}\n\nTrained on: {data}\n"
    dtype = torch.float16 if config.store_float16 else None
    save_model(folder, manifest, weights, license_text, dtype)


def _check_batch(config: TrainingConfig, workers: Workers) -> None:
    """Refuse a batch that processes and parts cannot share equally."""
    parts = workers.size * config.accumulate
    if config.batch_size % parts:
        raise InputError(
            f"batch_size: {config.batch_size} images cannot be shared by {workers.size} processes in "
            f"{config.accumulate} parts; choose a multiple of {parts}."
        )
