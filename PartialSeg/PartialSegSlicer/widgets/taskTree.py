"""The list of tasks: groups, tasks with a tick and a button to run them alone, structures below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import qt
from slicer.i18n import tr as _

from PartialSegLib.manifest import Task
from PartialSegLib.packages.model_facts import HeldOut
from PartialSegLib.structures import structure_or_tissue

from .messages import plain


class TaskTree:
    """Fills a QTreeWidget with the tasks of a model and tells what is ticked.

    Args:
        tree: the widget, with two columns.
        onChanged: called without arguments when the user ticks something.
        onRun: called with the name of a task whose button was clicked.
    """

    def __init__(
        self, tree: qt.QTreeWidget, onChanged: Callable[[], object], onRun: Callable[[str], object]
    ) -> None:
        self.tree = tree
        self.onChanged = onChanged
        self.onRun = onRun
        self._tasks: dict[str, qt.QTreeWidgetItem] = {}
        self._structures: dict[str, qt.QTreeWidgetItem] = {}
        self._buttons: dict[str, qt.QToolButton] = {}
        self._shown: list[tuple[str, tuple[str, ...]]] = []
        self._filling = False
        self._searched = ""
        tree.header().setStretchLastSection(False)
        tree.header().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        tree.header().setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
        tree.connect("itemChanged(QTreeWidgetItem*,int)", self._onItemChanged)

    def fill(self, tasks: Iterable[Task], ticked: Iterable[str], excluded: Iterable[str]) -> None:
        """Show tasks.

        Args:
            tasks: of the model.
            ticked: names of tasks with a tick.
            excluded: "task/structure" without a tick.
        """
        self._filling = True
        self.tree.clear()
        tasks = list(tasks)
        self._shown = _namesIn(tasks)
        self._tasks, self._structures, self._buttons = {}, {}, {}
        groups: dict[str, qt.QTreeWidgetItem] = {}
        for task in tasks:
            title = _groupTitle(task)
            if title not in groups:
                groups[title] = self._addGroup(title)
            self._addTask(groups[title], task)
        self._filling = False
        self.tick(ticked, excluded)
        self.search(self._searched)

    def tick(self, ticked: Iterable[str], excluded: Iterable[str]) -> None:
        """Set the ticks, without calling `onChanged`."""
        ticked, excluded = set(ticked), set(excluded)
        self._filling = True
        for name, item in self._tasks.items():
            item.setCheckState(0, _state(name in ticked))
        for name, item in self._structures.items():
            item.setCheckState(0, _state(name not in excluded))
        self._filling = False

    def shows(self, tasks: Iterable[Task]) -> bool:
        """Whether these tasks, with these structures, are shown already."""
        return self._shown == _namesIn(tasks)

    @property
    def names(self) -> list[str]:
        """Names of the tasks shown, in the order of the model."""
        return list(self._tasks)

    @property
    def ticked(self) -> list[str]:
        """Names of the ticked tasks, in the order of the model."""
        return [name for name, item in self._tasks.items() if item.checkState(0) != qt.Qt.Unchecked]

    @property
    def excluded(self) -> list[str]:
        """The structures without a tick, as "task/structure"."""
        return [name for name, item in self._structures.items() if item.checkState(0) == qt.Qt.Unchecked]

    def tickAll(self, on: bool) -> None:
        """Tick or untick all tasks that are shown."""
        names = {name for name, item in self._tasks.items() if not item.isHidden()}
        kept = set(self.ticked) - names
        self.tick(kept | names if on else kept, self.excluded)
        self.onChanged()

    def search(self, text: str) -> None:
        """Show only tasks that contain the text in their name or in that of a structure."""
        self._searched = text
        words = text.lower().split()
        for item in self._tasks.values():
            names = [item.text(0), *(item.child(number).text(0) for number in range(item.childCount()))]
            searched = " ".join(names).lower()
            item.setHidden(not all(word in searched for word in words))
        for number in range(self.tree.topLevelItemCount):
            group = self.tree.topLevelItem(number)
            group.setHidden(all(group.child(index).isHidden() for index in range(group.childCount())))

    def showFigures(self, measured: HeldOut | None) -> None:
        """Show beside each structure how well the model found it where that was measured."""
        self._filling = True
        for name, item in self._structures.items():
            figures = measured.figures.get(name, {}) if measured is not None else {}
            dice = figures.get("dice")
            item.setText(1, "" if dice is None else f"{dice:.2f}")
            item.setToolTip(0, "" if dice is None else _figuresText(measured.phantoms, figures))
            item.setToolTip(1, item.toolTip(0))
        self._filling = False

    def enableButtons(self, problem: str | None) -> None:
        """Enable the buttons that run one task, or disable them and say why."""
        for name, button in self._buttons.items():
            button.enabled = problem is None
            button.toolTip = plain(problem or _("Segment only {task}, now.").format(task=name))

    def _addGroup(self, title: str) -> qt.QTreeWidgetItem:
        group = qt.QTreeWidgetItem(self.tree)
        group.setText(0, title)
        group.setFlags(qt.Qt.ItemIsEnabled)
        group.setExpanded(True)
        return group

    def _addTask(self, group: qt.QTreeWidgetItem, task: Task) -> None:
        item = qt.QTreeWidgetItem(group)
        item.setText(0, task.name)
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(0, qt.Qt.Unchecked)
        self._tasks[task.name] = item
        for structure in task.structures:
            child = qt.QTreeWidgetItem(item)
            described = structure_or_tissue(structure)
            child.setText(0, described.name)
            child.setIcon(0, _colorIcon(described.color))
            child.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            child.setCheckState(0, qt.Qt.Checked)
            self._structures[f"{task.name}/{structure}"] = child
        button = qt.QToolButton()
        button.text = "▶"
        button.autoRaise = True
        button.objectName = f"run {task.name}"
        button.accessibleName = _("Segment {task}").format(task=task.name)
        button.connect("clicked()", lambda name=task.name: self.onRun(name))
        self.tree.setItemWidget(item, 1, button)
        self._buttons[task.name] = button

    def _onItemChanged(self, item: qt.QTreeWidgetItem, column: int) -> None:
        if not self._filling:
            self.onChanged()


def _namesIn(tasks: Iterable[Task]) -> list[tuple[str, tuple[str, ...]]]:
    return [(task.name, tuple(task.structures)) for task in tasks]


def _state(on: bool) -> int:
    return qt.Qt.Checked if on else qt.Qt.Unchecked


def _figuresText(phantoms: int, figures: Mapping[str, float]) -> str:
    """How well a structure was found, in a sentence or two."""
    text = _("Mean Dice {dice:.2f}, lowest {worst:.2f}, on {cases} of {phantoms} synthetic phantoms.").format(
        dice=figures["dice"],
        worst=figures.get("worst", figures["dice"]),
        cases=figures.get("cases", phantoms),
        phantoms=phantoms,
    )
    if figures.get("false_ml"):
        text += _(" In the others it found {ml:.1f} ml where there is none.").format(ml=figures["false_ml"])
    return text


def _colorIcon(color: tuple[int, int, int]) -> qt.QIcon:
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*color))
    return qt.QIcon(pixmap)


def _groupTitle(task: Task) -> str:
    lesions = [structure_or_tissue(structure).is_lesion for structure in task.structures]
    if all(lesions):
        return _("Lesions")
    return _("Organs with their lesions") if any(lesions) else _("Organs")
