"""What the panel says of PyTorch and graphics cards, and what it installs; children are real Pythons."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import time
import venv
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import pythonqt
import slicer
import slicer_scene
from packaging.requirements import Requirement
from panel_steps import itemNamed

slicer_scene.boot()

from PartialSegSlicer import dependencies, expectedTime, pathLimit  # noqa: E402
from PartialSegSlicer.dependencies import DependencyCheck, DependencyError, DependencyReport  # noqa: E402
from PartialSegSlicer.widgets import softwareRow  # noqa: E402

SITE_PACKAGES = Path(importlib.metadata.distribution("torch").locate_file(""))
INTERRUPTED = (SITE_PACKAGES / "torch" / "__init__.py").read_text(encoding="utf-8")
"""What pip leaves of torch when it is interrupted early."""
CARDS = {"cuda:0": "NVIDIA H200, 139 GB", "cuda:1": "NVIDIA T4, 15 GB"}
TWO_CARDS = DependencyReport({"torch": "2.9.1"}, automatic="cuda", cards=CARDS)
NO_CARD = DependencyReport({"torch": "2.9.1"}, automatic="cpu")

needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows lets not everybody make links")


@pytest.fixture
def makePython(tmp_path):
    """A function that makes a Python with the packages of this one, but for some.

    Args of it: names of packages to leave out; torch, the text of another `torch/__init__.py`.
    """

    def make(*absent, torch=None):
        venv.create(tmp_path / "python", symlinks=True)
        (target,) = (tmp_path / "python" / "lib").glob("*/site-packages")
        for entry in SITE_PACKAGES.iterdir():
            name = entry.name.split("-")[0].lower()
            if name not in absent and (torch is None or entry.name != "torch"):
                (target / entry.name).symlink_to(entry)
        if torch is not None:
            (target / "torch").mkdir()
            (target / "torch" / "__init__.py").write_text(torch, encoding="utf-8")
        return str(tmp_path / "python" / "bin" / "python")

    return make


def reportOf(python, **options):
    check = DependencyCheck(python, **options)
    end = time.monotonic() + 120
    while (report := check.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return report


@needs_links
def test_a_python_without_torch(makePython):
    report = reportOf(makePython("torch"))
    assert report.missing == ["torch"]
    assert report.sentence() == "Not installed yet: torch."
    assert report.canBeMended
    assert not report.isComplete


@needs_links
@pytest.mark.parametrize("absent", [("openvino",), ()], ids=["without", "with"])
def test_a_python_says_whether_it_has_openvino(makePython, absent):
    report = reportOf(makePython(*absent))
    assert report.isComplete
    assert report.hasOpenVino is not report.lacksOpenVino
    assert report.lacksOpenVino == bool(absent)


@needs_links
def test_a_python_without_safetensors(makePython):
    report = reportOf(makePython("safetensors"))
    assert report.missing == ["safetensors"]
    assert not report.torchIsBroken
    assert report.sentence() == "Not installed yet: safetensors."


@needs_links
@pytest.mark.parametrize(
    ("torch", "error"),
    [
        (INTERRUPTED, "ModuleNotFoundError: No module named 'torch."),
        ("import os; os.abort()", "exit code -6"),
        (
            "import os; [os.write(file, b'noise' * 50_000) for file in (1, 2)]; raise OSError('no DLL')",
            "OSError: no DLL",
        ),
    ],
    ids=["interrupted", "crashing", "noisy"],
)
def test_a_torch_that_does_not_work_is_to_be_repaired(makePython, torch, error):
    report = reportOf(makePython(torch=torch))
    assert report.torchIsBroken
    assert report.missing == []
    assert report.sentence().startswith(f"torch is installed but does not work ({error}")
    assert report.sentence().endswith("; repair it.")


@needs_links
def test_a_child_that_hangs_is_given_up(makePython):
    report = reportOf(makePython(torch="import time; time.sleep(600)"), limitSeconds=0.5)
    assert "did not answer" in report.sentence()
    assert not report.canBeMended


def test_a_python_that_does_not_start_is_told(widget, monkeypatch, tmp_path):
    monkeypatch.setattr(dependencies, "pythonProgram", lambda: str(tmp_path / "none"))
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    pythonqt.click(widget.ui.installButton)
    assert widget.ui.softwareLabel.text.startswith("Nothing can be computed on this computer: ")
    assert widget.ui.installButton.text == "Check"


class Calls(list):
    """Stand-ins for PyTorchUtils and slicer.packaging, which record their calls in this list.

    They have the functions, and the names of parameters, of Slicer 5.12 and of the extension PyTorch.

    Args:
        onTorch: called when torch is to be installed.
    """

    def __init__(self, monkeypatch, onTorch=lambda: None):
        super().__init__()
        calls = self

        class PyTorchUtilsLogic:
            def installTorch(
                self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None
            ):
                calls.append(("installTorch", askConfirmation, torchVersionRequirement))
                onTorch()
                return ModuleType("torch")

            def uninstallTorch(self, askConfirmation=False, forceComputationBackend=None):
                calls.append(("uninstallTorch",))

        def pip_ensure(requirements, prompt_install=True, requester=None, **options):
            lines = [f"{requirement.name}{requirement.specifier}" for requirement in requirements]
            calls.append(("pip_ensure", lines, prompt_install, requester))

        def load_requirements(path):
            return [Requirement(line) for line in Path(path).read_text().splitlines() if line]

        utils, packaging = ModuleType("PyTorchUtils"), ModuleType("slicer.packaging")
        utils.PyTorchUtilsLogic = PyTorchUtilsLogic
        packaging.pip_ensure, packaging.load_requirements = pip_ensure, load_requirements
        packaging.pip_uninstall = lambda requirements: calls.append(("pip_uninstall", requirements))
        monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
        monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
        monkeypatch.setattr(slicer, "packaging", packaging, raising=False)


@pytest.fixture
def checked(widget, makePython, monkeypatch):
    """A function that makes a Python like `makePython`, lets the panel check it, and returns its ui."""

    def check(*absent, **options):
        python = makePython(*absent, **options)
        monkeypatch.setattr(dependencies, "pythonProgram", lambda: python)
        pythonqt.click(widget.ui.advancedCollapsibleButton)
        pythonqt.click(widget.ui.installButton)
        waitForCheck(widget)
        return widget.ui

    return check


def waitForCheck(widget):
    pythonqt.wait_until(lambda: widget.ui.installButton.enabled, 120)


TORCH = ("installTorch", False, ">=2.2")
OTHERS = ("pip_ensure", ["safetensors>=0.4"], False, "PartialSeg")


@needs_links
def test_what_is_missing_is_installed_torch_first_and_checked_again(
    widget, checked, dialogs, monkeypatch, volumeNode
):
    ui = checked("torch", "safetensors")
    assert ui.installButton.text == "Install"
    assert "Not installed yet: torch, safetensors." in ui.applyButton.toolTip
    real = lambda: sys.executable  # noqa: E731
    calls = Calls(monkeypatch, lambda: monkeypatch.setattr(dependencies, "pythonProgram", real))
    pythonqt.click(ui.installButton)
    assert calls == [TORCH, OTHERS]
    assert "Install it now?" in dialogs.shown[-1].text
    waitForCheck(widget)
    assert ui.softwareLabel.text.startswith("Ready: torch")
    assert ui.installButton.text == "Check"
    assert ui.applyButton.toolTip == "Tick at least one task."


@pytest.fixture
def offerTorch(tmp_path, monkeypatch):
    """A function that makes one version of torch, or none, all that pip can download."""

    def offer(version):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
        (tmp_path / "wheels").mkdir()
        if version is not None:
            (tmp_path / "wheels" / f"torch-{version}-py3-none-any.whl").touch()

    return offer


@needs_links
def test_repairing_removes_torch_first(checked, dialogs, monkeypatch, offerTorch):
    ui = checked(torch=INTERRUPTED)
    assert ui.installButton.text == "Repair"
    calls = Calls(monkeypatch)
    offerTorch("2.2.2")
    pythonqt.click(ui.installButton)
    assert calls == [("uninstallTorch",), TORCH]
    assert "It is removed only if it can be downloaded" in dialogs.shown[-1].text


NO_TORCH = DependencyReport({"torch": None, "safetensors": "0.4.0"}, "ModuleNotFoundError")
BROKEN_TORCH = DependencyReport({"torch": "2.9.1", "safetensors": "0.4.0"}, "ImportError", "torch")


@pytest.mark.parametrize(
    ("version", "reason"), [(None, "No matching distribution"), ("2.1.9", "version 2.1.9 is too old")]
)
def test_a_torch_that_cannot_be_downloaded_again_is_left_as_it_is(monkeypatch, offerTorch, version, reason):
    calls = Calls(monkeypatch)
    offerTorch(version)
    with pytest.raises(DependencyError, match=f"{reason}.* left as it is"):
        dependencies.installDependencies(BROKEN_TORCH)
    assert calls == []


def test_on_windows_a_torch_that_slicer_has_loaded_is_replaced_after_a_restart(monkeypatch):
    calls = Calls(monkeypatch)
    monkeypatch.setattr(dependencies, "_LOCKS_LOADED_FILES", True)
    with pytest.raises(DependencyError, match="restart Slicer"):
        dependencies.installDependencies(BROKEN_TORCH)
    assert calls == []


@pytest.mark.parametrize(("left", "versions"), [(129, None), (130, ">=2.2,<2.13"), (180, ">=2.2")])
def test_windows_gets_a_torch_whose_paths_it_accepts_or_none_is_removed(monkeypatch, left, versions):
    calls = Calls(monkeypatch)
    monkeypatch.setattr(dependencies, "pathLimit", lambda: len(sysconfig.get_path("purelib")) + left)
    if versions is None:
        with pytest.raises(DependencyError, match=r"into a short folder such as C:\\Slicer, or"):
            dependencies.installDependencies(BROKEN_TORCH)
        assert calls == []
    else:
        dependencies.installDependencies(NO_TORCH)
        assert calls == [("installTorch", False, versions)]


@pytest.mark.parametrize(("value", "limit"), [(1, float("inf")), (0, 259), (None, 259)])
def test_windows_limits_paths_unless_it_is_switched_off(monkeypatch, value, limit):
    def query(key, name):
        if value is None:
            raise FileNotFoundError(name)
        return value, 4

    registry = SimpleNamespace(HKEY_LOCAL_MACHINE=0, OpenKey=lambda *key: nullcontext(), QueryValueEx=query)
    monkeypatch.setattr(pathLimit, "winreg", registry)
    assert pathLimit.pathLimit() == limit


@pytest.mark.parametrize("isOld", [False, True], ids=["5.12", "5.10"])
def test_a_broken_safetensors_is_removed_first_too(monkeypatch, isOld):
    calls = Calls(monkeypatch)
    installation = OTHERS
    if isOld:
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
        for name in ("pip_uninstall", "pip_install"):
            monkeypatch.setattr(slicer.util, name, lambda packages, name=name: calls.append((name, packages)))
        installation = ("pip_install", "safetensors>=0.4")
    versions = {"torch": "2.9.1", "safetensors": "0.4.0"}
    dependencies.installDependencies(DependencyReport(versions, "ImportError", "safetensors"))
    assert calls == [("pip_uninstall", "safetensors"), installation]


@pytest.mark.parametrize(
    ("version", "errors", "sentence"),
    [
        ("2.1.2+cu121", [], "(version 2.1.2+cu121 is too old, torch>=2.2 is needed); repair it."),
        ("2.10.0", ["error: [/S/bin/./python-real] exit abnormally - Report the problem."], "(it crashed or"),
    ],
    ids=["old", "crashed in the launcher"],
)
def test_a_torch_is_not_ready_if_it_is_old_or_crashes(version, errors, sentence):
    output = [f'{{"versions": {{"torch": "{version}", "safetensors": "0.4.0"}}}}']
    report = dependencies._reportOf(output if errors else [*output, '{"automatic": "cpu"}'], errors, 1)
    assert report.torchIsBroken
    assert sentence in report.sentence()


@needs_links
def test_who_declines_gets_nothing_installed(checked, dialogs, monkeypatch):
    """So it is in Slicer's testing mode too, where confirmOkCancelDisplay returns False."""
    ui = checked("torch")
    calls = Calls(monkeypatch)
    dialogs.answer(False)
    pythonqt.click(ui.installButton)
    assert calls == []
    assert ui.softwareLabel.text == "Not installed yet: torch."
    assert ui.installButton.enabled


def fail():
    raise subprocess.CalledProcessError(1, "light_the_torch")


@needs_links
def test_what_prevents_an_installation_is_told_in_one_sentence(widget, checked, dialogs, monkeypatch):
    ui = checked("torch", "safetensors")
    for prepare, sentence in (
        (lambda: monkeypatch.setitem(sys.modules, "PyTorchUtils", None), "The extension PyTorch is absent"),
        (lambda: Calls(monkeypatch, fail), "The installation failed (Command 'light_the_torch'"),
    ):
        prepare()
        dialogs.shown.clear()
        pythonqt.click(ui.installButton)
        (message,) = dialogs.texts("error")
        assert message.startswith(sentence)
        waitForCheck(widget)
        assert ui.softwareLabel.text == "Not installed yet: torch, safetensors."


@pytest.fixture
def finding(monkeypatch):
    """A function that sets what checks find: a stand-in for the child process, for cards nobody has here."""

    def find(report):
        check = SimpleNamespace(poll=lambda: report, stop=lambda: None)
        monkeypatch.setattr(softwareRow, "DependencyCheck", lambda: check)

    return find


def devices(ui):
    return {
        ui.deviceComboBox.itemData(row): ui.deviceComboBox.itemText(row)
        for row in range(ui.deviceComboBox.count)
    }


def enter(widget):
    widget.enter()
    waitForCheck(widget)


def test_entering_the_module_lists_the_cards(widget, finding):
    assert devices(widget.ui) == {"auto": "Automatic", "cpu": "Processor (CPU)"}
    finding(TWO_CARDS)
    enter(widget)
    assert devices(widget.ui) == {
        "auto": "Automatic: NVIDIA H200, 139 GB (cuda:0)",
        "cpu": "Processor (CPU)",
        "cuda:0": "NVIDIA H200, 139 GB (cuda:0)",
        "cuda:1": "NVIDIA T4, 15 GB (cuda:1)",
    }
    assert widget.panel.parameters.device == "auto"
    assert widget.ui.softwareLabel.text == "Ready: torch 2.9.1; usable graphics cards: 2."
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    pythonqt.choose(widget.ui.deviceComboBox, "NVIDIA T4, 15 GB (cuda:1)")
    assert widget.panel.parameters.device == "cuda:1"


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_openvino_can_be_chosen_where_a_check_has_found_it(widget, volumeNode, finding, engine):
    widget.panel.parameters.tasks = ["spleen"]
    widget.panel.parameters.engine = engine  # as a scene from another computer may say
    box = widget.ui.engineComboBox
    item = box.model().item(box.findData(engine))
    assert not item.isEnabled()
    assert "not been checked yet" in box.toolTip
    assert widget.ui.applyButton.enabled
    finding(NO_CARD)
    enter(widget)
    assert not item.isEnabled()
    assert "pip_install('openvino')" in box.toolTip
    assert "pip_install('openvino')" in item.toolTip()
    assert widget.ui.applyButton.toolTip.startswith("OpenVINO is not installed; choose another engine")
    finding(dataclasses.replace(NO_CARD, hasOpenVino=True))
    widget.panel.advanced.software.check()
    waitForCheck(widget)
    assert item.isEnabled()
    assert "pip_install" not in box.toolTip
    assert widget.ui.applyButton.enabled


def test_what_is_ready_is_not_checked_again(widget, finding):
    finding(NO_CARD)
    enter(widget)
    finding(TWO_CARDS)
    enter(widget)
    assert devices(widget.ui) == {"auto": "Automatic: Processor (CPU)", "cpu": "Processor (CPU)"}


def test_the_device_of_another_computer_is_kept_but_not_run(widget, volumeNode, finding):
    widget.panel.parameters.tasks = ["spleen"]
    widget.panel.parameters.device = "cuda:1"
    assert widget.ui.deviceComboBox.currentText == "cuda:1"
    assert widget.ui.applyButton.enabled
    finding(NO_CARD)
    enter(widget)
    assert widget.panel.parameters.device == "cuda:1"
    assert widget.ui.deviceComboBox.currentText == "cuda:1 (not on this computer)"
    assert not widget.ui.applyButton.enabled
    assert widget.ui.applyButton.toolTip.startswith("The device cuda:1 is not on this computer")
    pythonqt.click(widget.ui.batchCollapsibleButton)
    pythonqt.click(widget.ui.batchButton)
    assert "cuda:1 is not on this computer" in widget.ui.batchStatusLabel.text
    pythonqt.click(widget.ui.advancedCollapsibleButton)
    pythonqt.choose(widget.ui.deviceComboBox, "Processor (CPU)")
    assert list(devices(widget.ui)) == ["auto", "cpu"]
    assert widget.ui.applyButton.enabled


@pytest.mark.parametrize(
    ("device", "report", "lacking"),
    [
        ("cuda", TWO_CARDS, False),
        ("cuda", NO_CARD, True),
        ("mps", NO_CARD, True),
        ("cuda:2", TWO_CARDS, True),
        ("cuda:2", dependencies.NOT_CHECKED, False),
    ],
)
def test_only_what_is_known_to_lack_is_refused(device, report, lacking):
    assert report.lacks(device) == lacking


def test_the_expected_time_is_that_of_the_device_that_automatic_takes(widget, volumeNode, finding):
    manifest = widget.panel.manifest
    options = widget.panel.modelOptions(widget.panel.parameters)
    size = expectedTime.megavoxels(volumeNode, manifest)
    expectedTime.remember(manifest, options, "cuda", 7.0 / size)
    expectedTime.remember(manifest, options, "cpu", 70.0 / size)
    finding(TWO_CARDS)
    enter(widget)
    assert widget.ui.modelLabel.text.endswith("Expected time: 7 s.")
    widget.panel.parameters.device = "cpu"
    assert widget.ui.modelLabel.text.endswith("Expected time: 70 s.")
    widget.panel.parameters.skipAir = True
    assert widget.ui.modelLabel.text.endswith("known after the first run.")


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (89.6, "90 s"), (90, "2 min"), (640, "11 min")])
def test_a_time_is_said_in_seconds_or_minutes(seconds, text):
    assert expectedTime.duration(seconds) == text


def test_missing_software_is_shown_without_a_click(widget, volumeNode, finding):
    finding(NO_TORCH)
    enter(widget)
    assert not widget.ui.advancedCollapsibleButton.collapsed
    assert widget.ui.applyButton.toolTip.startswith("Not installed yet: torch.")


def test_while_pip_works_nothing_is_checked_or_installed_a_second_time(widget, dialogs, finding, monkeypatch):
    finding(NO_TORCH)
    enter(widget)
    seen = []

    def enterAgain():
        """What a user may do meanwhile: pip lets Slicer handle events."""
        widget.enter()
        seen.append((widget.ui.softwareLabel.text, widget.ui.installButton.enabled))
        widget.panel.advanced.software.onButton()

    calls = Calls(monkeypatch, enterAgain)
    pythonqt.click(widget.ui.installButton)
    assert seen == [("Installing…", False)]
    assert calls == [TORCH]
    waitForCheck(widget)
    assert widget.ui.softwareLabel.text == "Not installed yet: torch."


def test_all_workers_are_ended_before_something_is_installed(
    widget, volumeNode, dialogs, finding, monkeypatch, tmp_path
):
    (tmp_path / "image.nii.gz").write_text("no image")
    pythonqt.tick(widget.ui.taskTree, itemNamed(widget, "spleen"))
    pythonqt.click(widget.ui.batchCollapsibleButton)
    widget.ui.batchPathsEdit.appendPlainText(str(tmp_path / "image.nii.gz"))
    widget.ui.batchOutputEdit.text = str(tmp_path / "results")
    pythonqt.click(widget.ui.batchButton)
    pythonqt.click(widget.ui.applyButton)
    clients = [widget.panel.segmenter.client, widget.panel.batchSection.client]
    pythonqt.wait_until(lambda: all(client.pid for client in clients))
    processes = [client._process for client in clients]
    finding(NO_TORCH)
    widget.panel.advanced.software.check()
    waitForCheck(widget)
    pids = []
    Calls(monkeypatch, lambda: pids.extend(client.pid for client in clients))
    pythonqt.click(widget.ui.installButton)
    assert pids == [None, None]
    assert widget.ui.statusLabel.text == ""
    pythonqt.wait_until(lambda: not any(process.isRunning for process in processes))


@needs_links
def test_closing_the_module_ends_the_check(widget, makePython, monkeypatch):
    python = makePython(torch="import time; time.sleep(600)")
    monkeypatch.setattr(dependencies, "pythonProgram", lambda: python)
    start = time.perf_counter()
    widget.enter()
    assert time.perf_counter() - start < 0.5  # a child is started, not waited for
    process = widget.panel.advanced.software._check._process
    widget.cleanup()
    pythonqt.wait_until(lambda: process.poll() is not None)
