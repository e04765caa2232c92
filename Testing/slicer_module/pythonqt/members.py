"""Attributes of Qt objects as PythonQt has them.

A property is an attribute and hides its getter, `name` is `objectName`, and objects made in C++ take no new
attributes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QObject

from .signals import connect, disconnect

STAND_INS: dict[str, type] = {}
"""Python classes that stand for C++ classes, by name."""

_NUMBERS = {"bool": bool, "double": float, "float": float, "int": math.floor, "uint": math.floor}
_METHODS = {
    "className": lambda self: self.metaObject().className(),
    "connect": connect,
    "disconnect": disconnect,
}
_VIRTUAL = {"duration", "minimumSizeHint", "sizeHint"}
_plain_get = QObject.__getattribute__
_plain_set = shiboken6.Object.__setattr__
_properties: dict[type, dict[str, Property]] = {}
_loading: list[bool] = []


def stand_in(cls: type) -> type:
    """Class decorator: instances are treated as if C++ had made them, but for names with an underscore."""
    STAND_INS[cls.__name__] = cls
    return cls


@dataclass(frozen=True)
class Property:
    """A Qt property of a class.

    Attributes:
        name: of the property.
        type: its C++ type.
        writable: whether it can be set.
    """

    name: str
    type: str
    writable: bool

    def read(self, owner: QObject) -> Any:
        """The value; lists of strings are tuples, as in PythonQt."""
        value = QObject.property(owner, self.name)
        return tuple(value) if self.type == "QStringList" else value

    def write(self, owner: QObject, value: Any) -> None:
        """Set the value.

        Raises:
            AttributeError: the property cannot be set, or not to this.
        """
        kind = type(owner).__name__
        if not self.writable:
            raise AttributeError(f"Property '{self.name}' of {kind} object is not writable")
        accepted = self._accepted(value)
        if accepted is None or not QObject.setProperty(owner, self.name, accepted):
            raise AttributeError(
                f"Property '{self.name}' of type '{self.type}' of {kind} object does not accept"
                f" an object of type {type(value).__name__} ({value!r})"
            )

    def _accepted(self, value: Any) -> Any:
        """What PythonQt makes of a value; None where it would refuse it or store something else."""
        if self.type in _NUMBERS:  # derived types, such as those of NumPy, are not numbers to PythonQt
            return _NUMBERS[self.type](value) if type(value) in (bool, int, float) else None
        if self.type == "QString":
            return None if value is None else str(value)
        if self.type == "QStringList":
            return [str(item) for item in value] if isinstance(value, list | tuple) else None
        return value


def properties_of(cls: type) -> dict[str, Property]:
    """The Qt properties of a class by the attribute that PythonQt shows them as."""
    if cls not in _properties:
        described = cls.staticMetaObject
        all_of_them = map(described.property, range(described.propertyCount()))
        found = {one.name(): Property(one.name(), one.typeName(), one.isWritable()) for one in all_of_them}
        found["name"] = found["objectName"]
        if issubclass(cls, QtCore.QTimer):
            del found["singleShot"]  # PythonQt hides it behind the static function
        for name in _VIRTUAL & found.keys():
            del found[name]  # Qt asks Python for these, and would get its own answer
        _properties[cls] = found
    return _properties[cls]


@contextmanager
def loading() -> Iterator[None]:
    """While PySide6 loads a .ui file it sets children as attributes of their window; PythonQt does not."""
    _loading.append(True)
    try:
        yield
    finally:
        _loading.pop()


def _get(self: QObject, name: str) -> Any:
    if name in _METHODS:
        return MethodType(_METHODS[name], self)
    if not name.startswith("_"):
        found = properties_of(type(self)).get(name)
        if found is not None:
            return found.read(self)
    try:
        return _plain_get(self, name)
    except AttributeError:
        if not _is_dynamic(self, name):
            raise
        return QObject.property(self, name)


def _set(self: QObject, name: str, value: Any) -> None:
    found = properties_of(type(self)).get(name)
    if found is not None:
        found.write(self, value)
    elif not _is_guarded(type(self), name) or isinstance(value, QtCore.SignalInstance):
        _plain_set(self, name, value)  # PySide6 itself keeps bound signals so
    elif _is_dynamic(self, name):
        QObject.setProperty(self, name, value)
    elif not _loading:
        _refuse(type(self), name)


def _set_of_value(self: shiboken6.Object, name: str, value: Any) -> None:
    """For classes without properties, such as items of a tree: only public C++ fields can be set."""
    is_field = inspect.isgetsetdescriptor(inspect.getattr_static(type(self), name, None))
    if not is_field and _is_guarded(type(self), name):
        _refuse(type(self), name)
    _plain_set(self, name, value)


def _is_dynamic(owner: QObject, name: str) -> bool:
    return name in [bytes(one).decode() for one in QObject.dynamicPropertyNames(owner)]


def _is_guarded(cls: type, name: str) -> bool:
    is_stand_in = STAND_INS.get(cls.__name__) is cls
    return _is_from_qt(cls) or (is_stand_in and not name.startswith("_"))


def _is_from_qt(cls: type) -> bool:
    return cls.__module__.startswith("PySide6")


def _refuse(cls: type, name: str) -> None:
    if hasattr(cls, name):
        raise AttributeError(f"Method '{name}' can not be overwritten on {cls.__name__} object")
    raise AttributeError(
        f"'{name}' does not exist on {cls.__name__} and creating new attributes on C++ objects is not allowed"
    )


def install() -> None:
    """Change the classes of PySide6. Each has its own slot for setting attributes, so each is patched."""
    QObject.__getattribute__ = _get
    for module in (QtCore, QtGui, QtWidgets):
        for cls in [value for name in dir(module) if isinstance(value := getattr(module, name), type)]:
            if issubclass(cls, shiboken6.Object):
                cls.__setattr__ = _set if issubclass(cls, QObject) else _set_of_value
