"""What the worker needs installed: looked for in a child process, installed only when asked to.

Slicer itself never imports torch. An installation that only looks complete (an interrupted pip) is found out
because the child process runs a small convolution; then it is offered for repair. Graphics cards count only
if a small convolution runs on them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from slicer.i18n import tr as _

from .childProcess import childOptions, killTree, pythonProgram

REQUIREMENTS_FILE = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

LIMIT_SECONDS = 300.0
"""How long a check may take; only a hanging driver, or a very slow disk, takes so long."""


class DependencyError(RuntimeError):
    """Why nothing could be installed, in a sentence that says what to do."""


@dataclass(frozen=True)
class DependencyReport:
    """What was found.

    Attributes:
        versions: by package; None where it is not installed; empty if not even that was found out.
        error: what the trial failed with; None when all is well.
        broken: the package that is there but does not work.
        automatic: the device that "auto" stands for; None if nothing works.
        cards: of each graphics card on which a small computation ran, what to call it, by its device.
        hasOpenVino: whether the optional package openvino is installed.
    """

    versions: dict[str, str | None]
    error: str | None = None
    broken: str | None = None
    automatic: str | None = None
    cards: dict[str, str] = field(default_factory=dict)
    hasOpenVino: bool = False

    @property
    def isComplete(self) -> bool:
        """Whether the worker can run."""
        return self.error is None

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, version in self.versions.items() if version is None]

    @property
    def torchIsBroken(self) -> bool:
        """Whether torch is there but does not work."""
        return self.broken == "torch"

    @property
    def canBeMended(self) -> bool:
        """Whether installing something may help."""
        return bool(self.missing) or self.broken is not None

    def lacks(self, device: str) -> bool:
        """Whether it is known that nothing can be computed on a device here."""
        known = {"auto", "cpu", self.automatic, *self.cards}
        return self.isComplete and device not in known and (device != "cuda" or "cuda:0" not in self.cards)

    @property
    def lacksOpenVino(self) -> bool:
        """Whether it is known that the package openvino is not installed."""
        return self.isComplete and not self.hasOpenVino

    def sentence(self) -> str:
        """What to tell the user."""
        if self.isComplete:
            cards = _("usable graphics cards: {count}").format(count=len(self.cards))
            return _("Ready: torch {version}; {cards}.").format(version=self.versions["torch"], cards=cards)
        if self.missing:
            return _("Not installed yet: {packages}.").format(packages=", ".join(self.missing))
        if self.broken is not None:
            return _("{package} is installed but does not work ({error}); repair it.").format(
                package=self.broken, error=self.error
            )
        return _("Nothing can be computed on this computer: {error}").format(error=self.error)


NOT_CHECKED = DependencyReport({}, _("Not checked yet"))


class DependencyCheck:
    """A check that runs in a child process.

    Args:
        python: program; the worker's Python when None.
        limitSeconds: a child that takes longer is ended.
    """

    def __init__(self, python: str | None = None, limitSeconds: float = LIMIT_SECONDS) -> None:
        self._limitSeconds = limitSeconds
        self._end = time.monotonic() + limitSeconds
        with contextlib.ExitStack() as files:  # files instead of pipes, which get full
            self._output = files.enter_context(tempfile.TemporaryFile())
            self._errors = files.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [python or pythonProgram(), "-m", "PartialSegLib.worker.probe"],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
                **childOptions(),
            )
            self._files = files.pop_all()

    def poll(self) -> DependencyReport | None:
        """The report, or None while the child is still looking; at most one report comes."""
        if self._process.poll() is not None:
            with self._files:
                return _reportOf(_lines(self._output), _lines(self._errors), self._process.returncode)
        if time.monotonic() < self._end:
            return None
        self.stop()
        error = _("PyTorch did not answer within {count} s.").format(count=round(self._limitSeconds))
        return DependencyReport({}, error)

    def stop(self) -> None:
        """End the child, without waiting for it."""
        threading.Thread(target=self._endChild, name="PartialSeg check", daemon=True).start()
        self._files.close()

    def _endChild(self) -> None:
        killTree(self._process)
        self._process.wait()


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode("utf-8", "replace").strip().splitlines()


def _reportOf(output: list[str], errors: list[str], exitCode: int) -> DependencyReport:
    """The report from what the child has written; from its last words where it did not come to the end."""
    answer: dict[str, Any] = {}
    for line in output:
        with contextlib.suppress(ValueError, TypeError):  # a library may print too
            answer.update(json.loads(line))
    cards = {card["device"]: _cardTitle(card) for card in answer.get("cards", [])}
    versions = answer.get("versions", {})
    if "automatic" in answer:
        hasOpenVino = answer.get("openvino", False)
        return DependencyReport(versions, None, None, answer["automatic"], cards, hasOpenVino)
    died = errors[-1] if errors else _("exit code {code}").format(code=exitCode)
    broken = answer.get("broken", "torch") if all(versions.values()) and versions else None
    return DependencyReport(versions, answer.get("error", died), broken)


def _cardTitle(card: dict[str, Any]) -> str:
    size = card["memory_bytes"] / 2**30
    return _("{title}, {size:.0f} GB").format(title=card["title"], size=size) if size else card["title"]


def installDependencies(report: DependencyReport, log: Callable[[str], object] = lambda line: None) -> None:
    """Install what is missing, or anew what is broken; on the main thread, after a click.

    Raises:
        DependencyError: what Slicer needs for this is absent, or the installation failed.
    """
    try:
        if "torch" in report.missing or report.torchIsBroken:
            _installTorch(repair=report.torchIsBroken, log=log)
        needed = {*report.missing, report.broken}
        others = [line for line in _otherRequirements() if _packageName(line) in needed]
        if others:
            log(_("Installing {packages}").format(packages=", ".join(others)))
            _installOthers(others, repair=report.broken is not None)
    except DependencyError:
        raise
    except Exception as error:  # of pip, or of the other extension: nobody knows which
        raise DependencyError(
            _(
                "The installation failed ({error}); see the Python console, restart Slicer and try again."
            ).format(error=error)
        ) from error


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


def _installOthers(requirements: list[str], repair: bool) -> None:
    try:
        import slicer.packaging
    except ImportError:
        raise DependencyError(
            _(
                "This Slicer is too old to install {packages}; use Slicer 5.12 or install them by hand."
            ).format(packages=", ".join(requirements))
        ) from None
    if repair:
        slicer.packaging.pip_uninstall(" ".join(_packageName(line) for line in requirements))
    slicer.packaging.pip_ensure(requirements, requester="PartialSeg", prompt_install=False)


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
