"""Stand-in for CTK's collapsible button, the frame that Slicer's panels are divided by."""

from __future__ import annotations

from PySide6.QtCore import Property, QEvent, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractButton, QSizePolicy, QStyle, QStyleOptionButton, QWidget

from .members import stand_in
from .stored import stored

_MOST = 16777215
"""Qt's largest height, which is no limit."""


@stand_in
class ctkCollapsibleButton(QAbstractButton):
    """Stand-in: a title with an arrow; a click on it shows or hides the widgets below.

    Checked is the opposite of collapsed, as in the original.
    """

    contentsCollapsed = Signal(bool)
    SLOTS = ("setCollapsed(bool)",)

    def __init__(self, parent: QWidget | str | None = None) -> None:
        super().__init__(None if isinstance(parent, str) else parent)
        if isinstance(parent, str):
            self.setText(parent)
        self._collapsed = False
        self._hidden: list[QWidget] = []
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QSizePolicy.Minimum, QSizePolicy.Preferred)
        self.setContentsMargins(0, self._titleHeight(), 0, 0)
        self.toggled.connect(lambda checked: self._collapse(not checked))

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    collapsedHeight = stored(int, "collapsedHeight", 10, "updateGeometry")
    flat = stored(bool, "flat", False)

    def _collapse(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        for child in self._take_shown() if collapsed else self._hidden:
            child.setVisible(not collapsed)
        if not collapsed:
            self._hidden = []
        self.setMaximumHeight(self.sizeHint().height() if collapsed else _MOST)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def _take_shown(self) -> list[QWidget]:
        """The children that are to be hidden now and shown again later."""
        found = [one for one in self.children() if isinstance(one, QWidget) and not one.isHidden()]
        self._hidden += found
        return found

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.LayoutRequest and self._collapsed:
            for child in self._take_shown():  # made after the button was collapsed, as a .ui file does
                child.hide()
        return super().event(event)

    def _titleHeight(self) -> int:
        option = QStyleOptionButton()
        option.initFrom(self)
        text = self.fontMetrics().size(Qt.TextShowMnemonic, "Xy")
        return self.style().sizeFromContents(QStyle.CT_PushButton, option, text, self).height()

    def sizeHint(self) -> QSize:
        title = QSize(80, self._titleHeight())
        if self._collapsed or self.layout() is None:
            return title + QSize(0, self._collapsedMargin())
        return self.layout().totalSizeHint().expandedTo(title)

    def minimumSizeHint(self) -> QSize:
        if self._collapsed or self.layout() is None:
            return self.sizeHint()
        return self.layout().totalMinimumSize().expandedTo(QSize(80, self._titleHeight()))

    def _collapsedMargin(self) -> int:
        return self.collapsedHeight if self._collapsed else 0

    def hitButton(self, position: QPoint) -> bool:
        return position.y() < self._titleHeight()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        option = QStyleOptionButton()
        option.initFrom(self)
        height = self._titleHeight()
        option.rect = QRect(0, 0, self.width, height)
        self.style().drawControl(QStyle.CE_PushButtonBevel, option, painter, self)
        text = QRect(height, 0, self.width - height, height)
        painter.drawText(text, Qt.AlignLeft | Qt.AlignVCenter, self.text)
        arrow = QStyle.PE_IndicatorArrowRight if self._collapsed else QStyle.PE_IndicatorArrowDown
        option.rect = QRect(height // 4, height // 4, height // 2, height // 2)
        self.style().drawPrimitive(arrow, option, painter, self)
