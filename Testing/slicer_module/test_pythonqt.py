"""The adaptor that lets the panel run under PySide6, on a small panel of its own."""

import importlib
import sys
import time

import numpy as np
import pytest
import pythonqt
import slicer
from pythonqt import choose, click, ctk, grab, press, qt, tick, type_text, wait_until
from scene_nodes import ctNode, segmentationNode
from shiboken6 import isValid

UI = """<ui version="4.0"><class>Tiny</class>
<widget class="qMRMLWidget" name="Tiny"><layout class="QVBoxLayout" name="mainLayout">
 <item><widget class="ctkCollapsibleButton" name="inputs">
  <property name="text"><string>Inputs</string></property>
  <layout class="QVBoxLayout" name="inputsLayout">
   <item><widget class="qMRMLNodeComboBox" name="selector">
    <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
    <property name="noneEnabled"><bool>true</bool></property>
    <property name="addEnabled"><bool>false</bool></property></widget></item>
   <item><widget class="ctkPathLineEdit" name="path">
    <property name="filters"><set>ctkPathLineEdit::Dirs|ctkPathLineEdit::Writable</set></property>
   </widget></item>
   <item><widget class="ctkDirectoryButton" name="folder"/></item>
  </layout></widget></item>
 <item><widget class="QLineEdit" name="search"/></item>
 <item><widget class="QTreeWidget" name="tree">
   <property name="columnCount"><number>2</number></property></widget></item>
 <item><widget class="QPushButton" name="apply">
  <property name="enabled"><bool>false</bool></property>
  <property name="toolTip"><string>Choose a volume.</string></property>
  <property name="text"><string>Apply</string></property></widget></item>
</layout></widget>
<connections>
 <connection><sender>Tiny</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
  <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
 <connection><sender>search</sender><signal>returnPressed()</signal>
  <receiver>apply</receiver><slot>click()</slot></connection>
</connections></ui>"""

PANEL = """
import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget


class TinyWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        super().setup()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.applied = []
        self.ui.selector.connect("currentNodeChanged(vtkMRMLNode*)", self.onNode)
        self.ui.apply.connect("clicked()", lambda name="liver": self.applied.append(name))
        self.ui.tree.connect("itemChanged(QTreeWidgetItem*,int)", self.onTicked)
        self.ui.search.connect("textChanged(QString)", self.onSearch)
        self.group = qt.QTreeWidgetItem(self.ui.tree)
        self.group.setText(0, "liver")
        self.structure = qt.QTreeWidgetItem(self.group)
        self.structure.setText(0, "liver tumour")
        for item in (self.group, self.structure):
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(0, qt.Qt.Unchecked)
        self.group.setExpanded(True)

    def onNode(self, node):
        self.ui.apply.enabled = node is not None

    def onTicked(self, item, column):
        self.ui.apply.text = f"{item.text(column)} {item.checkState(column) == qt.Qt.Checked}"

    def onSearch(self, text):
        self.structure.setHidden(text not in self.structure.text(0))
"""


@pytest.fixture
def panel(dialogs, tmp_path, monkeypatch):
    (tmp_path / "Resources" / "UI").mkdir(parents=True)
    (tmp_path / "Resources" / "UI" / "Tiny.ui").write_text(UI)
    (tmp_path / "Tiny.py").write_text(PANEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "Tiny", raising=False)
    parent = pythonqt.module_parent()
    panel = importlib.import_module("Tiny").TinyWidget(parent)
    panel.setup()
    parent.resize(320, 400)
    parent.show()
    yield panel
    del sys.modules["Tiny"]


def volume(name="CT"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


# Attributes


def test_properties_are_attributes_and_hide_their_getters(dialogs):
    button = qt.QPushButton("Apply")
    button.enabled = False
    button.name = "apply"
    assert (button.text, button.enabled, button.objectName) == ("Apply", False, "apply")
    assert button.className() == "QPushButton"
    assert qt.QTreeWidget().topLevelItemCount == 0
    with pytest.raises(TypeError, match="not callable"):
        button.text()


def test_unknown_attributes_cannot_be_read_or_made_on_what_cpp_made(dialogs):
    for made in (qt.QPushButton(), qt.QTreeWidgetItem(), qt.QTimer(), slicer.qMRMLNodeComboBox()):
        with pytest.raises(AttributeError):
            made.colour  # noqa: B018
        with pytest.raises(AttributeError, match="creating new attributes on C\\+\\+ objects"):
            made.colour = 1
    with pytest.raises(AttributeError, match="can not be overwritten"):
        qt.QPushButton().setText = "Apply"
    with pytest.raises(AttributeError, match="not writable"):
        qt.QPushButton().width = 10
    with pytest.raises(AttributeError):
        qt.QInputDialog  # noqa: B018


@pytest.mark.parametrize(
    ("name", "value"), [("text", None), ("enabled", None), ("width", 5), ("checked", "x")]
)
def test_properties_refuse_what_they_cannot_hold(dialogs, name, value):
    with pytest.raises(AttributeError):
        setattr(qt.QPushButton(), name, value)


def test_classes_of_the_panel_itself_take_attributes(dialogs):
    class Row(qt.QWidget):
        pass

    row = Row()
    row.colour = "red"
    row.toolTip = "red"
    assert (row.colour, row.toolTip) == ("red", "red")


def test_enumerations_are_integers_without_scope(dialogs):
    item = qt.QTreeWidgetItem()
    item.setCheckState(0, qt.Qt.Checked)
    assert item.checkState(0) == qt.Qt.Checked == 2
    assert qt.QMessageBox.Yes | qt.QMessageBox.No == 0x4000 | 0x10000


# Signals and timers


def test_a_function_gets_as_many_values_as_the_signature_has_and_it_takes(dialogs):
    button, calls = qt.QPushButton(), []
    button.checkable = True
    button.connect("clicked()", lambda name="kept": calls.append(name))
    button.connect("clicked(bool)", lambda checked: calls.append(checked))
    button.connect("clicked(bool)", lambda: calls.append("none"))
    button.connect("clicked( bool )", calls.append)
    button.click()
    assert calls == ["kept", True, "none", True]


def test_connections_can_be_undone(dialogs):
    button, calls = qt.QPushButton(), []
    button.connect("clicked(bool)", calls.append)
    assert button.disconnect("clicked(bool)", calls.append)
    assert not button.disconnect("clicked(bool)", calls.append)
    button.click()
    assert calls == []


@pytest.mark.parametrize("signal", ["cliked()", "clicked", "clicked(int)", "currentNodeChanged(PyObject)"])
def test_a_wrong_signal_raises(dialogs, signal):
    for sender in (qt.QPushButton(), slicer.qMRMLNodeComboBox()):
        with pytest.raises(ValueError, match=r"signal|signature"):
            sender.connect(signal, print)


def test_timers_call_back_by_either_way_of_connecting(dialogs):
    calls = []
    timer = qt.QTimer()
    timer.setInterval(1)
    timer.connect("timeout()", lambda: calls.append("text"))
    timer.timeout.connect(lambda: calls.append("attribute"))
    qt.QTimer.singleShot(0, lambda: calls.append("once"))
    timer.start()
    wait_until(lambda: {"text", "attribute", "once"} <= set(calls))
    timer.stop()
    assert (timer.active, timer.interval, calls.count("once")) == (False, 1, 1)
    with pytest.raises(AttributeError, match="can not be overwritten"):
        timer.singleShot = True  # PythonQt hides this property: setSingleShot


# The panel


def test_the_panel_follows_the_scene(panel):
    apply = panel.ui.apply
    assert (apply.enabled, panel.ui.selector.mrmlScene()) == (False, slicer.mrmlScene)
    volume("CT")
    choose(panel.ui.selector, "CT")
    assert apply.enabled
    click(apply)
    type_text(panel.ui.search, "tumour\r")  # connected in the .ui
    assert panel.applied == ["liver", "liver"]
    assert panel.ui.path.filters == 0x21


def test_a_person_ticks_searches_and_folds(panel, tmp_path):
    tick(panel.ui.tree, panel.structure)
    assert panel.structure.checkState(0) == qt.Qt.Checked
    assert panel.ui.apply.text == "liver tumour True"
    type_text(panel.ui.search, "spleen")
    assert panel.structure.isHidden()
    with pytest.raises(AssertionError, match="not visible"):
        tick(panel.ui.tree, panel.structure)
    click(panel.ui.inputs)
    assert panel.ui.inputs.collapsed
    with pytest.raises(AssertionError, match="not visible"):
        click(panel.ui.folder)
    with pytest.raises(AssertionError, match="disabled: Choose a volume"):
        click(panel.ui.apply)


def test_items_of_a_tree_tell_of_clicks(panel):
    clicked = []
    panel.ui.tree.connect(
        "itemClicked(QTreeWidgetItem*,int)", lambda item, column: clicked.append(item.text(0))
    )
    press(panel.ui.tree, panel.structure)
    assert clicked == ["liver tumour"]
    assert panel.structure.checkState(0) == qt.Qt.Unchecked


def test_a_picture_shows_letters_not_boxes(panel, tmp_path):
    font = qt.QRawFont.fromFont(panel.ui.apply.font)
    assert font.familyName()  # empty where Qt draws boxes
    assert all(font.supportsCharacter(ord(letter)) for letter in "Aä…▶")
    grab(panel.parent, tmp_path / "new" / "panel.png")
    picture = qt.QImage(str(tmp_path / "new" / "panel.png"))
    assert (picture.width(), picture.height()) == (320, 400)
    assert len({picture.pixel(x, y) for x in range(0, 320, 2) for y in range(0, 400, 2)}) > 20


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ctkDirectoryButton", "ctkDirectryButton", "there is no class ctkDirectryButton"),
        ("noneEnabled", "noneEnable", "has no property noneEnable"),
        ("returnPressed()", "returnPresed()", "has no signal returnPresed"),
        ("setMRMLScene(", "setScene(", "has no slot setScene"),
    ],
)
def test_a_mistake_in_a_ui_file_raises(dialogs, tmp_path, before, after, message):
    (tmp_path / "wrong.ui").write_text(UI.replace(before, after))
    with pytest.raises(ValueError, match=message):
        slicer.util.loadUI(str(tmp_path / "wrong.ui"))


# Nodes


@pytest.fixture
def selector(dialogs):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(slicer.mrmlScene)
    selector.show()
    return selector


def test_a_selector_lists_nodes_by_type_and_follows_their_names(selector):
    nodes = volume("CT"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Surface")
    assert [selector.nodeFromIndex(row) for row in range(selector.nodeCount())] == list(nodes)
    assert selector.currentNode() is nodes[0]  # there is no "None"
    selector.showChildNodeTypes = False
    assert selector.nodeCount() == 1
    nodes[0].SetName("CT of the trunk")
    choose(selector, "CT of the trunk")
    nodes[0].SetHideFromEditors(True)
    assert selector.nodeCount() == 0
    assert selector.nodeTypes == ("vtkMRMLScalarVolumeNode",)


def test_a_selector_tells_of_every_change_of_the_current_node(selector):
    selector.noneEnabled = True
    told = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
    selector.connect("currentNodeChanged(bool)", told.append)
    selector.connect("currentNodeIDChanged(QString)", told.append)
    first, second = volume("first"), volume("second")
    assert (told, selector.currentNode()) == ([], None)
    selector.setCurrentNode(first)
    assert told == [first, True, first.GetID()]
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNodeID == second.GetID()
    slicer.mrmlScene.Clear(0)
    assert (told[-3:], selector.currentNodeID) == ([None, False, ""], "")


def test_a_person_can_make_and_delete_nodes(selector):
    selector.baseName = "My volume"
    added = []
    selector.connect("nodeAddedByUser(vtkMRMLNode*)", added.append)
    choose(selector, "Create new Volume")
    assert [node.GetName() for node in added] == ["My volume"]
    assert selector.currentNode() is added[0]
    choose(selector, "Delete current")
    assert (selector.nodeCount(), selector.currentNode()) == (0, None)


def test_a_node_chosen_before_there_is_a_scene_is_remembered(dialogs):
    nodes = volume("first"), volume("second")
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setCurrentNode(nodes[1])
    assert not selector.enabled
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.currentNode() is nodes[1]


def test_a_deleted_selector_no_longer_follows_the_scene(selector):
    window = qt.QWidget()
    selector.setParent(window)
    window.deleteLater()
    wait_until(lambda: not isValid(selector))
    volume()


def test_show_3d_makes_and_removes_surfaces(dialogs):
    node = segmentationNode()
    button = slicer.qMRMLSegmentationShow3DButton()
    button.setSegmentationNode(node)
    button.show()
    assert not button.enabled
    segment = node.GetSegmentation().AddEmptySegment("liver")
    reference = ctNode()
    mask = np.ones(slicer.util.arrayFromVolume(reference).shape, np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, reference)
    for shown in (True, False):
        click(button)
        assert button.checked == node.GetSegmentation().ContainsRepresentation("Closed surface") == shown


# Other widgets of CTK


def test_folders_and_paths_are_asked_for_and_told(dialogs, tmp_path):
    folder, path, told = ctk.ctkDirectoryButton(), ctk.ctkPathLineEdit(), []
    folder.connect("directoryChanged(QString)", told.append)
    path.connect("currentPathChanged(QString)", told.append)
    for widget in (folder, path):
        widget.show()
        dialogs.choose_path(tmp_path)
        click(widget)
    assert told == [str(tmp_path)] * 2 == [folder.directory, path.currentPath]
    assert [one.kind for one in dialogs.shown] == ["file", "file"]
    dialogs.choose_path("")
    click(folder)
    assert folder.directory == str(tmp_path)
    with pytest.raises(AttributeError):
        folder.setDirectory("/")  # no slot: PythonQt shows only the property


def test_a_slider_and_its_box_have_one_value(dialogs):
    slider, told = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.suffix = -1000, 1500, " HU"
    slider.connect("valueChanged(double)", told.append)
    slider.value = 250
    slider.show()
    type_text(slider, "300")
    assert (told[0], told[-1], slider.value) == (250, 300, 300)


def test_items_of_a_combo_box_can_be_ticked(dialogs):
    box, told = ctk.ctkCheckableComboBox(), []
    box.connect("checkedIndexesChanged()", lambda: told.append(len(box.checkedIndexes())))
    box.addItems(["liver", "spleen"])
    box.setCheckState(box.model().index(1, 0), qt.Qt.Checked)
    assert [index.row() for index in box.checkedIndexes()] == [1]
    assert told == [1]


# Dialogs


def test_questions_are_accepted_unless_the_test_says_otherwise(dialogs):
    assert slicer.util.confirmOkCancelDisplay("Delete?")
    assert slicer.util.confirmYesNoDisplay("Sure?")
    dialogs.answer(False, True)
    assert not slicer.util.confirmOkCancelDisplay("Replace?")
    assert qt.QMessageBox.question(None, "Title", "Go on?") == qt.QMessageBox.Yes
    assert dialogs.texts("question") == ["Delete?", "Sure?", "Replace?", "Go on?"]


def test_messages_are_recorded_by_kind(dialogs):
    slicer.util.infoDisplay("Ready.")
    slicer.util.warningDisplay("Slow.")
    slicer.util.errorDisplay("Broken.", windowTitle="Oh")
    slicer.util.messageBox("Plain.")
    slicer.util.delayDisplay("For a moment.")
    kinds = ["information", "warning", "error", "message", "message"]
    assert [one.kind for one in dialogs.shown] == kinds
    assert dialogs.shown[2].title == "Oh"


def test_a_dialog_that_nobody_answers_raises(dialogs):
    for wait in (qt.QFileDialog.getSaveFileName, qt.QDialog().exec_, qt.QMenu().exec_):
        with pytest.raises(RuntimeError, match=r"Nobody answers|wait for ever"):
            wait()


def test_an_answer_nobody_asks_for_fails(scene):
    with pytest.raises(AssertionError, match="never asked"), pythonqt.panel_windows() as dialogs:
        dialogs.answer(False)


# Exceptions, the application, and a person's limits


def test_exceptions_in_slots_and_observers_fail_the_test(scene):
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"), pythonqt.exceptions_in_slots():
        button.click()
    tag = scene.node.AddObserver("ModifiedEvent", lambda caller, event: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"), pythonqt.exceptions_in_slots():
        scene.node.Modified()
    scene.node.RemoveObserver(tag)
    with pytest.raises(AssertionError, match="Qt: "), pythonqt.exceptions_in_slots():
        [qt.QVBoxLayout(button) for _second in range(2)]


def test_waiting_ends_at_an_exception_or_in_time(scene):
    with pytest.raises(AssertionError, match="does not hold after"):
        wait_until(lambda: False, timeout_seconds=0.01)
    with pythonqt.exceptions_in_slots() as errors:
        qt.QTimer.singleShot(0, lambda: 1 / 0)
        begin = time.monotonic()
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            wait_until(lambda: False)
        assert time.monotonic() - begin < 5
        errors.clear()


def test_slicer_app_is_the_application_and_knows_the_scene(dialogs):
    called = []
    slicer.app.connect("startupCompleted()", lambda: called.append("started"))
    slicer.app.startupCompleted.emit()
    assert (called, slicer.app.applicationName, slicer.app.testingEnabled()) == (["started"], "Slicer", True)
    with slicer.util.tryWithErrorDisplay("never shown", waitCursor=True):
        slicer.app.processEvents()
    assert slicer.util.mainWindow() is None
    with pytest.raises(AttributeError):
        slicer.app.layoutManager()


def test_nothing_outlives_the_context(scene):
    before = slicer.app, slicer.util.messageBox, sys.excepthook
    with pythonqt.panel_windows():
        qt.QSettings().setValue("PartialSeg/seconds", 3)
        window = qt.QWidget()
        window.show()
    assert (slicer.app, slicer.util.messageBox, sys.excepthook) == before
    assert not isValid(window)
    with pythonqt.panel_windows():
        assert qt.QSettings().value("PartialSeg/seconds") is None


def test_menus_are_chosen_from_not_clicked(dialogs):
    button, menu, chosen = qt.QToolButton(), qt.QMenu(), []
    menu.addAction("Install…").connect("triggered()", lambda: chosen.append("install"))
    menu.addAction("Delete…").enabled = False
    button.setMenu(menu)
    button.popupMode = qt.QToolButton.InstantPopup
    button.show()
    with pytest.raises(AssertionError, match="opens a menu"):
        click(button)
    choose(button.menu(), "Install…")
    assert chosen == ["install"]
    with pytest.raises(AssertionError, match="is disabled"):
        choose(menu, "Delete…")
