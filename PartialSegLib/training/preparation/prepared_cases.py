"""A folder with the preprocessed cases of a collection: filled once, what is there already is kept.

Cases of other settings lie in folders of their own (`settings_folder`), as do cases of one name and other
files (`_folder_of`), which pseudo-labels make. Several processes, on several computers, may fill and read a
folder at the same time.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final

import SimpleITK
import torch

from ...errors import InputError
from ...files.json_fields import to_json
from ...files.output_files import nearest_existing, replacing
from ...manifest import Preprocessing
from ..collection import Case, Collection
from ..collection.case_images import CaseImage, case_image, file_stamps
from .case_store import PreparedCase, check_place, is_prepared, read_case, remove_leftovers
from .channels import check_channels
from .preparing import LabelRule, prepare_case

STORE_VERSION: Final = 3
SLICE_THICKNESS: Final = "0018|0050"  # DICOM
BYTES_PER_VOXEL: Final = 1.5  # a channel and labels compressed; 3 without compression

SETTINGS_FILE: Final = "settings.json"

_MOST_PROCESSES: Final = 61 if sys.platform == "win32" else sys.maxsize  # Windows waits for no more at once

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A case that is still to be prepared: the arguments of `prepare_case`."""

    folder: Path
    image: CaseImage
    label: Path
    preprocessing: Preprocessing
    rule: LabelRule
    settings: str

    def run(self) -> None:
        """Prepare the case, unless another process has done so meanwhile."""
        if not is_prepared(self.folder, self.settings):
            check_place(self.folder)
            prepare_case(self.folder, self.image, self.label, self.preprocessing, self.rule, self.settings)


def settings_folder(folder: Path, preprocessing: Preprocessing, rule: LabelRule = "linear") -> Path:
    """Where below a folder of prepared cases those made with some settings lie; see its `settings.json`."""
    return folder / _hash(_settings(preprocessing, rule))[:8]


def prepare_collection(
    collection: Collection,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    rule: LabelRule = "linear",
    processes: int = 1,
    on_progress: Progress | None = None,
) -> None:
    """Preprocess the labelled training and validation cases of a collection, each into a folder of its own.

    Cases that are there are kept, unless image, label map or settings have changed since. So an interrupted
    preparation goes on where it was. A prepared case whose image or label map is absent is kept as well.

    Args:
        collection: whose cases.
        preprocessing: of the model.
        folder: of the cases prepared with these settings, see `settings_folder`.
        rule: how label maps are resampled, see `preparing.resample_labels`.
        processes: that work at the same time; each holds one case in memory.
        on_progress: called with the numbers of finished and of all cases; what it raises ends it all.

    Raises:
        InputError: a case cannot be used, a data set lacks a channel of the model, the folder cannot be
            written to, or its disk is too small.
    """
    cases = labelled_cases(collection)
    jobs = [job for case in cases if (job := _missing(collection, case, preprocessing, folder, rule))]
    if absent := [case.name for case in cases if _is_absent(collection, case)]:
        logger.warning(
            "%d of %d cases, such as %s, are taken as they were prepared: their images or label maps are "
            "not there.", len(absent), len(cases), absent[0],
        )  # fmt: skip
    if jobs:
        _check_disk(folder, jobs)
        remove_leftovers(folder)
        _write_settings(folder, preprocessing, rule)
    report = on_progress or (lambda done, total: None)
    done = len(cases) - len(jobs)
    report(done, len(cases))
    with closing(_run(jobs, processes)) as finished:
        for _ in finished:
            done += 1
            report(done, len(cases))


def prepared_images(
    collection: Collection, preprocessing: Preprocessing, folder: Path, *, rule: LabelRule = "linear"
) -> dict[str, str]:
    """The cases that `prepare_collection` would keep, by name, each with its `image_content`."""
    cases = labelled_cases(collection)
    kept = [case for case in cases if _missing(collection, case, preprocessing, folder, rule) is None]
    return {case.name: find_case(folder, collection, case).summary.image_content for case in kept}


def labelled_cases(collection: Collection, *splits: str) -> list[Case]:
    """The cases of some splits (training and validation if none is named) that have labels."""
    wanted = splits or ("training", "validation")
    return [case for case in collection.cases if case.label is not None and case.split in wanted]


def find_case(folder: Path, collection: Collection, case: Case) -> PreparedCase:
    """A case of a collection that has been prepared.

    Raises:
        InputError: it has not.
    """
    prepared = read_case(_folder_of(folder, collection, case))
    if prepared is None:
        raise InputError(f"The case {case.name} is not prepared in {folder}; prepare the collection first.")
    return prepared


def predicted_bytes(jobs: Sequence[Job]) -> int:
    """Disk that cases will take, from the extent of their images: 1.5 bytes for each voxel of a channel.

    Images of a chest and an abdomen took 0.4 to 1.4 bytes, depending on clipping, spacing and noise.
    """
    return sum(
        int(
            len(job.preprocessing.image_channels)
            * BYTES_PER_VOXEL
            * _volume_mm3(job.image.paths[0])
            / prod(job.preprocessing.spacing)
        )
        for job in jobs
    )


def _missing(
    collection: Collection, case: Case, preprocessing: Preprocessing, folder: Path, rule: LabelRule
) -> Job | None:
    """What there is to do for a case; None if it is prepared with these settings."""
    assert case.label is not None
    check_channels(collection.data_sets[case.data_set], preprocessing.image_channels)
    image, label = case_image(collection, case), collection.path(case.label)
    made_by = {
        **_settings(preprocessing, rule),
        "channels": image.channels,
        "files": [path.parts[-2:] for path in (*image.paths, label)],
    }
    place = _folder_of(folder, collection, case)
    prepared = read_case(place)
    there = "" if prepared is None else prepared.summary.settings
    if there.startswith(_hash(made_by)) and _is_absent(collection, case):
        return None
    settings = f"{_hash(made_by)}-{_hash_of_files((*image.paths, label), case)}"
    return None if there == settings else Job(place, image, label, preprocessing, rule, settings)


def _settings(preprocessing: Preprocessing, rule: LabelRule) -> dict[str, Any]:
    """What the cases of a folder have in common."""
    return {"version": STORE_VERSION, "preprocessing": to_json(preprocessing), "label_resampling": rule}


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _write_settings(folder: Path, preprocessing: Preprocessing, rule: LabelRule) -> None:
    """Say beside the cases how they were made."""
    with replacing(folder / SETTINGS_FILE) as temporary:
        text = json.dumps(_settings(preprocessing, rule), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def _is_absent(collection: Collection, case: Case) -> bool:
    """Whether any of the files is missing that a case is made from."""
    return not all(collection.path(path).exists() for path in (*case.images, case.label or ""))


def _folder_of(folder: Path, collection: Collection, case: Case) -> Path:
    """Where a case lies: its name, and eight digits of where its files are.

    Else a collection would get the labels that another one has for a case of this name. Files that are absent
    or have been moved are known by the only prepared case of this name that may be theirs.

    Raises:
        InputError: the name is no file name.
    """
    if Path(case.name).name != case.name or case.name in (".", ".."):
        raise InputError(f"The case name {case.name!r} is no file name; leave out '/' and the like.")
    files = [collection.path(path) for path in (*case.images, case.label or "")]
    own = folder / f"{case.name}-{_hash([str(path.resolve()) for path in files])[:8]}"
    if own.exists():
        return own
    others = [read_case(path) for path in folder.glob(f"{glob.escape(case.name)}-{'[0-9a-f]' * 8}")]
    if not _is_absent(collection, case):
        made_from = _hash_of_files(files, case)
        others = [other for other in others if other and other.summary.settings.endswith(made_from)]
    return others[0].folder if len(others) == 1 and others[0] else own


def _hash_of_files(files: Sequence[Path], case: Case) -> str:
    return _hash([stamp for path in files for stamp in _stamps(path, case)])


def _stamps(path: Path, case: Case) -> list[tuple[str, int, int]]:
    try:
        return file_stamps(path)
    except OSError as error:
        raise InputError(
            f"{path} of the case {case.name} cannot be read ({error.strerror}); check the collection's paths."
        ) from None


def _check_disk(folder: Path, jobs: Sequence[Job]) -> None:
    needed, free = predicted_bytes(jobs), shutil.disk_usage(nearest_existing(folder)).free
    if needed > free:
        raise InputError(
            f"Preparing {len(jobs)} cases takes about {needed / 1e9:.1f} GB, but {folder} has "
            f"{free / 1e9:.1f} GB free; free some space or choose another folder."
        )


def _volume_mm3(image: Path) -> float:
    """Extent of an image from its header, of a DICOM folder from its first file; 0 if that cannot be read."""
    files = sorted(image.iterdir()) if image.is_dir() else [image]
    reader = SimpleITK.ImageFileReader()
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.SetFileName(str(files[0]))
        reader.ReadImageInformation()
        extent = prod(reader.GetSize()[:3]) * prod(reader.GetSpacing()[:3])
        is_slice = reader.HasMetaDataKey(SLICE_THICKNESS)
        return len(files) * extent * (float(reader.GetMetaData(SLICE_THICKNESS)) if is_slice else 1)
    except (RuntimeError, IndexError, ValueError):  # reading it in earnest will say why
        return 0.0
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def _begin_process() -> None:
    """Let a process that prepares cases compute in one thread, and end with the process that started it."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool whose process was killed waits for further jobs for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(jobs: Sequence[Job], processes: int) -> Generator[None]:
    """Run jobs, yielding after each; closing the iterator drops those that have not begun."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            job.run()
            yield
        return
    count = min(processes, len(jobs), _MOST_PROCESSES)
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_process)
    try:
        for future in as_completed([pool.submit(job.run) for job in jobs]):
            future.result()
            yield
    except BrokenProcessPool:
        raise InputError(
            "A process that prepared a case was ended, probably for want of memory; use fewer processes."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
