"""Stand-ins for widgets of CTK, with the usual ones of the members that PythonQt shows of them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6.QtCore import Property, QDir, QModelIndex, QSignalBlocker, QSize, Qt, Signal
from PySide6.QtGui import QStandardItem
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSlider,
    QStyle,
    QToolButton,
    QWidget,
)

from .collapsible_button import ctkCollapsibleButton
from .dialogs import QFileDialog
from .members import stand_in
from .stored import stored


def _row(parent: QWidget, *widgets: QWidget) -> None:
    layout = QHBoxLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)


@stand_in
class ctkDirectoryButton(QWidget):
    """Stand-in: a button with the name of a folder; a click asks for another one."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)
    SLOTS = ("browse()",)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._directory = "."
        self._button = QPushButton(QDir().absolutePath(), self)
        self._button.setIcon(self.style().standardIcon(QStyle.SP_DirIcon))
        self._button.clicked.connect(self.browse)
        _row(self, self._button)

    def _setDirectory(self, path: str) -> None:
        changed = QDir(path) != QDir(self._directory)
        if changed:
            self._directory = QDir(path).absolutePath()
            self._show()
        self.directorySelected.emit(QDir(path).absolutePath())
        if changed:
            self.directoryChanged.emit(self._directory)

    def _show(self) -> None:
        self._button.setText(self.text or QDir(self._directory).absolutePath())

    directory = Property(str, lambda self: self._directory, _setDirectory)
    caption = stored(str, "caption", "")
    text = stored(str, "text", "", "_show")

    def browse(self) -> str:
        path = QFileDialog.getExistingDirectory(self, self.caption or self.toolTip, self._directory)
        if path:
            self._setDirectory(path)
        return path


@stand_in
class ctkPathLineEdit(QWidget):
    """Stand-in: a line with a path and a button that asks for another one."""

    Dirs, Files, Drives, NoSymLinks, AllEntries = 0x1, 0x2, 0x4, 0x8, 0x7
    Readable, Writable, Executable, Hidden = 0x10, 0x20, 0x40, 0x100
    currentPathChanged = Signal(str)
    SLOTS = ("addCurrentPathToHistory()", "browse()", "retrieveHistory()", "setCurrentPath(QString)")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._line = QLineEdit(self)
        self._line.textChanged.connect(self.currentPathChanged)
        self._browse = QToolButton(self)
        self._browse.setText("…")
        self._browse.clicked.connect(self.browse)
        _row(self, self._line, self._browse)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    def _showBrowse(self) -> None:
        self._browse.setVisible(self.showBrowseButton)

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)
    filters = stored(int, "filters", AllEntries)
    label = stored(str, "label", "")
    nameFilters = stored("QStringList", "nameFilters", [])
    settingKey = stored(str, "settingKey", "")
    showBrowseButton = stored(bool, "showBrowseButton", True, "_showBrowse")
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def browse(self) -> None:
        ask = QFileDialog.getOpenFileName if self.filters & self.Files else QFileDialog.getExistingDirectory
        path = ask(self, self.label or self.toolTip, self.currentPath)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        """The original keeps the path in the settings."""

    def retrieveHistory(self) -> None:
        """The original reads earlier paths from the settings."""


@stand_in
class ctkSearchBox(QLineEdit):
    """Stand-in: a line edit; the original has icons at both ends."""

    showSearchIcon = stored(bool, "showSearchIcon", False)
    alwaysShowClearIcon = stored(bool, "alwaysShowClearIcon", False)


@stand_in
class ctkCheckableComboBox(QComboBox):
    """Stand-in: a combo box whose items can be ticked."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model().rowsInserted.connect(self._makeCheckable)
        self.model().itemChanged.connect(lambda item: self.checkedIndexesChanged.emit())

    def _makeCheckable(self, parent: QModelIndex, first: int, last: int) -> None:
        with QSignalBlocker(self.model()):
            for row in range(first, last + 1):
                item: QStandardItem = self.model().item(row)
                item.setCheckable(True)

    def checkedIndexes(self) -> tuple[QModelIndex, ...]:
        rows = [self.model().index(row, 0) for row in range(self.count)]
        return tuple(index for index in rows if self.checkState(index) == Qt.Checked)

    def checkState(self, index: QModelIndex) -> Qt.CheckState:
        return self.model().itemFromIndex(index).checkState()

    def setCheckState(self, index: QModelIndex, state: Qt.CheckState) -> None:
        self.model().itemFromIndex(index).setCheckState(state)


@stand_in
class ctkSliderWidget(QWidget):
    """Stand-in: a slider and a spin box with the same value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    SLOTS = ("reset()", "setSpinBoxVisible(bool)", "setValue(double)")
    _STEPS = 1000

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QSlider(Qt.Horizontal, self)
        self._slider.setRange(0, self._STEPS)
        self._box = QDoubleSpinBox(self)
        self._box.valueChanged.connect(self._onValue)
        self._slider.valueChanged.connect(self._onSlider)
        _row(self, self._slider, self._box)

    def _onValue(self, value: float) -> None:
        self._moveSlider()
        self.valueChanged.emit(value)

    def _onSlider(self, step: int) -> None:
        low, high = self._box.minimum, self._box.maximum
        self._box.setValue(low + (high - low) * step / self._STEPS)

    def _moveSlider(self) -> None:
        extent = self._box.maximum - self._box.minimum
        with QSignalBlocker(self._slider):
            self._slider.setValue(round((self._box.value - self._box.minimum) / (extent or 1) * self._STEPS))

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def reset(self) -> None:
        self.setValue(0.0)

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._box.setVisible(visible)

    @staticmethod
    def _ofBox(kind: type, name: str) -> Property:
        def write(self: ctkSliderWidget, value: Any) -> None:
            setattr(self._box, name, value)
            self._moveSlider()

        return Property(kind, lambda self: getattr(self._box, name), write)

    value = _ofBox(float, "value")
    minimum = _ofBox(float, "minimum")
    maximum = _ofBox(float, "maximum")
    singleStep = _ofBox(float, "singleStep")
    decimals = _ofBox(int, "decimals")
    prefix = _ofBox(str, "prefix")
    suffix = _ofBox(str, "suffix")
    pageStep = stored(float, "pageStep", 10.0)
    tracking = stored(bool, "tracking", True)
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), setSpinBoxVisible)


@stand_in
class ctkMenuButton(QPushButton):
    """Stand-in: a button beside which the original shows a menu."""

    def sizeHint(self) -> QSize:
        return super().sizeHint() + QSize(16, 0)


def make_module() -> ModuleType:
    """The module `ctk`; what has no stand-in is not in it."""
    module = ModuleType("ctk", __doc__)
    for cls in (
        ctkCheckableComboBox,
        ctkCollapsibleButton,
        ctkDirectoryButton,
        ctkMenuButton,
        ctkPathLineEdit,
        ctkSearchBox,
        ctkSliderWidget,
    ):
        setattr(module, cls.__name__, cls)
    return module
