"""Configurations as JSON files.

A file may start from another one, `"extends": "dodnet.json"`, and name only what differs; `KEY=VALUE` on the
command line does the same for single values, `phases[0].iterations=50` for those in a list. Lists in files
are replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from ..files.file_names import expanded
from ..files.json_fields import from_json, require
from ..sentences import suggestion
from .config import TrainingConfig

T = TypeVar("T")

RECIPES = Path(__file__).parent / "configs"
OTHER_LOOPS = {
    "med-danet": "python -m PartialSegLib.training.med_danet",
    "slice-selector": "python -m PartialSegLib.training.slice_selector train",
}
"""Recipes of the two other loops, and what runs them."""


def read_config(path: Path | str, changes: Sequence[str] = ()) -> TrainingConfig:
    """Read a configuration; relative paths in it stay relative to the working directory.

    Args:
        path: JSON file of a `TrainingConfig`, or the name of a recipe, such as "dodnet" or "dodnet.json".
        changes: "KEY=VALUE", the key as in loss.kind or phases[0].epoch, the value as JSON or plain text.

    Raises:
        InputError: a file is missing or is not JSON, a field is unknown, missing or wrong, or it is a recipe
            of another loop.
    """
    path = _located(str(path))
    if path.stem in OTHER_LOOPS and path.resolve().parent == RECIPES.resolve():
        raise InputError(
            f"{path.stem} is not trained by this command; start {OTHER_LOOPS[path.stem]} {path.stem}"
        )
    recipes = sorted({recipe.stem for recipe in RECIPES.glob("*.json")} - OTHER_LOOPS.keys())
    return read_settings(TrainingConfig, path, changes, recipes)


def read_settings(kind: type[T], path: Path | str, changes: Sequence[str], recipes: Sequence[str]) -> T:
    """Read a configuration of any of the three loops.

    Args:
        kind: its dataclass.
        path: JSON file, or the name of a recipe.
        changes: as for `read_config`.
        recipes: names of those of this loop.

    Raises:
        InputError: a file is missing or is not JSON, or a field is unknown, missing or wrong.
    """
    path = _located(str(path))
    values = _merged_file(path, recipes)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} is no setting; expected KEY=VALUE, as in seed=3.")
        values = _changed(values, key.replace("[", ".[").split("."), _plain_value(text), key)
    try:
        return from_json(kind, values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_json(path: Path, missing: str) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: the sentence `missing` if there is no such file, or the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(missing) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); correct it and start again.") from None


def _located(name: str, folder: Path = Path()) -> Path:
    """The file of a name in a folder, or else the recipe of that name."""
    path, recipe = folder / expanded(name), RECIPES / f"{name.removesuffix('.json')}.json"
    return recipe if Path(name).name == name and not path.is_file() and recipe.exists() else path


def _merged_file(path: Path, recipes: Sequence[str], seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file on top of those of the file that it extends."""
    advice = f"{suggestion(path.stem, recipes)}, or give the path of a JSON file"
    values = read_json(path, f"No training configuration at {path}; {advice}.")
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, not an object of settings; correct it.")
    base = values.pop("extends", None)
    if base is None:
        return values
    if path.resolve() in seen:
        raise InputError(f"{path} extends itself; remove one of the 'extends'.")
    require(isinstance(base, str), f"{path}: extends: expected the name of a configuration, got {base}.")
    merged = _merged_file(_located(base, path.parent), recipes, (*seen, path.resolve()))
    _merge(merged, values)
    return merged


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Objects are merged key by key, everything else is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _changed(values: Any, keys: Sequence[str], value: Any, setting: str) -> Any:
    """Values of which one, some names (loss) and numbers ([0]) below them, is another; objects are merged."""
    if not keys:
        if isinstance(values, dict) and isinstance(value, dict):
            _merge(values, value)
            return values
        return value
    key, *others = keys
    if not key.startswith("["):
        objects = values if isinstance(values, dict) else {}
        return {**objects, key: _changed(objects.get(key), others, value, setting)}
    items = values if isinstance(values, list) else []
    if key not in (places := [f"[{number}]" for number in range(len(items))]):
        raise InputError(f"{setting}: there is no entry {key}; {suggestion(key, places)}.")
    number = places.index(key)
    return [*items[:number], _changed(items[number], others, value, setting), *items[number + 1 :]]


def _plain_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
