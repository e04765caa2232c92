"""Arguments of commands that read a configuration of training; `python -m PartialSegLib.training` is one."""

from __future__ import annotations

from argparse import ArgumentParser


def add_config_arguments(
    command: ArgumentParser, recipe: str = "dodnet", example: str = "phases[0].iterations=50"
) -> None:
    """The configuration, and other values than it has.

    Args:
        command: gets the arguments.
        recipe: the name of one that the command takes.
        example: another value of such a recipe.
    """
    text = f"JSON file, or the name of a recipe, such as {recipe}"
    command.add_argument("config", metavar="CONFIG_FILE_OR_RECIPE", help=text)
    text = f"other values than the file's, as in seed=3 or {example}"
    command.add_argument("change", nargs="*", default=[], metavar="KEY=VALUE", help=text)


def add_training_arguments(command: ArgumentParser) -> None:
    """These, and where to train, or that nothing is trained."""
    add_config_arguments(command)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    text = "train nothing: write what the last checkpoint holds as OUTPUT/package-step-N; the run may go on"
    command.add_argument("--package-now", action="store_true", help=text)
