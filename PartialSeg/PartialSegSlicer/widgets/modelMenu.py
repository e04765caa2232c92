"""The menu beside the list of models: install, import, delete, choose where they are kept; all offline."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.errors import Cancelled, InputError
from PartialSegLib.manifest import read_manifest
from PartialSegLib.packages.installation import AlreadyInstalledError, delete_package, install_package
from PartialSegLib.packages.installed import model_folders
from PartialSegLib.packages.nnunet_files import find_models

from ..installedModels import FOLDER_SETTING, useStoredFolder
from ..worker.backgroundWork import BackgroundWork
from ..worker.childProcess import childOptions, killTree, lastWords, pythonProgram, wasKilled
from .messages import confirm, showError
from .nnunetChoice import NnunetChoice, hasToBeAsked
from .progressDialog import ProgressDialog

_END_SECONDS = 0.3  # for what it has to tidy up


class ModelMenu:
    """Fills the menu of a tool button.

    Args:
        button: gets the menu.
        currentModel: returns the name of the chosen model.
        onChanged: called when packages have come or gone.
        log: called with lines to show.
    """

    def __init__(
        self,
        button: qt.QToolButton,
        currentModel: Callable[[], str],
        onChanged: Callable[[], object],
        log: Callable[[str], object],
    ) -> None:
        self._currentModel = currentModel
        self._onChanged = onChanged
        self._log = log
        self._work: _Work | None = None
        self.progress: ProgressDialog | None = None
        self.choice: NnunetChoice | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self._poll)
        self.menu = qt.QMenu(button)
        for text, slot in (
            (_("Install from a zip file…"), self.chooseArchive),
            (_("Install from a folder…"), self.chooseFolder),
            (_("Import an official checkpoint…"), self.chooseCheckpoint),
            (_("Import a model folder of nnU-Net…"), self.chooseNnunetFolder),
            (_("Delete the chosen model…"), self.deleteCurrent),
            (_("Choose where models are kept…"), self.chooseModelFolder),
        ):
            self.menu.addAction(text).connect("triggered()", slot)
        button.setMenu(self.menu)

    @property
    def isBusy(self) -> bool:
        """Whether an installation or import is under way."""
        return self._work is not None

    def chooseArchive(self) -> None:
        """Ask for a zip file and install it."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Model package"), "", _("Model packages (*.zip)")
        )
        self._installIfChosen(path)

    def chooseFolder(self) -> None:
        """Ask for a folder and install the package in it."""
        self._installIfChosen(
            qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Model package"))
        )

    def install(self, source: str, replace: bool = False) -> None:
        """Install a package in the background; a wrong one is told in one sentence."""
        advance = _Advance()

        def work() -> str:
            folder = install_package(source, replace=replace, on_progress=advance)
            return _("Installed in {folder}.").format(folder=folder)

        text = _("Installing {source}…").format(source=source)
        again = partial(self.install, source, replace=True)
        self._start(_Work(text, BackgroundWork(work, "models"), again, advance.stop, advance))

    def chooseCheckpoint(self) -> None:
        """Ask for an official checkpoint, or a zip that nnU-Net exports, and turn it into a package."""
        types = _("Checkpoints (*.pth *.pt *.model *.zip)")
        self.importCheckpoint(
            qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Official checkpoint"), "", types)
        )

    def chooseNnunetFolder(self) -> None:
        """Ask for a folder with folds and turn them into a package."""
        title = _("Folder with fold_0 to fold_4, or one of these")
        self.importCheckpoint(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title))

    def importCheckpoint(self, path: str) -> None:
        """Turn a checkpoint into an installed package; where there are several it is asked which one."""
        if not path:
            return
        try:
            models = find_models(Path(path))
        except InputError as error:
            self._log(str(error))
            showError(str(error))
            return
        self._closeChoice()
        if hasToBeAsked(models):
            self.choice = NnunetChoice(models, lambda title, folds: self._import(path, title, folds))
            self.choice.ask()
        else:
            self._import(path)

    def stop(self) -> None:
        """Give up what is under way; nothing is left of a package that is not complete yet."""
        self._timer.stop()
        self._closeChoice()
        if self._work is not None:
            self._work.whenStopped()
            self._work.thread.isDone(_END_SECONDS)
            self._work = None
        self._closeProgress()

    def _cancel(self) -> None:
        """Give up what is under way because the user says so; it ends as soon as it can."""
        if self._work is not None:
            self._log(_("Cancelling…"))
            self._work.whenStopped()

    def _closeProgress(self) -> None:
        if self.progress is not None:
            self.progress.close()
            self.progress = None

    def _closeChoice(self) -> None:
        if self.choice is not None:
            self.choice.close()
            self.choice = None

    def deleteCurrent(self) -> None:
        """Delete the chosen model, after asking."""
        name = self._currentModel()
        question = _("Delete the model {name} from this computer?").format(name=name)
        if not confirm(question):
            return
        try:
            delete_package(name)
        except InputError as error:
            showError(str(error))
        self._onChanged()

    def chooseModelFolder(self) -> None:
        """Ask for the folder in which models are kept, for computers whose home folder is not writable."""
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Folder of models"), str(model_folders()[0])
        )
        if folder:
            qt.QSettings().setValue(FOLDER_SETTING, folder)
            useStoredFolder()
            self._onChanged()

    def _installIfChosen(self, path: str) -> None:
        if path:
            self.install(path)

    def _import(
        self, path: str, configuration: str | None = None, folds: Sequence[str] = (), replace: bool = False
    ) -> None:
        """Import in the background."""
        child = _Import(path, configuration, folds, replace)
        text = _("Importing {path}…").format(path=path)
        again = partial(self._import, path, configuration, folds, replace=True)
        self._start(_Work(text, BackgroundWork(child, "models"), again, child.stop, child.advance))

    def _start(self, work: _Work) -> None:
        if self._work is not None:
            showError(_("Another model is being installed; wait until it is ready."))
            return
        self._work = work
        self._log(work.text)
        self.progress = ProgressDialog(_("Models"), work.text, self._cancel)
        work.thread.start()
        self._timer.start()

    def _poll(self) -> None:
        work = self._work
        if work is None:
            return
        if not work.thread.isDone():
            if self.progress is not None:
                self.progress.setProgress(work.advance.done, work.advance.total)
            return
        self._timer.stop()
        self._work = None
        self._closeProgress()
        answer, error = work.thread.answer, work.thread.error
        if isinstance(error, Cancelled):
            self._log(_("Cancelled; nothing was installed."))
            return
        self._log(answer if error is None else str(error))
        if isinstance(error, AlreadyInstalledError):
            if confirm(str(error), _("Replace the model?")):
                work.whenReplacing()
        elif error is not None:
            showError(str(error))
        self._onChanged()


@dataclass(frozen=True)
class _Work:
    """What is under way.

    Attributes:
        text: what it is, for the user.
        thread: does it and answers with a sentence.
        whenReplacing: called when the user agrees to replace what is installed already.
        whenStopped: called when nobody waits for the answer any more.
        advance: how far it is.
    """

    text: str
    thread: BackgroundWork[str]
    whenReplacing: Callable[[], object]
    whenStopped: Callable[[], object]
    advance: _Advance


class _Advance:
    """How far an installation is, told by its thread; it ends when nobody waits for it any more.

    Attributes:
        done: bytes so far.
        total: bytes in all; 0 as long as that is not known.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._stopped = threading.Event()

    def __call__(self, done: int, total: int) -> None:
        """Note how far it is.

        Raises:
            Cancelled: nobody waits for it any more.
        """
        if self._stopped.is_set():
            raise Cancelled
        self.done, self.total = done, total

    def stop(self) -> None:
        self._stopped.set()

    @property
    def isStopped(self) -> bool:
        return self._stopped.is_set()


class _Import:
    """Imports a checkpoint in a child process: reading it needs torch, which we never load into Slicer."""

    def __init__(self, path: str, configuration: str | None, folds: Sequence[str], replace: bool) -> None:
        choice = [] if configuration is None else ["--configuration", configuration]
        choice += [argument for fold in folds for argument in ("--fold", fold)]
        self._arguments = ["-m", "PartialSegLib", "import", "auto", path, *choice, "-o"]
        self._replace = replace
        self._process: subprocess.Popen[bytes] | None = None
        self.advance = _Advance()

    def __call__(self) -> str:
        with tempfile.TemporaryDirectory(prefix="PartialSeg-", ignore_cleanup_errors=True) as folder:
            package = Path(folder) / "package"
            self._runChild(package, folder)
            installed = install_package(package, replace=self._replace, on_progress=self.advance)
        count = read_manifest(installed).network.members
        cost = _(" It holds {count} networks and takes {count} times as long as one.").format(count=count)
        return _("Installed in {folder}.").format(folder=installed) + (cost if count > 1 else "")

    def stop(self) -> None:
        self.advance.stop()
        if self._process is not None:
            killTree(self._process)

    def _runChild(self, package: Path, scratch: str) -> None:
        options = childOptions()
        options["env"]["TMPDIR"] = scratch  # what a killed child unpacked there is removed
        with subprocess.Popen(
            [pythonProgram(), *self._arguments, str(package)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **options,
        ) as self._process:
            if self.advance.isStopped:
                killTree(self._process)
            lines = self._process.communicate()[1].decode("utf-8", "replace").splitlines()
        if self.advance.isStopped:
            raise Cancelled
        if wasKilled(self._process.returncode, lines):
            raise InputError(
                _("The import has ended unexpectedly; was there too little memory? Close programs first.")
            )
        if self._process.returncode != 0:
            raise InputError(lastWords(lines) or _("The import failed."))
