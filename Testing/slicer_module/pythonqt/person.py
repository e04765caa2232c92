"""What a person does at the screen: click, tick, type, choose, wait, and look."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QRect, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QLineEdit,
    QMenu,
    QRadioButton,
    QStyle,
    QStyleOptionViewItem,
    QToolButton,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from .application import process_events
from .collapsible_button import ctkCollapsibleButton
from .exceptions import assert_none


def click(widget: QWidget) -> None:
    """Click with the left mouse button: on a check box its square, on a collapsible button its title, on a
    widget made of a button and other things the button.

    Raises:
        AssertionError: the widget is not visible, is disabled, or would open a menu (use `choose` for that).
    """
    _assert_usable(widget)
    opens_menu = isinstance(widget, QToolButton) and widget.popupMode == QToolButton.InstantPopup
    assert not opens_menu, f"'{widget.name}' opens a menu; call choose(widget.menu(), text)"
    place = widget.rect.center()
    if isinstance(widget, QCheckBox | QRadioButton):
        place.setX(8)
    elif isinstance(widget, ctkCollapsibleButton):
        place.setY(8)
    elif not isinstance(widget, QAbstractButton):
        (widget,) = widget.findChildren(QAbstractButton) or (widget,)
        place = widget.rect.center()
    QTest.mouseClick(widget, Qt.LeftButton, Qt.NoModifier, place)
    process_events()


def press(tree: QTreeWidget, item: QTreeWidgetItem, column: int = 0) -> None:
    """Click in the middle of an item of a tree."""
    _click_item(tree, item, column, lambda: tree.visualRect(tree.indexFromItem(item, column)))


def tick(tree: QTreeWidget, item: QTreeWidgetItem, column: int = 0) -> None:
    """Click on the square of an item of a tree.

    Raises:
        AssertionError: it has none, or is not visible or disabled.
    """
    assert item.flags() & Qt.ItemIsUserCheckable, f"'{item.text(column)}' has no square to tick"

    def square() -> QRect:
        option = QStyleOptionViewItem()
        tree.initViewItemOption(option)
        option.index = tree.indexFromItem(item, column)
        option.rect = tree.visualRect(option.index)
        option.features |= QStyleOptionViewItem.HasCheckIndicator
        return tree.style().subElementRect(QStyle.SE_ItemViewItemCheckIndicator, option, tree)

    _click_item(tree, item, column, square)


def type_text(widget: QWidget, text: str) -> None:
    """Replace the text of a line edit or spin box, key by key; a spin box then gets Return."""
    _assert_usable(widget)
    edit = widget if isinstance(widget, QLineEdit) else widget.findChild(QLineEdit)
    edit.setFocus()
    edit.selectAll()
    if text:
        QTest.keyClicks(edit, text)
    else:
        QTest.keyClick(edit, Qt.Key_Delete)
    if isinstance(widget, QAbstractSpinBox):
        QTest.keyClick(edit, Qt.Key_Return)
    process_events()


def choose(widget: QWidget, text: str) -> None:
    """Choose an entry of a menu, a combo box or a selector of nodes by its text.

    Raises:
        AssertionError: there is no such entry, or it cannot be used.
    """
    if isinstance(widget, QMenu):
        actions = {action.text: action for action in widget.actions()}
        assert text in actions, f"no entry {text!r} among {list(actions)}"
        assert actions[text].enabled, f"{text!r} is disabled"
        actions[text].trigger()
    else:
        _assert_usable(widget)
        box = widget if isinstance(widget, QComboBox) else widget.findChild(QComboBox)
        row = box.findText(text)
        assert row >= 0, f"no entry {text!r} among {[box.itemText(one) for one in range(box.count)]}"
        box.setCurrentIndex(row)
        box.activated.emit(row)
    process_events()


def wait_until(condition: Callable[[], Any], timeout_seconds: float = 60.0) -> None:
    """Let events happen until a condition holds.

    Raises:
        AssertionError: it does not hold in time, or there was an exception in a slot meanwhile.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        process_events(10)
        assert_none()
        if condition():
            return
        assert time.monotonic() < end, f"the condition does not hold after {timeout_seconds} s"
        time.sleep(0.002)


def grab(widget: QWidget, path: str | Path) -> None:
    """Write a picture of a widget to a PNG file; folders are made."""
    process_events()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not widget.grab().save(str(path)):
        raise OSError(f"cannot write {path}")


def _assert_usable(widget: QWidget) -> None:
    assert widget.visible, f"{widget.className()} '{widget.name}' is not visible"
    assert widget.enabled, f"{widget.className()} '{widget.name}' is disabled: {widget.toolTip}"


def _click_item(tree: QTreeWidget, item: QTreeWidgetItem, column: int, place: Callable[[], QRect]) -> None:
    """Scroll to an item and click in the middle of the place."""
    _assert_usable(tree)
    tree.scrollToItem(item)
    assert tree.visualRect(tree.indexFromItem(item, column)).isValid(), (
        f"'{item.text(column)}' is not visible"
    )
    assert not item.isDisabled(), f"'{item.text(column)}' is disabled"
    QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, place().center())
    process_events()
