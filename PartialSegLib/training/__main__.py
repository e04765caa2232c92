"""Command line: `python -m PartialSegLib.training CONFIG.json`."""

from __future__ import annotations

import argparse
import logging
import sys

from ..errors import InputError
from .config import read_config
from .train import train


def main(arguments: list[str] | None = None) -> int:
    """Train as the configuration says; 0 when done, 2 after a user's mistake, 130 when interrupted."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training", description="Train a model package.")
    parser.add_argument("config", help="JSON file of a TrainingConfig")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        train(read_config(options.config), options.device)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
