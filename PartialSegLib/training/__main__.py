"""Command line: `python -m PartialSegLib.training CONFIG.json [KEY=VALUE …]`, alone or by `torchrun`."""

from __future__ import annotations

import argparse
import logging
import sys

from ..cli.training_arguments import add_training_arguments
from ..cli.training_run import run_training
from .loop.exit_codes import exit_code_of
from .loop.stop_signals import INTERRUPTED


def main(arguments: list[str] | None = None) -> int:
    """Train as the configuration says, and return the exit code, see `exit_code_of`."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training", description="Train a model package.")
    add_training_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return exit_code_of(lambda: run_training(options), INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
