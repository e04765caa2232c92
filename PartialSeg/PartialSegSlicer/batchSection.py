"""The section of the panel for many image files; it has a worker of its own, so the rest stays usable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PartialSegLib.batch import OUTPUT_FORMATS, BatchCase, Outcome
from PartialSegLib.errors import InputError

from .batchRun import BatchListener, BatchRun, makeBatch, summarySentence
from .workerClient import WorkerClient

POLL_MILLISECONDS = 50


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
        self.client = WorkerClient(onLog=log)
        self._choice = choice
        self._log = log
        self._run: BatchRun | None = None
        self._casesDone = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)
        for outputFormat in OUTPUT_FORMATS:
            label = _("Folder of masks") if outputFormat == "folder" else outputFormat
            ui.batchFormatComboBox.addItem(label, outputFormat)
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
        """Whether files are being segmented."""
        return self._run is not None

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
            return
        try:
            self._start()
        except InputError as error:
            self.ui.batchStatusLabel.text = str(error)
            slicer.util.errorDisplay(str(error))

    def stop(self) -> None:
        """End the run and its worker at once; finished files stay."""
        if self._run is not None:
            self._run.stop()
            self._showIdle()

    def _start(self) -> None:
        """Begin a batch.

        Raises:
            InputError: something is missing or cannot be used.
        """
        choice = self._choice()
        lines = [line.strip() for line in self.ui.batchPathsEdit.toPlainText().splitlines()]
        output = self.ui.batchOutputEdit.text.strip()
        if not output:
            raise InputError(_("Choose a folder for the results."))
        batch = makeBatch(
            [Path(line) for line in lines if line],
            output,
            choice.tasks,
            choice.structures,
            choice.model,
            self.ui.batchFormatComboBox.currentData,
        )
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
        self._run = None
        self.ui.batchButton.text = _("Segment these files")
        self.ui.batchButton.enabled = True
        self.ui.batchProgressBar.visible = False
        self.ui.batchStatusLabel.text = ""
