"""The section of the panel for many image files; it has a worker of its own, so the rest stays usable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.batch.cases import BatchCase, Outcome
from PartialSegLib.batch.request import OUTPUT_FORMATS
from PartialSegLib.batch.running import Batch
from PartialSegLib.errors import InputError
from PartialSegLib.failures import is_fault_of_ours, sentence

from ..batchRun import BatchListener, BatchRun, makeBatch, summarySentence
from ..worker.backgroundWork import HAND_OVER_SECONDS, BackgroundWork
from ..worker.temporaryFolder import startWorker
from ..worker.workerClient import WorkerClient
from .messages import showError

POLL_MILLISECONDS = 50
_FIRST_WAIT_SECONDS = 0.3  # folders of this computer are read by then

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchChoice:
    """What the rest of the panel has chosen.

    Attributes:
        model: parameters of the worker's `load_model`.
        tasks: the ticked tasks; never empty.
        structures: those that are wanted of them, as "task/structure".
    """

    model: dict[str, Any]
    tasks: list[str]
    structures: list[str]


class BatchSection:
    """Connects the widgets of the section.

    Args:
        ui: the widgets of PartialSeg.ui by name.
        choice: what is chosen in the panel; raises InputError with what is missing.
        log: called with lines to show.
    """

    def __init__(self, ui: Any, choice: Callable[[], BatchChoice], log: Callable[[str], object]) -> None:
        self.ui = ui
        self.client = WorkerClient(startWorker, log)
        self._choice = choice
        self._log = log
        self._run: BatchRun | None = None
        self._search: _Search | None = None
        self._casesDone = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)
        labels = {"folder": _("Folder of masks"), ".dcm": _(".dcm (DICOM segmentation)")}
        for outputFormat in OUTPUT_FORMATS:
            ui.batchFormatComboBox.addItem(labels.get(outputFormat, outputFormat), outputFormat)
        ui.batchProgressBar.visible = False
        for button, slot in (
            (ui.batchFilesButton, self.chooseFiles),
            (ui.batchFolderButton, self.chooseFolder),
            (ui.batchOutputButton, self.chooseOutput),
            (ui.batchButton, self.onButton),
        ):
            button.connect("clicked(bool)", lambda checked=False, slot=slot: slot())

    @property
    def isRunning(self) -> bool:
        """Whether files are being looked for or segmented."""
        return self._run is not None or self._search is not None

    def chooseFiles(self) -> None:
        """Ask for image files and add them to the list."""
        window, filters = slicer.util.mainWindow(), _("Images (*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd)")
        for path in qt.QFileDialog.getOpenFileNames(window, _("CT images"), "", filters):
            self.ui.batchPathsEdit.appendPlainText(path)

    def chooseFolder(self) -> None:
        """Ask for a folder of images or DICOM series and add it to the list."""
        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of CT images"))
        if path:
            self.ui.batchPathsEdit.appendPlainText(path)

    def chooseOutput(self) -> None:
        """Ask where the segmentations go."""
        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the results"))
        if path:
            self.ui.batchOutputEdit.text = path

    def onButton(self) -> None:
        """Begin, or cancel what is running."""
        if self._run is not None:
            self._run.cancel()
            self.ui.batchButton.enabled = False
            self.ui.batchStatusLabel.text = _("Cancelling…")
        elif self._search is not None:
            self._showIdle()
        else:
            self._start()

    def stop(self) -> None:
        """End the run and its worker at once; finished files stay."""
        if self._run is not None:
            self._run.stop()
        if self.isRunning:
            self._showIdle()

    def _start(self) -> None:
        """Begin to look for the images; a network drive may take its time, and Slicer stays usable."""
        try:
            self._search = self._makeSearch()
        except InputError as error:
            self._showError(error)
            return
        self.ui.batchButton.text = _("Cancel")
        self.ui.batchStatusLabel.text = _("Looking for images…")
        self._search.thread.start()
        self._timer.start()
        self._pollSearch(_FIRST_WAIT_SECONDS)

    def _makeSearch(self) -> _Search:
        """The search for what is chosen.

        Raises:
            InputError: something is missing.
        """
        choice = self._choice()
        paths = [_unquoted(line) for line in self.ui.batchPathsEdit.toPlainText().splitlines()]
        output = _unquoted(self.ui.batchOutputEdit.text)
        if not output:
            raise InputError(_("Choose a folder for the results."))
        outputFormat = self.ui.batchFormatComboBox.currentData
        inputs = [Path(path) for path in paths if path]
        request = choice.tasks, choice.structures, choice.model, outputFormat
        return _Search(choice, BackgroundWork(lambda: makeBatch(inputs, output, *request), "search"))

    def _pollSearch(self, waitSeconds: float = HAND_OVER_SECONDS) -> None:
        """Go on with what has been found, if the search is at its end."""
        search = self._search
        assert search is not None
        if not search.thread.isDone(waitSeconds):
            return
        self._showIdle()
        error, batch = search.thread.error, search.thread.answer
        if error is not None:
            self._showError(error)
        else:
            assert batch is not None
            self._startRun(batch, search.choice)

    def _startRun(self, batch: Batch, choice: BatchChoice) -> None:
        listener = BatchListener(self._onCase, self._onProgress, self._onWarning, self._onFinished)
        self._run = BatchRun(batch, choice.model, listener, client=self.client)
        self._casesDone = 0
        self.ui.batchButton.text = _("Cancel")
        self.ui.batchProgressBar.setRange(0, max(1, len(batch.left)))
        self.ui.batchProgressBar.value = 0
        self.ui.batchProgressBar.visible = True
        self.ui.batchStatusLabel.text = _("{left} of {total} images are left to do.").format(
            left=len(batch.left), total=len(batch.cases)
        )
        self._timer.start()
        self._run.start()

    def _poll(self) -> None:
        if self._run is not None:
            self._run.poll()
        elif self._search is not None:
            self._pollSearch()

    def _showError(self, error: Exception) -> None:
        if is_fault_of_ours(error):
            logger.error("Looking for images has failed.", exc_info=error)
        self.ui.batchStatusLabel.text = sentence(error)
        showError(sentence(error))

    def _onCase(self, case: BatchCase, outcome: Outcome, done: int, total: int) -> None:
        self._casesDone = done
        self.ui.batchProgressBar.value = done
        end = outcome.error or _("{seconds} s").format(seconds=round(outcome.seconds, 1))
        self.ui.batchStatusLabel.text = f"{done} / {total}: {case.name}, {end}"
        self._log(self.ui.batchStatusLabel.text)

    def _onProgress(self, done: int, total: int) -> None:
        self.ui.batchStatusLabel.text = _("Image {image}: patch {done} of {total}").format(
            image=self._casesDone + 1, done=done, total=total
        )

    def _onWarning(self, sentence: str) -> None:
        self._log(sentence)

    def _onFinished(self, sentence: str) -> None:
        assert self._run is not None
        text = f"{sentence} {summarySentence(self._run.batch)}".strip()
        self._showIdle()
        self.ui.batchStatusLabel.text = text
        self._log(text)

    def _showIdle(self) -> None:
        self._timer.stop()
        self._run = self._search = None
        self.ui.batchButton.text = _("Segment these files")
        self.ui.batchButton.enabled = True
        self.ui.batchProgressBar.visible = False
        self.ui.batchStatusLabel.text = ""


@dataclass(frozen=True)
class _Search:
    """A search for images, and what was chosen in the panel when it began."""

    choice: BatchChoice
    thread: BackgroundWork[Batch]


def _unquoted(text: str) -> str:
    """A path without the quotation marks in which file managers copy it; they drop it as a URL."""
    text = text.strip()
    if text.startswith("file:"):
        return str(qt.QUrl(text).toLocalFile())
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
