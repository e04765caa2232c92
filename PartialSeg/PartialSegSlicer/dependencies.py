"""What the worker needs installed: looked for in a child process, installed only when asked to.

We never import torch into Slicer, but an installation by the extension PyTorch ends with that, and other
extensions do it: Windows then cannot replace torch before a restart. An installation that only looks complete
(an interrupted pip) is found out because the child process runs a small convolution; then it is offered for
repair, as is a version that is too old. Graphics cards count only if a small convolution runs on them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import slicer
from slicer.i18n import tr as _

from .pathLimit import pathLimit
from .worker.backgroundWork import helpAlong
from .worker.childProcess import childOptions, killTree, lastWords, pythonProgram, wasKilled

REQUIREMENTS_FILE = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

LIMIT_SECONDS = 300.0
"""How long a check may take; only a hanging driver, or a very slow disk, takes so long."""
_DOWNLOAD_SECONDS = 60.0  # for pip to find out what it would download
_TORCH_PATHS, _OLDER_TORCH_PATHS = 180, 130  # longest below site-packages; licences are a tree since 2.13
_LOCKS_LOADED_FILES = os.name == "nt"


class DependencyError(RuntimeError):
    """Why nothing could be installed, in a sentence that says what to do."""


@dataclass(frozen=True)
class DependencyReport:
    """What was found.

    Attributes:
        versions: by package; None where it is not installed; empty if not even that was found out.
        error: what the trial failed with; None when all is well.
        broken: the package that is there but does not work, or is too old.
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

    def question(self) -> str:
        """What to ask before anything is installed."""
        if self.torchIsBroken:
            return _(
                "{finding} Remove PyTorch and install it again now? It is removed only if it can be "
                "downloaded; this takes some minutes and needs the internet. Other extensions may use it too."
            ).format(finding=self.sentence())
        return _("{finding} Install it now? It takes some minutes and needs the internet.").format(
            finding=self.sentence()
        )

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
        thread = threading.Thread(target=self._endChild, name="PartialSeg check", daemon=True)
        thread.start()
        helpAlong(thread)
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
    if (tooOld := _tooOld(versions)) is not None:
        return DependencyReport(versions, error=tooOld[1], broken=tooOld[0])
    if "automatic" in answer:
        hasOpenVino = answer.get("openvino", False)
        return DependencyReport(versions, None, None, answer["automatic"], cards, hasOpenVino)
    died = lastWords(errors) or _("exit code {code}").format(code=exitCode)
    if wasKilled(exitCode, errors):
        died = _("it crashed or was killed")
    broken = answer.get("broken", "torch") if all(versions.values()) and versions else None
    return DependencyReport(versions, answer.get("error", died), broken)


def _tooOld(versions: dict[str, str | None]) -> tuple[str, str] | None:
    """The first package below the version that the requirements file asks for, and what to say of it."""
    for requirement in _requirements():
        name, version = _packageName(requirement), versions.get(_packageName(requirement))
        if version is not None and _release(version) < _release(requirement.partition(">=")[2]):
            text = _("version {version} is too old, {requirement} is needed")
            return name, text.format(version=version, requirement=requirement)
    return None


def _release(version: str) -> list[int]:
    """The numbers of a version, without what it says of the build: 2.2.2+cu121 gives [2, 2, 2]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


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
    versions = _torchRange()
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if repair:
        _requireRestart()
        log(_("Looking whether PyTorch can be downloaded, before the one that is there is removed"))
        _requireDownload()
        log(_("Removing the PyTorch that does not work"))
        logic.uninstallTorch()
    log(_("Installing PyTorch {versions}; this takes some minutes").format(versions=versions))
    if logic.installTorch(askConfirmation=False, torchVersionRequirement=versions) is None:
        raise DependencyError(_("PyTorch could not be installed; see the Python console for the reason."))


def _requireRestart() -> None:
    """Refuse to replace files that Slicer has loaded, where the system would refuse it halfway."""
    if _LOCKS_LOADED_FILES and "torch" in sys.modules:
        raise DependencyError(
            _("Slicer has loaded PyTorch, so Windows cannot replace it: restart Slicer and repair it first.")
        )


def _requireDownload() -> None:
    """Ask pip whether there is a PyTorch to download, as far as it can tell.

    Raises:
        DependencyError: there is none, or none that will do for this computer; nothing was removed.
    """
    options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    try:
        found = subprocess.run(
            [pythonProgram(), "-m", "pip", "index", "versions", *options, "torch"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
            **childOptions(),
        )
    except subprocess.TimeoutExpired:
        raise _noDownload(_("no answer")) from None
    newest = re.match(r"torch \((.+)\)", found.stdout.decode("utf-8", "replace"))
    if found.returncode == 1:  # what pip ends with when it has found nothing; others say nothing of PyTorch
        raise _noDownload(lastWords(found.stderr.decode("utf-8", "replace").splitlines()))
    if newest is not None and (tooOld := _tooOld({"torch": newest[1]})) is not None:
        raise _noDownload(tooOld[1])


def _noDownload(reason: str) -> DependencyError:
    return DependencyError(
        _(
            "No PyTorch can be downloaded ({reason}), so the one that is installed was left as it is. "
            "Check the internet connection, or install PyTorch from a file."
        ).format(reason=reason)
    )


def _installOthers(requirements: list[str], repair: bool) -> None:
    names = " ".join(_packageName(line) for line in requirements)
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:  # before Slicer 5.12
        if repair:
            slicer.util.pip_uninstall(names)
        slicer.util.pip_install(" ".join(requirements))
        return
    if repair:
        packaging.pip_uninstall(names)
    wanted = [one for one in packaging.load_requirements(REQUIREMENTS_FILE) if str(one) in requirements]
    packaging.pip_ensure(wanted, requester="PartialSeg", prompt_install=False)


def _torchRange() -> str:
    """The versions of torch that will do: as in the requirements file, and without paths that are too long.

    Raises:
        DependencyError: all have such paths.
    """
    (torch,) = (line for line in _requirements() if _packageName(line) == "torch")
    folder, limit = sysconfig.get_path("purelib"), pathLimit()
    if len(folder) + _OLDER_TORCH_PATHS > limit:
        sentence = _(
            "Windows accepts paths of {limit} characters, too few for PyTorch in {folder}: install Slicer "
            "into a short folder such as C:\\Slicer, or have long paths switched on."
        )
        raise DependencyError(sentence.format(limit=limit, folder=folder))
    return torch.removeprefix("torch") + (",<2.13" if len(folder) + _TORCH_PATHS > limit else "")


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
