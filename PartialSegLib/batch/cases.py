"""The cases of a batch: their names, where their segmentations go, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..segmentation import Key
from .images import case_names


@dataclass(frozen=True)
class BatchCase:
    """One image: its name in the summary, where it is, and where its segmentation goes."""

    name: str
    image: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        seconds: how long it took.
        volumes_ml: by (task, structure); empty when it failed.
        error: why it failed, in a sentence; empty when it did not.
    """

    seconds: float
    volumes_ml: Mapping[Key, float] = field(default_factory=dict)
    error: str = ""


def make_cases(images: list[Path], folder: Path, output_format: str) -> list[BatchCase]:
    """Give each image a name of its own and a place for its segmentation.

    Raises:
        InputError: a segmentation would replace an image.
    """
    suffix = "" if output_format == "folder" else output_format
    cases = [
        BatchCase(name, image, folder / f"{name}{suffix}")
        for name, image in zip(case_names(images), images, strict=True)
    ]
    given = {image.resolve() for image in images}
    for case in cases:
        if case.output.resolve() in given:
            raise InputError(
                f"The segmentation of {case.image} would replace {case.output}; choose another output folder."
            )
    return cases
