"""Qt properties of stand-ins that only keep what they are given."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Property


def stored(kind: Any, name: str, default: Any, changed: str = "") -> Property:
    """A property that is kept in `_<name>` of the object.

    Args:
        kind: Python type, or name of the C++ type.
        name: of the property.
        default: value of a new object.
        changed: name of a method that is called after every change.
    """

    def read(owner: Any) -> Any:
        return owner.__dict__.get(f"_{name}", default)

    def write(owner: Any, value: Any) -> None:
        if value != read(owner):
            owner.__dict__[f"_{name}"] = value
            if changed:
                getattr(owner, changed)()

    return Property(kind, read, write)
