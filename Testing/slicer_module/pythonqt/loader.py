"""Reads .ui files with stand-ins in them; `slicer.util.loadUI` uses it as `qt.QUiLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from PySide6 import QtUiTools
from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QObject
from PySide6.QtWidgets import QWidget

from .members import STAND_INS, loading, properties_of, stand_in


@stand_in
class QUiLoader(QtUiTools.QUiLoader):
    """Makes stand-ins for CTK's and Slicer's widgets, and connects them as the file says."""

    def createWidget(self, className: str, parent: QWidget | None = None, name: str = "") -> QWidget:
        if className not in STAND_INS:
            return super().createWidget(className, parent, name)
        widget = STAND_INS[className](parent)
        widget.setObjectName(name)
        return widget

    def load(self, file: QIODevice, parent: QWidget | None = None) -> QWidget:
        """Make the widgets of a .ui file.

        Raises:
            ValueError: a class, property, signal or slot that does not exist.
        """
        root = ElementTree.fromstring(bytes(file.readAll()))
        self._check_classes(root)
        enumerations = list(_take_enumerations(root))
        connections = _take_connections(root)
        widget = self._load(ElementTree.tostring(root), parent)
        objects = {one.name: one for one in [widget, *widget.findChildren(QObject)] if one.name}
        _check_properties(root, objects)
        for name, attribute, value in enumerations:
            setattr(objects[name], attribute, value)
        for sender, signal, receiver, slot in connections:
            objects[sender].connect(signal, objects[receiver], slot)
        return widget

    def _load(self, text: bytes, parent: QWidget | None) -> QWidget:
        buffer = QBuffer()
        buffer.setData(QByteArray(text))
        buffer.open(QIODevice.ReadOnly)
        with loading():
            widget = super().load(buffer, parent)
        if widget is None:
            raise ValueError(f"Qt cannot read the .ui file: {self.errorString()}")
        return widget

    def _check_classes(self, root: ElementTree.Element) -> None:
        known = {*STAND_INS, *self.availableWidgets()}
        for element in root.iter("widget"):
            if element.get("class") not in known:
                raise ValueError(f"widget '{element.get('name')}': there is no class {element.get('class')}")


def _take_connections(root: ElementTree.Element) -> list[list[str]]:
    """Sender, signal, receiver and slot of each connection, which are removed from the file."""
    for connections in root.findall("connections"):
        root.remove(connections)
        return [
            [connection.findtext(part, "") for part in ("sender", "signal", "receiver", "slot")]
            for connection in connections
        ]
    return []


def _take_enumerations(root: ElementTree.Element) -> Iterator[tuple[str, str, int]]:
    """Name, property and number of values such as ctkPathLineEdit::Files|ctkPathLineEdit::Writable.

    Python's classes have no such enumerations for Qt to read: they are removed from the file.
    """
    for element in root.iter("widget"):
        prefix = f"{element.get('class')}::"
        for setting in element.findall("property"):
            text = setting.findtext("enum") or setting.findtext("set") or ""
            if element.get("class") in STAND_INS and text.startswith(prefix):
                element.remove(setting)
                words = [word.strip().removeprefix(prefix) for word in text.split("|")]
                number = sum(getattr(STAND_INS[element.get("class")], word) for word in words)
                yield element.get("name"), setting.get("name"), number


def _check_properties(root: ElementTree.Element, objects: dict[str, QObject]) -> None:
    """Qt would keep a misspelled property without a word; stdset="0" says that a new one is meant."""
    for element in root.iter("widget"):
        known = properties_of(type(objects[element.get("name")]))
        if element.get("class") == "QLabel":
            known = {*known, "buddy"}  # no property: Qt warns of a buddy that does not exist
        for setting in element.findall("property"):
            if setting.get("stdset") != "0" and setting.get("name") not in known:
                raise ValueError(
                    f"{element.get('class')} '{element.get('name')}' has no property {setting.get('name')}"
                )
