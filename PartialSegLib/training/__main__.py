"""Command line: `python -m PartialSegLib.training CONFIG.json [KEY=VALUE …]`, alone or by `torchrun`."""

from __future__ import annotations

import argparse
import logging
import sys

from .config_files import read_config
from .exit_codes import exit_code_of
from .stop_signals import INTERRUPTED
from .train import train


def main(arguments: list[str] | None = None) -> int:
    """Train as the configuration says, and return the exit code, see `exit_code_of`."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training", description="Train a model package.")
    parser.add_argument(
        "config", help="JSON file of a TrainingConfig, or the name of a recipe, such as dodnet"
    )
    text = "other values than the file's, as in seed=3 or loss.dice_epsilon=1e-5"
    parser.add_argument("change", nargs="*", metavar="KEY=VALUE", help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return exit_code_of(
        lambda: train(read_config(options.config, options.change), options.device),
        INTERRUPTED,
    )


if __name__ == "__main__":
    sys.exit(main())
