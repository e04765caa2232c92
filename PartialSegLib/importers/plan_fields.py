"""Fields of nnU-Net's plans.json and dataset.json, of which nothing is taken for granted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

MOST_PER_STAGE = 10_000  # units or channels; more would only keep the computer busy


def member(container: Mapping[str, Any], name: Any, kind: type, default: Any = None) -> Any:
    """A field, of the wanted type.

    Args:
        container: where it should be.
        name: of the field.
        kind: type that it should have.
        default: what a missing field or null means; without it the field has to be there.

    Raises:
        InputError: missing or of another type.
    """
    value = container.get(name) if isinstance(name, str) else None
    value = default if value is None else value
    if not isinstance(value, kind):
        raise InputError(f"the field {name!r} is missing or no {kind.__name__}.")
    return value


def triple(settings: Mapping[str, Any], name: str, kind: type) -> Any:
    """Three numbers, along (z, y, x) of the network.

    Raises:
        InputError: missing, or something else.
    """
    values = member(settings, name, list)
    try:
        numbers = tuple(kind(value) for value in values if _is_finite(value))
    except (OverflowError, ValueError):  # infinite, no number, or too large for one
        numbers = ()
    if len(numbers) != len(values) or len(values) != 3:
        raise InputError(f"{name} is {values}, not three numbers.")
    return numbers


def triples(arguments: Mapping[str, Any], name: str) -> list[list[int]]:
    """Kernel sizes or strides of the stages; one number stands for three.

    Raises:
        InputError: missing, or something else.
    """
    rows = [[row] * 3 if isinstance(row, int) else row for row in member(arguments, name, list)]
    if not all(isinstance(row, list) and len(row) == 3 and all(map(_is_count, row)) for row in rows):
        raise InputError(f"{name} is {rows}, not three whole numbers for each stage.")
    return rows


def per_stage(arguments: Mapping[str, Any], name: str, stages: int) -> list[int]:
    """Whole numbers of the stages; one number stands for all of them.

    Raises:
        InputError: missing, or something else.
    """
    value = arguments.get(name)
    numbers = [value] * stages if isinstance(value, int) else value
    if not isinstance(numbers, list) or len(numbers) != stages or not all(map(_is_count, numbers)):
        raise InputError(f"{name} is {value}, not {stages} whole numbers.")
    return numbers


def printable(value: Any) -> str:
    """A text as people and files can take it, whatever was stored."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= MOST_PER_STAGE
