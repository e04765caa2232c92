"""The command `train`: what `python -m PartialSegLib.training` does, among the other commands."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path

from ..training import package_checkpoint, read_config, train
from .terminal import progress_bar, write_line


def train_model(options: Namespace) -> None:
    """Do what `run_training` does, and say where the package is."""
    logging.getLogger("PartialSegLib").setLevel(logging.INFO)
    write_line(str(run_training(options)))


def run_training(options: Namespace) -> Path:
    """Train as a configuration says, go on with a run, or package its checkpoint; return the package."""
    config = read_config(options.config, options.change)
    if options.package_now:
        return package_checkpoint(config)
    return train(config, options.device, progress_bar)
