"""Command line: `python -m PartialSegLib.training.slice_selector train CONFIG.json`, or `add`."""

from __future__ import annotations

import argparse
import logging
import sys

from ...cli.training_arguments import add_config_arguments
from ..loop.exit_codes import exit_code_of
from ..loop.stop_signals import INTERRUPTED
from .config import read_slice_selector_config
from .training import add_slice_selector, train_slice_selector


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return the exit code, see `exit_code_of`."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training.slice_selector")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command = commands.add_parser("train", help="train the decision network of a package")
    add_config_arguments(command, "slice-selector", "iterations=500")
    command = commands.add_parser("add", help="copy the decision network of a package to another one")
    command.add_argument("selector_package", help="name or folder of a package with a decision network")
    command.add_argument("package", help="name or folder of the package that gets it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.command == "train":
        config, changes = options.config, options.change
        return exit_code_of(
            lambda: train_slice_selector(read_slice_selector_config(config, changes)), INTERRUPTED
        )
    return exit_code_of(lambda: add_slice_selector(options.selector_package, options.package))


if __name__ == "__main__":
    sys.exit(main())
