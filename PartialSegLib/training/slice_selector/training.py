"""Training of a package's decision network, and its way into other packages.

It learns from the masks of synthetic trunks alone, so it serves every package with the same tasks and the
same preprocessing: `add_slice_selector` copies it to another one.

Wang et al.: Med-DANet, ECCV 2022, section 3.3, teach their decision network which candidate is the best for a
slice; skip is right for slices without foreground. Here that label is given for each task, and is the only
one; foreground slices weigh more, because a slice that is skipped wrongly is lost.
"""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...decision_spec import DecisionSpec
from ...errors import InputError
from ...files.json_fields import from_json, to_json
from ...files.output_files import replacing
from ...manifest import MANIFEST_FILE, Manifest, read_manifest
from ...model import build_decision_network, load_model, save_decision
from ...networks.decision_network import DecisionNetwork
from ...packages.installed import find_package
from ...phantom import STRUCTURE_TISSUES
from ..atlas import read_atlas
from ..config_files import read_json
from ..loop.checkpoint_file import (
    CONFIG_FILE,
    check_settings,
    read_checkpoint,
    write_checkpoint,
    write_config,
)
from ..loop.stop_signals import noted_signals, stop
from .batches import draw_batch
from .calibration import choose_thresholds, selection_figures
from .config import SliceSelectorConfig
from .kept_images import KeptImages
from .trunks import TrunkSlices

logger = logging.getLogger(__name__)


def train_slice_selector(config: SliceSelectorConfig) -> Path:
    """Train, choose thresholds, measure, and write a copy of the package with the decision network.

    Images are made once and kept in the folder of the run, as are checkpoints; starting again goes on to the
    same end.

    Returns:
        The folder of the package.

    Raises:
        InputError: the package, the atlas or the output folder cannot be used.
        KeyboardInterrupt: SIGINT or SIGTERM has stopped the run; it can be continued.
    """
    source, output = find_package(config.package), Path(config.output)
    manifest = read_manifest(source)
    _check_structures(manifest, config.package)
    atlas = read_atlas(config.atlas) if config.atlas else None
    _claim(output, config)
    images = KeptImages(config, manifest, atlas, output / "slices")
    network = _start(config, len(manifest.tasks))
    _train(config, network, images.training(), output / "checkpoint.pt")
    network.half().float().eval()  # as they will be stored
    package = output / "package"
    _copy_package(source, package)
    save_decision(package, _measured(config, network, images, manifest), network.state_dict())
    return package


def add_slice_selector(selector_package: Path | str, package: Path | str) -> Manifest:
    """Copy the decision network of one package to another, which must see the same slices for the same tasks.

    Returns:
        The manifest of the package as written.

    Raises:
        InputError: there is no decision network, or tasks or preprocessing differ.
    """
    folder = find_package(package)
    model, manifest = load_model(selector_package), read_manifest(folder)
    if model.decision is None or model.manifest.decision is None:
        raise InputError(f"{selector_package} has no decision network; train one with slice_selector train.")
    for name, given, wanted in (
        ("tasks", _tasks(model.manifest), _tasks(manifest)),
        ("preprocessing", model.manifest.preprocessing, manifest.preprocessing),
    ):
        if given != wanted:
            raise InputError(
                f"The {name} of {selector_package} and {package} differ; "
                f"train a decision network for {package}."
            )
    return save_decision(folder, model.manifest.decision, model.decision.state_dict())


def _train(
    config: SliceSelectorConfig, network: nn.Module, images: list[TrunkSlices], checkpoint: Path
) -> None:
    """Steps up to the last one; the batch of a step depends on the seed and its number alone."""
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    step = _resume(checkpoint, network, optimizer)
    network.train()
    with noted_signals() as noted:
        while step < config.iterations:
            loss = _take_step(config, network, optimizer, images, step)
            step += 1
            if noted or step % config.checkpoint_every == 0 or step == config.iterations:
                state = {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
                write_checkpoint(checkpoint, state)
                logger.info("step %d of %d, loss %.4f", step, config.iterations, loss)
            if noted and step < config.iterations:
                stop(noted)


def _take_step(
    config: SliceSelectorConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: list[TrunkSlices],
    step: int,
) -> float:
    """Change the weights once, and return the loss."""
    rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.iterations))
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / 100)
    rng = np.random.default_rng([config.seed, step])
    slices, needed = draw_batch(images, config.offsets, config.batch_size, rng)
    weight = torch.tensor(config.foreground_weight)
    loss = functional.binary_cross_entropy_with_logits(network(slices), needed, pos_weight=weight)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _check_structures(manifest: Manifest, package: str) -> None:
    """Refuse a package that looks for what no phantom has."""
    for structure in sorted({name for task in manifest.tasks for name in task.structures}):
        if structure not in STRUCTURE_TISSUES:
            raise InputError(
                f"{package} looks for {structure}, which no phantom has; choose another package."
            )


def _measured(
    config: SliceSelectorConfig, network: nn.Module, images: KeptImages, manifest: Manifest
) -> DecisionSpec:
    """How slices are selected with the trained network: its thresholds, and what they reach."""
    calibration, held_out = images.calibration(), images.held_out()
    thresholds = choose_thresholds(network, calibration, config.spec(()), config.recall, config.margin)
    spec = config.spec(thresholds)
    names = [task.name for task in manifest.tasks]
    figures = {
        "held_out": selection_figures(network, held_out, spec, names),
        "held_out_phantoms": config.held_out_images,
        "calibration": selection_figures(network, calibration, spec, names),
        "calibration_images": config.calibration_images,
        "seed": config.seed,
    }
    return config.spec(thresholds, figures)


def _start(config: SliceSelectorConfig, num_tasks: int) -> nn.Module:
    spec = config.spec((0.5,) * num_tasks)
    build_decision_network(spec)  # refuses wrong arguments in a sentence
    torch.manual_seed(config.seed)
    return DecisionNetwork(len(spec.offsets), num_tasks, spec.input_size, **spec.arguments)


def _resume(checkpoint: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from."""
    if not checkpoint.exists():
        return 0
    state = read_checkpoint(checkpoint)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _claim(output: Path, config: SliceSelectorConfig) -> None:
    """Write the configuration into the folder of the run; refuse the folder of another run."""
    path, wanted = output / CONFIG_FILE, to_json(config)
    if path.exists():
        held = from_json(SliceSelectorConfig, read_json(path, f"There is no {path}."), str(path))
        check_settings(output, to_json(held), wanted)
    write_config(output, wanted)


def _copy_package(source: Path, target: Path) -> None:
    """Copy the files of a package; what else lies there stays behind."""
    with replacing(target) as temporary:
        for name in (MANIFEST_FILE, *read_manifest(source).files):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, temporary / name)


def _tasks(manifest: Manifest) -> list[tuple[str, list[str]]]:
    return [(task.name, sorted(task.structures)) for task in manifest.tasks]
