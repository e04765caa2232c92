"""Command line: `python -m PartialSegLib.training.med_danet CONFIG.json`, alone or by `torchrun`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ...cli.terminal import progress_bar
from ...cli.training_arguments import add_config_arguments
from ..loop.exit_codes import exit_code_of
from ..loop.stop_signals import INTERRUPTED
from .config import read_slice_bank_config
from .training import train_slice_bank


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the configuration says, and return the exit code, see `exit_code_of`."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training.med_danet")
    add_config_arguments(parser, "med-danet", "candidates[0].epochs=10")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def run() -> None:
        config = read_slice_bank_config(options.config, options.change)
        train_slice_bank(config, device=options.device, progress_bar=progress_bar)

    return exit_code_of(run, INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
