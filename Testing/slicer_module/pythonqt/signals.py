"""Signals by their C++ signature: `button.connect("clicked()", function)`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import CO_VARARGS
from types import FunctionType, MethodType
from typing import Any

from PySide6.QtCore import QMetaObject, QObject

_KEPT = "_pythonqt_connections"


class _Connections:
    """Signature, function and receiver of each connection of a sender, kept by the sender itself."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any, Any]] = []


def connect(sender: QObject, signal: str, receiver: Any, slot: str = "") -> bool:
    """Call a function whenever a signal is emitted.

    As in PythonQt, the function gets as many values as the signature has, and no more than it has positional
    parameters (those with a default included).

    Args:
        sender: has the signal.
        signal: C++ signature, for example "itemChanged(QTreeWidgetItem*,int)".
        receiver: the function, or the object that has the slot.
        slot: C++ signature of the slot.

    Returns:
        True.

    Raises:
        ValueError: the sender has no such signal or the receiver no such slot. PythonQt only returns False.
    """
    if isinstance(signal, QObject):  # PySide6 itself, in QTimer.singleShot
        return bool(QObject.connect(signal, receiver, slot))
    signature = _signature(sender, signal)
    function = _slot(receiver, slot) if slot else receiver
    if not callable(function):
        raise ValueError(f"cannot connect {signal} to {function!r}: it cannot be called")
    receive = _receiver(function, min(_count(signature), _count(slot) if slot else _count(signature)))
    QObject.connect(sender, f"2{signature}", receive)  # what the macro SIGNAL makes of a signature
    _connections(sender).append((signature, function, receive))
    return True


def disconnect(sender: QObject, signal: str, function: Callable[..., object] | None = None) -> bool:
    """Undo the connections of a signal to a function, or to all functions.

    Returns:
        Whether there was one.

    Raises:
        ValueError: the sender has no such signal. PythonQt only returns False.
    """
    signature = _signature(sender, signal)
    kept = _connections(sender)
    found = [one for one in kept if one[0] == signature and function in (None, one[1])]
    for one in found[: 1 if function else None]:
        QObject.disconnect(sender, f"2{signature}", one[2])
        kept.remove(one)
    return bool(found)


def _signature(sender: QObject, signal: str) -> str:
    """The signature that PySide6 knows; stand-ins name theirs in SIGNALS, by that of the original."""
    wanted = _normalized(signal)
    for cls in type(sender).__mro__:
        if wanted in vars(cls).get("SIGNALS", {}):
            return vars(cls)["SIGNALS"][wanted]
    if sender.metaObject().indexOfSignal(wanted) < 0 or "PyObject" in wanted:
        raise ValueError(f"{sender.className()} '{sender.name}' has no signal {signal}")
    return wanted


def _slot(receiver: QObject, slot: str) -> Callable[..., object]:
    name = slot.split("(")[0]
    known = receiver.metaObject().indexOfSlot(_normalized(slot)) >= 0
    if not known and _normalized(slot) not in getattr(type(receiver), "SLOTS", ()):
        raise ValueError(f"{receiver.className()} '{receiver.name}' has no slot {slot}")
    return getattr(receiver, name)


def _receiver(function: Callable[..., object], count: int) -> Callable[..., None]:
    accepted = _positional(function)
    used = count if accepted is None else min(count, accepted)

    def receive(*values: object) -> None:
        function(*values[:used])

    return receive


def _positional(function: Callable[..., object]) -> int | None:
    """How many values a Python function can take; None for any number, and for what is no such function."""
    plain = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(plain, FunctionType) or plain.__code__.co_flags & CO_VARARGS:
        return None
    return plain.__code__.co_argcount - isinstance(function, MethodType)


def _connections(sender: QObject) -> list[tuple[str, Any, Any]]:
    if QObject.property(sender, _KEPT) is None:
        QObject.setProperty(sender, _KEPT, _Connections())
    return QObject.property(sender, _KEPT).all


def _normalized(signature: str) -> str:
    if not signature.endswith(")") or "(" not in signature:
        raise ValueError(
            f"{signature!r} is no signature; write it with the types of its values: clicked(bool)"
        )
    return bytes(QMetaObject.normalizedSignature(signature)).decode()


def _count(signature: str) -> int:
    inside = signature[signature.index("(") + 1 : -1]
    return len(inside.split(",")) if inside.strip() else 0
