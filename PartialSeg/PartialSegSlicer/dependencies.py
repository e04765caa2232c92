"""What the worker needs installed: looked for in a child process, installed only when asked to.

Slicer itself never imports torch. An installation that only looks complete (an interrupted pip) is found out
because the child process runs a small convolution; then torch is offered for repair.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from .workerProcess import workerCommand

REQUIREMENTS_FILE = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

_PROBE = """
import importlib.metadata, json
found = {}
for name in ("torch", "safetensors"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
error = None
try:
    import safetensors.torch, torch
    image = torch.ones(1, 1, 3, 3, 3)
    assert torch.nn.functional.conv3d(image, image).item() == 27
except Exception as problem:
    error = f"{type(problem).__name__}: {problem}"
print(json.dumps({"versions": found, "error": error}))
"""


class DependencyError(RuntimeError):
    """Why nothing could be installed, in a sentence that says what to do."""


@dataclass(frozen=True)
class DependencyReport:
    """What was found.

    Attributes:
        versions: by package; None where it is not installed.
        error: what the test computation failed with; None when all is well.
    """

    versions: dict[str, str | None]
    error: str | None

    @property
    def isComplete(self) -> bool:
        """Whether the worker can run."""
        return self.error is None

    @property
    def torchIsBroken(self) -> bool:
        """Whether torch is there but does not work."""
        return self.error is not None and self.versions.get("torch") is not None and not self.missing

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, version in self.versions.items() if version is None]

    def sentence(self) -> str:
        """What to tell the user."""
        if self.isComplete:
            return _("Ready: torch {version}.").format(version=self.versions["torch"])
        if self.missing:
            return _("Not installed yet: {packages}.").format(packages=", ".join(self.missing))
        return _("PyTorch is installed but does not work ({error}); repair it.").format(error=self.error)


class DependencyCheck:
    """A check that runs in a child process.

    Args:
        python: program; the worker's Python when None.
    """

    def __init__(self, python: str | None = None) -> None:
        self._process = subprocess.Popen(
            [python or workerCommand()[0], "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    def poll(self) -> DependencyReport | None:
        """The report, or None while the child is still looking."""
        return None if self._process.poll() is None else self.wait()

    def wait(self) -> DependencyReport:
        """The report, when the child has finished."""
        output, errors = self._process.communicate()
        try:
            answer = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            last = errors.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
            return DependencyReport({}, last[0])
        return DependencyReport(answer["versions"], answer["error"])


def installDependencies(report: DependencyReport, log: Callable[[str], object] = lambda line: None) -> None:
    """Install what is missing, or torch anew where it is broken; on the main thread, after a click.

    Raises:
        DependencyError: what Slicer needs for this is absent, or the installation failed.
    """
    if report.torchIsBroken or "torch" in report.missing or not report.versions:
        _installTorch(repair=report.torchIsBroken, log=log)
    others = [line for line in _otherRequirements() if _packageName(line) in report.missing]
    if others:
        log(_("Installing {packages}").format(packages=", ".join(others)))
        _packaging().pip_ensure(others, requester="PartialSeg", prompt_install=False)


def _installTorch(repair: bool, log: Callable[[str], object]) -> None:
    try:
        import PyTorchUtils
    except ImportError:
        raise DependencyError(
            _("The extension PyTorch is absent; install it in the Extensions Manager and restart Slicer.")
        ) from None
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if repair:
        log(_("Removing the PyTorch that does not work"))
        logic.uninstallTorch()
    log(_("Installing PyTorch; this takes some minutes"))
    if logic.installTorch(askConfirmation=False, torchVersionRequirement=_torchRange()) is None:
        raise DependencyError(_("PyTorch could not be installed; see the Python console for the reason."))


def _packaging() -> Any:
    try:
        import slicer.packaging
    except ImportError:
        raise DependencyError(
            _(
                "This Slicer is too old to install {packages}; use Slicer 5.12 or install them by hand."
            ).format(packages=", ".join(_otherRequirements()))
        ) from None
    return slicer.packaging


def _torchRange() -> str:
    """The versions of torch that will do, as in the requirements file."""
    (torch,) = (line for line in _requirements() if _packageName(line) == "torch")
    return torch.removeprefix("torch")


def _otherRequirements() -> list[str]:
    """Lines of the requirements file, torch excepted: PyTorchUtils knows which build suits the machine."""
    return [line for line in _requirements() if _packageName(line) != "torch"]


def _requirements() -> list[str]:
    lines = REQUIREMENTS_FILE.read_text(encoding="utf-8").splitlines()
    return [line for line in (line.split("#")[0].strip() for line in lines) if line]


def _packageName(requirement: str) -> str:
    for index, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:index].lower()
    return requirement.lower()
