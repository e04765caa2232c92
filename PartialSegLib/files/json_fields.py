"""Frozen dataclasses to JSON and back; a fault is reported with its place, as in `tasks[2].name: …`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError

T = TypeVar("T")

PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def require(condition: bool, message: str) -> None:
    """Refuse the value of a field; the message starts with the field's name."""
    if not condition:
        raise InputError(message)


def require_at_least(instance: Any, **least: int) -> None:
    """Refuse fields of a dataclass whose numbers are less than these."""
    for name, number in least.items():
        value = getattr(instance, name)
        require(value >= number, f"{name}: expected {number} or more, got {value}")


def require_seed(instance: Any) -> None:
    """Refuse a `seed` that PyTorch's random numbers cannot begin with."""
    require_at_least(instance, seed=0)
    require(instance.seed < 2**64, f"seed: expected less than 2^64, got {instance.seed}")


def expand_home(instance: Any, *names: str) -> None:
    """Let fields of a frozen dataclass that are paths and begin with ~ begin with the user's home folder."""
    for name in names:
        if (value := getattr(instance, name)) is not None:
            object.__setattr__(instance, name, os.path.expanduser(value))


def to_json(instance: Any) -> dict[str, Any]:
    """Plain JSON values of a dataclass; fields that are None are left out."""

    def without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if value is not None}

    values = dataclasses.asdict(instance, dict_factory=without_none)
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def from_json(cls: type[T], value: Any, path: str = "") -> T:
    """Build a dataclass from plain JSON values, checking every field against its type.

    Faults found by the dataclass itself (in `__post_init__`, the message starts with the name of the field)
    get the same path in front.

    Args:
        cls: a dataclass made of plain types, Literal, optional, tuple, dict and further dataclasses.
        value: what json.loads returned.
        path: place of the value in the document, for messages.

    Raises:
        InputError: a field is unknown, missing, of another type or refused by its dataclass.
    """
    if not isinstance(value, dict):
        raise _unexpected(path, "an object", value)
    prefix = f"{path}." if path else ""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            known = f"known fields are {', '.join(fields)}"
            close = get_close_matches(key, fields, n=1)
            raise InputError(
                f"{prefix}{key}: unknown field; {f'perhaps you meant {close[0]}; ' if close else ''}{known}"
            )
    for name, field in fields.items():
        optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if name not in value and not optional:
            raise InputError(f"{prefix}{name}: missing; add this field")
    hints = get_type_hints(cls)
    arguments = {key: _converted(item, hints[key], prefix + key) for key, item in value.items()}
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None


def _converted(value: Any, hint: Any, path: str) -> Any:
    """The value as the type hint asks for it, or an InputError that starts with its path."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        wanted = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _converted(value, wanted[0], path)
    if origin is Literal:
        if (type(value), value) not in [(type(choice), choice) for choice in arguments]:
            raise _unexpected(path, " or ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        return _converted_tuple(value, arguments, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise _unexpected(path, "an object", value)
        return {key: _converted(item, arguments[1], f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, path)  # type: ignore[arg-type]
    return _converted_plain(value, hint, path)


def _converted_tuple(value: Any, arguments: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    """A list as tuple[X, ...] or tuple[X, Y, Z]."""
    if not isinstance(value, list | tuple):
        raise _unexpected(path, "a list", value)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise _unexpected(path, f"{len(arguments)} values", value)
    return tuple(
        _converted(item, hint, f"{path}[{i}]")
        for i, (item, hint) in enumerate(zip(value, arguments, strict=True))
    )


def _converted_plain(value: Any, hint: type, path: str) -> Any:
    """A finite number, a text or a truth value; whole numbers pass as float, truth values do not."""
    accepted = (int, float) if hint is float else (hint,)
    if type(value) not in accepted or (hint is float and not abs(value) <= sys.float_info.max):
        raise _unexpected(path, PLAIN_TYPES[hint], value)
    return hint(value)


def _unexpected(path: str, wanted: str, value: Any) -> InputError:
    given = json.dumps(value, default=repr)
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    return InputError(f"{path or 'document'}: expected {wanted}, got {shown}")
