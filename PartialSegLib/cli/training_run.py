"""The command `train`: what `python -m PartialSegLib.training` does, among the other commands."""

from __future__ import annotations

import dataclasses
import logging
from argparse import Namespace
from pathlib import Path

from ..files.file_names import expanded
from ..training import package_checkpoint, read_config, train
from ..training.config import TrainingConfig
from .terminal import progress_bar, write_line


def train_model(options: Namespace) -> None:
    """Do what `run_training` does, and say where the package is."""
    logging.getLogger("PartialSegLib").setLevel(logging.INFO)
    write_line(str(run_training(options)))


def run_training(options: Namespace) -> Path:
    """Train as a configuration says, go on with a run, or package its checkpoint; return the package."""
    config = _in_its_folder(read_config(options.config, options.change), options)
    if options.package_now:
        return package_checkpoint(config)
    return train(config, options.device, progress_bar)


def _in_its_folder(config: TrainingConfig, options: Namespace) -> TrainingConfig:
    """A run's own config.json means the folder that it lies in, wherever the command is given."""
    folder = expanded(options.config).absolute().parent
    is_of_run = Path(options.config).name == "config.json" and (folder / "checkpoint.pt").is_file()
    if not is_of_run or any(change.startswith("output=") for change in options.change):
        return config
    if Path(config.output).absolute() == folder:
        return config
    return dataclasses.replace(config, output=str(folder))
