"""What a package says of its training, for people who choose a model: on what, how well, and its limits.

The manifest's field `training` is free text of whoever trained the model, so nothing here relies on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from ..manifest import Manifest
from ..sentences import first_few

_MOST_CHARACTERS = 80
_MOST_DATA_SETS = 4


@dataclass(frozen=True)
class HeldOut:
    """How a model did on phantoms that it had never seen, as `training.held_out` records it.

    Attributes:
        phantoms: how many.
        figures: by "task/structure": number of `cases` that have it, their mean `dice` and the `worst`, and
            `false_ml`, the mean volume found in the others.
    """

    phantoms: int
    figures: Mapping[str, Mapping[str, float]]


def training_data(manifest: Manifest) -> str:
    """What the model was trained on, such as "Synthetic CT only" or "lits, kits19"; may be empty.

    Packages tell more behind a colon, in brackets or in further sentences; "); " separates data sets.
    """
    text = manifest.training.get("data")
    parts = text.split("); ") if isinstance(text, str) else []
    names = [name for part in parts if (name := re.split(r": |\. | \(", part)[0].strip(" ."))]
    return shorten(first_few(names, _MOST_DATA_SETS), _MOST_CHARACTERS, placeholder="…")


def limits(manifest: Manifest) -> str:
    """What the model is not good at, by those who trained it; may be empty."""
    text = manifest.training.get("limits")
    return shorten(text, 2 * _MOST_CHARACTERS, placeholder="…") if isinstance(text, str) else ""


def held_out(manifest: Manifest) -> HeldOut | None:
    """The figures of `training.held_out`; None where there are none, or somebody else's of that name."""
    recorded = manifest.training.get("held_out")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("phantoms"), int):
        return None
    figures = recorded.get("figures")
    if not isinstance(figures, dict) or not all(map(_is_row, figures.values())):
        return None
    return HeldOut(recorded["phantoms"], figures)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(value, int | float) for value in row.values())
