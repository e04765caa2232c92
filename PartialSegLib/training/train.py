"""Training from a configuration to a package; the steps are those of `loop`.

python -m PartialSegLib.training CONFIG.json
torchrun --nproc-per-node 2 -m PartialSegLib.training CONFIG.json --device cuda
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..errors import InputError
from ..files.json_fields import from_json, require, to_json
from ..manifest import Manifest
from ..model import build_network, check_tasks_served, save_model
from ..networks import NETWORKS, PartialLabelNetwork
from ..pytorch.devices import explained_memory_errors
from ..sentences import suggestion
from .cases import Cases
from .collection import Collection
from .config import TrainingConfig
from .data import (
    ProgressBar,
    batches,
    no_progress_bar,
    prepare,
    training_cases,
    training_collection,
    validation_cases,
)
from .loop.checkpoint_file import write_config
from .loop.run_log import RunLog
from .loop.steps import (
    CHECKPOINT_FILE,
    PACKAGE_FOLDER,
    check_batch,
    explained_compilation,
    explained_exhaustion,
    run_folder,
    run_steps,
)
from .loop.workers import ALONE, Workers, joined_workers
from .losses import LOSSES
from .provenance import license_text, training_record
from .run import Run
from .run_report import write_report
from .validation import PICTURE_FILE, describe_validation, validate

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, device: str = "cpu", progress_bar: ProgressBar = no_progress_bar) -> Path:
    """Train a network on partially labelled cases and write a model package; return its folder.

    Starting again in the same output folder continues from its checkpoint with the same data in the same
    order: on CPUs in float32 to the bit.

    Args:
        config: of the run.
        device: "auto", "cpu", "cuda" or "cuda:N"; with `torchrun` each process takes one GPU.
        progress_bar: shows how far the preparation of a collection is.

    Raises:
        InputError: the configuration cannot be trained, loss or gradient are no longer finite, memory or disk
            are full, a compiled network fails, another process of the run has stopped, or the processes do
            not see the same files.
        DeviceError: there is no such device.
        KeyboardInterrupt: SIGINT or SIGTERM has stopped the run; it can be continued.
    """
    manifest = make_manifest(config)
    with joined_workers(device) as workers:
        check_batch(config.batch_size, "images", workers, config.accumulate)
        _check_parts(config)
        at_a_time = config.batch_size // workers.size // config.accumulate
        work = f"patches of {list(config.patch_size)} and {at_a_time} at a time"
        memory = explained_exhaustion(workers, work, _advice(config, at_a_time))
        with memory, run_folder(config.output, workers.leads) as output:
            return _train(config, manifest, output, workers, progress_bar)


def _check_parts(config: TrainingConfig) -> None:
    """Refuse parts of a batch that would have a Dice each where it shall be that of the whole batch."""
    if config.accumulate > 1 and _has_joint_dice(config):
        raise InputError(
            f"accumulate: loss.joint_dice takes Dice over the whole batch, which {config.accumulate} parts "
            "do not see at once; choose a smaller inference.patch_size, start more processes, or set "
            "loss.joint_dice=false for a Dice of each case."
        )


def _has_joint_dice(config: TrainingConfig) -> bool:
    return config.loss.joint_dice and LOSSES[config.loss.kind].can_join_dice


def _advice(config: TrainingConfig, at_a_time: int) -> str:
    """What helps a run that needs too much memory, without another loss."""
    smaller = "choose a smaller `inference.patch_size`"
    if at_a_time == 1:
        return smaller
    return f"{'start more processes' if _has_joint_dice(config) else 'raise `accumulate`'} or {smaller}"


def _train(
    config: TrainingConfig, manifest: Manifest, output: Path, workers: Workers, progress_bar: ProgressBar
) -> Path:
    """All of a run; what may be wrong with it is found before cases are prepared for hours."""
    used = training_collection(config, manifest)
    run = Run(config, manifest.network.arguments, workers, used.digest() if used else None)
    run.resume(output / CHECKPOINT_FILE)
    if workers.leads:
        logger.info("training on %s, processes: %d", workers.device.type, workers.size)
        write_config(output, to_json(config))
        prepare(config, manifest, progress_bar)
    workers.wait()
    channels = run.network.num_structures
    feed = batches(training_cases(config, manifest, channels), config, workers, run.step)
    watched = validation_cases(config, manifest, channels) if workers.leads else None
    with RunLog(output, run.step, run.iterations, workers.leads) as log:
        validation = partial(_validate, run, watched, manifest, log, output)
        compilation, memory = explained_compilation(config.compile), explained_memory_errors(workers.device)
        with compilation, memory:
            run_steps(run, feed, log, output, config.checkpoint_every, config.validate_every, validation)
    if workers.leads:
        save_package(config, manifest, used, run.weights, run.step, output / PACKAGE_FOLDER)
        write_report(output, config, manifest, describe_validation(watched))
    workers.wait()
    return output / PACKAGE_FOLDER


def package_checkpoint(config: TrainingConfig) -> Path:
    """Write a package of what the last checkpoint of a run holds; return its folder, OUTPUT/package-step-N.

    Nothing else in the folder changes, so the run may be at work meanwhile.

    Args:
        config: of the run, such as the `config.json` in its folder.

    Raises:
        InputError: there is no checkpoint, it is of a run with other settings or cases, or the package cannot
            be written.
    """
    manifest, output = make_manifest(config), Path(config.output)
    if not (output / CHECKPOINT_FILE).is_file():
        raise InputError(
            f"{output} holds no {CHECKPOINT_FILE} yet; train first, or give the config.json of another run."
        )
    used = training_collection(config, manifest)
    run = Run(config, manifest.network.arguments, ALONE, used.digest() if used else None)
    run.resume(output / CHECKPOINT_FILE)
    folder = output / f"{PACKAGE_FOLDER}-step-{run.step}"
    save_package(config, manifest, used, run.weights, run.step, folder)
    return folder


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
    """The manifest of the package that a run writes, checked against its network and its loss.

    Raises:
        InputError: a field of the package or a setting of the run is not valid in a manifest, or the network
            cannot serve the tasks.
    """
    _check_names(config)
    fields: dict[str, Any] = {
        **config.package,
        "tasks": config.trained_tasks,
        "network": {"architecture": config.network, "arguments": _network_arguments(config)},
        "preprocessing": to_json(config.preprocessing),
        "inference": to_json(config.inference),
    }
    manifest = from_json(Manifest, fields)
    _check_structure_weights(config, manifest)
    network = build_network(manifest.network)
    check_tasks_served(network, manifest)
    _check_forward_pass(network, manifest, len(config.loss.deep_supervision))
    return manifest


def _check_names(config: TrainingConfig) -> None:
    """Refuse a network that is not there, and tasks that the package has not."""
    if config.network not in NETWORKS:
        raise InputError(
            f"network: unknown network {config.network!r}; {suggestion(config.network, NETWORKS)}."
        )
    names = [task.get("name") for task in config.package.get("tasks", [])]
    for name in config.only_tasks:
        require(name in names, f"only_tasks: unknown task {name!r}; {suggestion(name, names)}.")


def _network_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Those of the configuration; the number of tasks need not be given."""
    takes_tasks = "num_tasks" in signature(NETWORKS[config.network]).parameters
    return ({"num_tasks": len(config.trained_tasks)} if takes_tasks else {}) | dict(config.network_arguments)


def _check_structure_weights(config: TrainingConfig, manifest: Manifest) -> None:
    """Refuse weights of structures that no task has."""
    structures = {name for task in manifest.tasks for name in task.structures}
    for name in config.loss.structure_weights:
        known = name in structures
        require(known, f"loss.structure_weights: unknown structure {name!r}; {suggestion(name, structures)}.")


def _check_forward_pass(network: PartialLabelNetwork, manifest: Manifest, supervised: int) -> None:
    """Refuse patches and levels that the network cannot be trained on, before anything is prepared."""
    channels, size = manifest.network.arguments.get("in_channels", 1), manifest.inference.patch_size
    try:
        levels = network.train().forward_levels(torch.empty(1, channels, *size, device="meta"))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"inference.patch_size: {manifest.network.architecture} cannot be trained on patches of "
            f"{list(size)} voxels ({error}); choose another size, or another network."
        ) from None
    require(
        supervised <= len(levels),
        f"loss.deep_supervision: {supervised} weights, but {manifest.network.architecture} has {len(levels)} "
        "levels; give at most as many weights as levels.",
    )


def save_package(
    config: TrainingConfig,
    manifest: Manifest,
    used: Collection | None,
    weights: dict[str, torch.Tensor],
    steps: int,
    folder: Path,
) -> None:
    """Write weights as a model package that says what they were trained on, and for how many steps.

    Args:
        config: of the run.
        manifest: of the package.
        used: the cases of the run, see `training_collection`.
        weights: by name.
        steps: that were taken.
        folder: becomes the package.
    """
    start = config.transfer.package if config.transfer else None
    record = training_record(manifest.training, used, steps, start)
    manifest = replace(manifest, training=record)
    dtype = torch.float16 if config.store_float16 else None
    save_model(folder, manifest, weights, license_text(manifest), dtype)
