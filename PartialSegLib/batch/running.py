"""Many images, one segmentation file each: what is left to do, and what became of the others.

The output folder keeps the state: `summary.csv` with a row for each case that was tried or is being written,
and `batch.json` with what was asked for. A batch that was stopped goes on where it stopped; failed cases are
tried again. Several runs may share the folder, each with cases of its own: a name that one run has given to
an image is refused to another image.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded, folded
from ..files.output_files import explained_writing_errors, locked, replacing
from ..segmentation_files.label_tables import is_table, table_path
from ..sentences import first_few
from .cases import BatchCase, Outcome, make_cases
from .images import SUMMARY_FILE, find_images
from .outputs import EARLIER_RESULTS, NUM_LISTED, earlier_results, is_there, refuse_files_of_others
from .request import BatchRequest
from .summary import (
    DONE,
    FAILED,
    WRITING,
    Row,
    Rows,
    finished_row,
    is_summary,
    read_rows,
    row_of,
    version_of,
    write_rows,
)

REQUEST_FILE = "batch.json"
LOCK_FILE = ".summary.lock"

logger = logging.getLogger(__name__)


class Batch:
    """The cases of an output folder.

    Args:
        inputs: image files, folders with image files, and folders with DICOM series at any depth.
        folder: where the segmentations go; made when the first case is recorded.
        request: what is asked of every case.
        overwrite: forget what the folder holds and begin anew; results of the earlier batch that are not
            replaced stay, and the log says so.
        any_modality: whether DICOM folders with other images than CT are cases, too.
        pictures: whether there shall be a picture of each case beside its segmentation.

    Attributes:
        cases: all of them.
        left: those that were still to be done when this was made.

    Raises:
        InputError: an input does not exist or holds no image, or no DICOM images where the output shall refer
            to them, an output would replace an input or a file that
            no batch has written, the folder holds the results of another request, or a case there has the
            name of a case here, but another image, which still exists.
    """

    def __init__(
        self,
        inputs: Iterable[str | Path],
        folder: str | Path,
        request: BatchRequest,
        overwrite: bool = False,
        any_modality: bool = False,
        pictures: bool = False,
    ) -> None:
        self._has_pictures = pictures
        self.folder = expanded(folder).absolute()
        self.request = request
        self.cases = make_cases(find_images(inputs, any_modality), self.folder, request.output_format)
        if request.output_format == ".dcm":
            self._refuse_sources_without_dicom()
        self._earlier = earlier_results(self.folder, self.folder / REQUEST_FILE)
        self._forgotten = version_of(self.summary) if overwrite else None
        self._rows: Rows = {}
        self._unwritten: Rows = {}
        if overwrite:
            self._warn_of_earlier_results()
        elif self.folder.is_dir():
            with locked(self.folder / LOCK_FILE):
                self._rows = self._read_rows()
            self._refuse_taken_names({case.name: str(case.image) for case in self.cases})
            self._refuse_files_of_others()
        self.left = [case for case in self.cases if not self._is_done(case)]
        self._warn_of_newer_images()

    @property
    def summary(self) -> Path:
        """The table of the cases."""
        return self.folder / SUMMARY_FILE

    @property
    def done(self) -> list[BatchCase]:
        """The cases that are finished."""
        return [case for case in self.cases if self._is_done(case)]

    @property
    def failed(self) -> dict[str, str]:
        """Why cases failed, by name."""
        rows = {case.name: self._rows[case.name] for case in self.cases if case.name in self._rows}
        return {name: row["message"] for name, row in rows.items() if row["status"] == FAILED}

    def picture(self, case: BatchCase) -> Path:
        """Where the picture of a case goes: CASE.png."""
        return self.folder / f"{case.name}.png"

    def target(self, case: BatchCase) -> str:
        """Where `write_segmentation` shall put a case; a folder ends with "/", whatever its name."""
        return f"{case.output}/" if self.request.output_format == "folder" else str(case.output)

    def begin(self, case: BatchCase) -> None:
        """Take the name of a case right before its segmentation is written; its row then says so.

        Raises:
            InputError: another run has given this name to another image; otherwise as for `record`.
        """
        self._add_row(row_of(case, WRITING))

    def withdraw(self, case: BatchCase) -> None:
        """Take back what `begin` wrote down of a case that came to nothing.

        A folder of which nothing else is written down is free for other tasks and options again.

        Raises:
            InputError: the folder cannot be written to.
        """
        self._unwritten.pop(case.name, None)
        with locked(self.folder / LOCK_FILE), explained_writing_errors(self.summary):
            rows = self._read_rows(otherwise=self._rows)
            row = rows.get(case.name, {})
            if (row.get("status"), row.get("image")) != (WRITING, str(case.image)):
                return
            del rows[case.name]
            self._rows = rows
            if rows or self._earlier:
                self._write_rows()
                self._write_request()
                return
            for file in (self.summary, self.folder / REQUEST_FILE):
                file.unlink(missing_ok=True)

    def record(self, case: BatchCase, outcome: Outcome) -> None:
        """Write down what became of a case; the summary is replaced in one stroke, rows of other runs stay.

        Where another program has the summary open, the log says so once, and the row is written with the next
        one or by `finish`.

        Raises:
            InputError: the folder cannot be written to, another batch has begun there, or another run has
                given the name of this case to another image.
        """
        self._add_row(finished_row(case, outcome, self.request.keys))

    def _add_row(self, row: Row) -> None:
        was_written = not self._unwritten
        self._unwritten[row["case"]] = row
        try:
            self._update_summary()
        except InputError as error:
            if not isinstance(error.__cause__, PermissionError) or not os.access(self.folder, os.W_OK):
                del self._unwritten[row["case"]]
                raise
            if was_written:
                logger.warning("%s It is tried again after the next case.", error)

    def finish(self) -> None:
        """Write what `record` could not, and warn of old results of failed cases; when no case follows.

        Raises:
            InputError: the summary still cannot be written; the segmentations stay.
        """
        try:
            if self._unwritten:
                self._update_summary()
        except InputError as error:
            raise InputError(
                f"{len(self._unwritten)} finished cases are not in the summary. {error} Their segmentations "
                f"are there; close what has {self.summary.name} open before the batch is started again."
            ) from error
        self._warn_of_old_results()

    def _update_summary(self) -> None:
        """Write all rows, and what was asked for where that is not there."""
        with locked(self.folder / LOCK_FILE):
            if self._forgotten is None or self._forgotten != version_of(self.summary):
                self._rows = self._rows | self._read_rows(otherwise=self._rows)
            self._refuse_taken_names({name: row["image"] for name, row in self._unwritten.items()})
            is_first = self._rows.keys() <= self._unwritten.keys()
            self._rows |= self._unwritten
            self._write_rows()
            if is_first or not (self.folder / REQUEST_FILE).exists():
                self._forgotten = version_of(self.summary)  # until the request stands beside it
                self._write_request()
            self._forgotten = None
            self._unwritten.clear()

    def _warn_of_newer_images(self) -> None:
        """Name images that have changed since they were segmented; nobody knows whether that matters."""
        newer = [case.name for case in self.done if _is_newer(case.image, case.output)]
        if newer:
            logger.warning(
                "Newer than their segmentations, which stay all the same, are the images of %s; remove those "
                "segmentations that are to be made anew.",
                first_few(newer, NUM_LISTED),
            )  # fmt: skip

    def _warn_of_old_results(self) -> None:
        """Name results that lie where those of failed or unfinished cases should."""
        old = [case.output.name for case in self.left if not self._is_done(case) and is_there(case.output)]
        if old:
            logger.warning(
                "%s: results of an earlier batch stay where cases failed or were not reached: %s. "
                "`partialseg evaluate` reads them, too; move them away if they are not wanted.",
                self.folder, first_few(old, NUM_LISTED),
            )  # fmt: skip

    def _refuse_files_of_others(self) -> None:
        """Refuse to replace what no batch has written down."""
        known = set(map(folded, self._rows))
        cases = [case for case in self.cases if folded(case.name) not in known]
        unknown = [case.output for case in cases]
        if self._has_pictures:
            refuse_files_of_others(self.picture(case) for case in cases)
        refuse_files_of_others([output for output in unknown if output.name not in self._earlier])
        if self.request.output_format == ".nii.gz":
            tables = [table_path(output) for output in unknown]
            refuse_files_of_others([table for table in tables if table.exists() and not is_table(table)])

    def _warn_of_earlier_results(self) -> None:
        names = sorted(self._earlier - {case.output.name for case in self.cases})
        if names:
            logger.warning(
                "%d results of the earlier batch stay in %s, %s first. `partialseg evaluate` reads them, "
                "too; move them away if they are not wanted.",
                len(names), self.folder, names[0],
            )  # fmt: skip

    def _refuse_sources_without_dicom(self) -> None:
        """Refuse cases to which no DICOM segmentation could refer."""
        files = [str(case.image) for case in self.cases if not case.image.is_dir()]
        if files:
            raise InputError(
                "DICOM segmentations are for folders with DICOM images; choose another format, or leave out "
                f"{first_few(files, NUM_LISTED)}."
            )

    def _refuse_taken_names(self, images: Mapping[str, str]) -> None:
        """Refuse names that rows of the summary give to other images, which are still there.

        Args:
            images: by the names of their cases; names that differ in case only are one file on some systems.
        """
        rows = {folded(name): row for name, row in self._rows.items()}
        for name, image in images.items():
            earlier = (self._rows.get(name) or rows.get(folded(name), {})).get("image")
            if earlier and earlier != image and _is_other_image(earlier, image):
                raise InputError(
                    f"The case {name} in {self.folder} is {earlier}, and {image} would replace it; give both "
                    "images in one command, choose another folder, or begin anew (--overwrite)."
                )

    def _is_done(self, case: BatchCase) -> bool:
        row = self._rows.get(case.name)
        return (
            row is not None
            and row["status"] == DONE
            and os.path.normcase(row["image"]) == os.path.normcase(case.image)  # C: and c: on Windows
            and case.output.exists()
        )

    def _read_rows(self, otherwise: Rows | None = None) -> Rows:
        """Rows of earlier and other runs, or none; refuses those of another request.

        Args:
            otherwise: instead of a summary that cannot be read; None refuses it.
        """
        try:
            earlier = dict(json.loads((self.folder / REQUEST_FILE).read_text(encoding="utf-8")))
            rows = read_rows(self.summary)
            earlier.pop(EARLIER_RESULTS, None)
            others = self.request.differences(earlier)
        except FileNotFoundError:
            if otherwise is None:
                self._refuse_summary_of_others()
            return {}
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            if otherwise is not None:
                return otherwise
            raise InputError(
                f"The summary of an earlier batch in {self.folder} cannot be read ({error}); "
                "choose another folder or begin anew (--overwrite)."
            ) from None
        if others:
            raise InputError(
                f"{self.folder} holds the results of another batch (other {', '.join(others)}; see "
                f"{REQUEST_FILE}); choose another folder or begin anew (--overwrite)."
            )
        return rows

    def _refuse_summary_of_others(self) -> None:
        """Refuse to replace a table that no batch has written; that of a killed first run is one of ours."""
        if self.summary.exists() and not is_summary(self.summary):
            refuse_files_of_others([self.summary])

    def _write_rows(self) -> None:
        write_rows(self.summary, self._rows, self.request.keys)

    def _write_request(self) -> None:
        contents = self.request.to_json()
        if self._earlier:
            contents[EARLIER_RESULTS] = sorted(self._earlier)
        with replacing(self.folder / REQUEST_FILE) as path:
            path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _is_newer(image: Path, output: Path) -> bool:
    """Whether an image was written after its segmentation; a DICOM folder counts by the files in it."""
    try:
        files = image.iterdir() if image.is_dir() else [image]
        return max(file.stat().st_mtime for file in files) > output.stat().st_mtime
    except (OSError, ValueError):
        return False


def _is_other_image(earlier: str, image: str) -> bool:
    try:
        return not os.path.samefile(earlier, image)
    except OSError:  # the earlier one was moved
        return False
