"""A folder with the preprocessed cases of a collection: filled once, what is there already is kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import SimpleITK
import torch

from ...errors import InputError
from ...json_fields import to_json
from ...manifest import Preprocessing
from ..case_images import CaseImage, case_image
from ..collection import Case, Collection
from .case_store import PreparedCase, read_case, remove_case
from .channels import check_channels
from .preparing import LabelRule, prepare_case

STORE_VERSION: Final = 2
SLICE_THICKNESS: Final = "0018|0050"  # DICOM
BYTES_PER_VOXEL: Final = 1.5  # a channel and labels compressed; 3 without compression

Progress = Callable[[int, int], None]


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
        """Prepare the case; what is left of an earlier attempt goes first."""
        for leftover in self.folder.parent.glob(".*.partial-*"):
            if leftover.name.endswith(f".partial-{self.folder.name}"):
                shutil.rmtree(leftover, ignore_errors=True)
        remove_case(self.folder)
        prepare_case(self.folder, self.image, self.label, self.preprocessing, self.rule, self.settings)


def prepare_collection(
    collection: Collection,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    rule: LabelRule = "linear",
    processes: int = 1,
    on_progress: Progress | None = None,
) -> None:
    """Preprocess the labelled training and validation cases of a collection, each into a folder of its name.

    Cases that are there are kept, unless image, label map or settings have changed since. So an interrupted
    preparation goes on where it was.

    Args:
        collection: whose cases.
        preprocessing: of the model.
        folder: of the prepared cases.
        rule: how label maps are resampled, see `preparing.resample_labels`.
        processes: that work at the same time; each holds one case in memory.
        on_progress: called with the numbers of finished and of all cases; what it raises ends it all.

    Raises:
        InputError: a case cannot be used, a data set lacks a channel of the model, the folder cannot be
            written to, or its disk is too small.
    """
    cases = labelled_cases(collection)
    jobs = [job for case in cases if (job := _missing(collection, case, preprocessing, folder, rule))]
    _check_disk(folder, jobs)
    report = on_progress or (lambda done, total: None)
    done = len(cases) - len(jobs)
    report(done, len(cases))
    with closing(_run(jobs, processes)) as finished:
        for _ in finished:
            done += 1
            report(done, len(cases))


def unprepared_cases(
    collection: Collection, preprocessing: Preprocessing, folder: Path, *, rule: LabelRule = "linear"
) -> tuple[Case, ...]:
    """The cases that `prepare_collection` would preprocess."""
    cases = labelled_cases(collection)
    return tuple(case for case in cases if _missing(collection, case, preprocessing, folder, rule))


def labelled_cases(collection: Collection, *splits: str) -> list[Case]:
    """The cases of some splits (training and validation if none is named) that have labels."""
    wanted = splits or ("training", "validation")
    return [case for case in collection.cases if case.label is not None and case.split in wanted]


def find_case(folder: Path, case: Case) -> PreparedCase:
    """A case that has been prepared.

    Raises:
        InputError: it has not.
    """
    prepared = read_case(_folder_of(folder, case))
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
    made_from = {
        "version": STORE_VERSION,
        "preprocessing": to_json(preprocessing),
        "rule": rule,
        "image": [stamp for path in image.paths for stamp in _stamps(path, case)],
        "channels": image.channels,
        "label": _stamps(label, case),
    }
    settings = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    place = _folder_of(folder, case)
    prepared = read_case(place)
    if prepared is not None and prepared.summary.settings == settings:
        return None
    return Job(place, image, label, preprocessing, rule, settings)


def _folder_of(folder: Path, case: Case) -> Path:
    if Path(case.name).name != case.name or case.name in (".", ".."):
        raise InputError(f"The case name {case.name!r} is no file name; leave out '/' and the like.")
    return folder / case.name


def _stamps(path: Path, case: Case) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all files in a folder."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    except OSError as error:
        raise InputError(
            f"{path} of the case {case.name} cannot be read ({error.strerror}); check the collection's paths."
        ) from None


def _check_disk(folder: Path, jobs: Sequence[Job]) -> None:
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    needed, free = predicted_bytes(jobs), shutil.disk_usage(existing).free
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


def _run(jobs: Sequence[Job], processes: int) -> Generator[None]:
    """Run jobs, yielding after each; closing the iterator drops those that have not begun."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            job.run()
            yield
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
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
