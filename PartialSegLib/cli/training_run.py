"""The command `train`: what `python -m PartialSegLib.training` does, among the other commands."""

from __future__ import annotations

import logging
from argparse import Namespace

from ..training import read_config, train
from .terminal import write_line


def train_model(options: Namespace) -> None:
    """Train as a configuration says, or go on with a run, and say where the package is."""
    logging.getLogger("PartialSegLib").setLevel(logging.INFO)
    write_line(str(train(read_config(options.config, options.change), options.device)))
