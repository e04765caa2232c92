"""The commands `segment` and `demo`.

PyTorch is imported once the input has been read and found good, so that a mistake is answered at once.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..evaluation import dice
from ..files.output_files import nearest_existing
from ..masks.boxes import EMPTY_BOX
from ..overview.picture import check_drawing, write_overview
from ..packages.installed import BUNDLED_MODELS, manifests_in
from ..report import build_report, write_report
from ..segmentation import Key, Segmentation
from ..segmentation_files.dicom_seg import check_dicom_seg
from ..segmentation_files.formats import segmentation_suffix, write_segmentation
from ..segmentation_files.label_maps import check_table_is_free
from ..segmentation_files.label_tables import table_path
from ..segmentation_files.mask_folders import check_mask_folder
from ..structures import load_structures
from ..task_request import request_tasks
from ..volume import Volume, read_ct, write_volume
from .memory_check import MemoryCheck
from .terminal import progress_bar, write_line, write_table

if TYPE_CHECKING:
    from ..inference.region_selection import CoarsePass
    from ..session import InferenceSession

logger = logging.getLogger(__name__)

PHANTOM_SEED = 2026
FORCE_ADVICE = "add --force to segment it all the same"

Seconds = dict[str, float]


def segment(options: Namespace) -> None:
    """Segment a file or a DICOM folder; write the result, and a report and a picture when asked for."""
    _check_outputs(options)
    check_session_options(options)
    seconds: Seconds = {}
    with _timed(seconds, "read"):
        volume = _read_input(options)
    session = open_session(options, seconds)
    _check_masks(session, options)
    with _timed(seconds, "estimate_memory"):
        memory = MemoryCheck(session, volume, options)
    session.set_image(volume, check=False)
    drawn = volume if options.picture else None
    del volume  # the session needs its voxels no more
    segmentation = _predict(session, options, seconds)
    with _timed(seconds, "write"):
        given = {"any_modality": options.force, "series": options.series}
        write_segmentation(options.output, segmentation, options.input, **given)
    if drawn:
        with _timed(seconds, "draw"):
            write_overview(options.picture, drawn, segmentation, picture_title(options.input, session))
    if options.report:
        report = build_report(segmentation, seconds, str(options.input), memory.figures())
        write_report(options.report, report)
    _tell_outcome(options.output, segmentation)


def demo(options: Namespace) -> None:
    """Segment every task in a CT, or in a phantom when none is given, and show what was found."""
    folder: Path = options.output
    check_folder(folder)
    check_drawing()
    check_session_options(options)
    seconds: Seconds = {}
    if options.input:
        source, reference = str(options.input), None
        with _timed(seconds, "read"):
            volume = _read_input(options)
    else:
        source = f"phantom {PHANTOM_SEED}"
        volume, reference = _make_phantom(seconds)
    session = open_session(options, seconds)
    with _timed(seconds, "estimate_memory"):
        memory = MemoryCheck(session, volume, options)
    session.set_image(volume, check=False)
    segmentation = _predict(session, options, seconds)
    with _timed(seconds, "write"):
        write_segmentation(folder / "segmentation.seg.nrrd", segmentation)
        _remove_earlier(folder, options.input)
        if reference:
            write_volume(folder / "phantom.nii.gz", volume)
    with _timed(seconds, "draw"):
        write_overview(folder / "overview.png", volume, segmentation, picture_title(source, session))
    write_report(folder / "report.json", build_report(segmentation, seconds, source, memory.figures()))
    _write_summary(segmentation, reference)
    write_line(
        f"\n{sum(seconds.values()):.0f} s. Look at {folder / 'overview.png'}; all results are in {folder}."
    )


def check_session_options(options: Namespace) -> None:
    """Refuse options of a session that mean nothing together, before any work.

    Raises:
        InputError: there is an effort, but no coarse model.
    """
    if options.effort is not None and not options.region_from:
        raise InputError("--effort needs a coarse model to rely on; name it with --region-from.")
    if options.selection == "off" and (options.region_from or options.skip_air):
        logger.warning("--selection off looks at everything, so --region-from and --skip-air do nothing.")


def open_session(options: Namespace, seconds: Seconds) -> InferenceSession:
    """Load the model; features are not kept, since all tasks run in one pass over the patches.

    Args:
        options: of the command line: model, task, structure, device, engine, overlap, mirror, selection,
            skip_air, region_from, effort.
        seconds: gets the time that it took.

    Raises:
        InputError: unknown model, task or structure, or an effort that is not in [0, 1].
        DeviceError: the device is missing.
    """
    with _timed(seconds, "load_model"):
        from ..model import load_model
        from ..session import InferenceSession

        model = load_model(options.model or bundled_model())
        request_tasks(
            model.manifest, options.task, options.structure
        )  # refuses unknown names before the work starts
        return InferenceSession(
            model,
            options.device,
            cache_bytes=0,
            overlap=options.overlap,
            mirror=options.mirror,
            engine=options.engine,
            selection=options.selection,
            skip_air=options.skip_air,
            region_from=_coarse_pass(options) if options.region_from else None,
        )


def _coarse_pass(options: Namespace) -> CoarsePass:
    from ..inference.region_selection import CoarsePass
    from ..model import load_model

    effort = 1.0 if options.effort is None else options.effort
    return CoarsePass(load_model(options.region_from), effort=effort)


def bundled_model() -> Path:
    """The folder of the model that comes with PartialSeg.

    Raises:
        InputError: there is none.
    """
    for manifest in manifests_in(BUNDLED_MODELS):
        return manifest.parent
    raise InputError("This copy of PartialSeg has no bundled model; name one with --model.")


def given_names(names: list[str] | None) -> tuple[str, ...] | None:
    """What an option that can be repeated names; None where it was not given."""
    return tuple(names) if names else None


def _read_input(options: Namespace) -> Volume:
    return read_ct(options.input, is_forced=options.force, series=options.series, advice=FORCE_ADVICE)


def _predict(session: InferenceSession, options: Namespace, seconds: Seconds) -> Segmentation:
    with progress_bar() as show:
        segmentation = session.predict(options.task, show, structures=options.structure, roi=options.roi)
    seconds |= session.timings
    return segmentation


def _tell_outcome(output: Path, segmentation: Segmentation) -> None:
    """Tell a person where the segmentation is, and what was looked for and not found."""
    if not sys.stdout.isatty():
        return
    write_line(f"The segmentation is in {output}.")
    empty = [segmentation.display_name(key) for key in segmentation if not segmentation.voxel_count(key)]
    if empty:
        write_line(f"Nothing found of: {', '.join(empty)}.")


def _remove_earlier(folder: Path, image: Path | None) -> None:
    """Remove what an earlier demo has left beside the segmentation that is replaced now."""
    for file in (folder / name for name in ("phantom.nii.gz", "overview.png", "report.json")):
        if file.is_file() and not (image and file.samefile(image)):
            file.unlink()


def _make_phantom(seconds: Seconds) -> tuple[Volume, Segmentation]:
    """A synthetic CT and its exact labels."""
    from ..phantom import STRUCTURE_TISSUES, make_phantom

    with _timed(seconds, "make_phantom"):
        phantom = make_phantom(PHANTOM_SEED)
        reference = Segmentation(phantom.volume.shape, phantom.volume.affine)
        for structure in STRUCTURE_TISSUES:
            reference.add("phantom", structure, None, phantom.mask(structure))
    return phantom.volume, reference


def picture_title(source: str | Path, session: InferenceSession) -> str:
    """What stands above a picture: the image, and the model that has segmented it."""
    manifest = session.model.manifest
    return f"{Path(source).name}   ·   {manifest.name} {manifest.version}"


def _write_summary(segmentation: Segmentation, reference: Segmentation | None) -> None:
    """Write a table of volumes, with the true ones and the overlap where they are known."""
    header = ["structure", "volume (ml)"] + (["true (ml)", "Dice"] if reference else [])
    rows = []
    for key in segmentation:
        row = [segmentation.display_name(key), f"{segmentation.volume_ml(key):.1f}"]
        if reference:
            row += _agreement(segmentation, key, reference)
        rows.append(row)
    write_table(header, rows, right=range(1, len(header)))


def _agreement(segmentation: Segmentation, key: Key, reference: Segmentation) -> list[str]:
    if key[1] not in {structure for _, structure in reference}:
        return ["", ""]
    overlap = dice(segmentation[key], reference[key[1]])
    return [f"{reference.volume_ml(key[1]):.1f}", f"{overlap:.2f}"]


def _check_outputs(options: Namespace) -> None:
    """Refuse outputs before the work that would be lost; what happens later is caught when writing."""
    image, output = options.input, options.output
    if options.picture:
        check_drawing()
    suffix = segmentation_suffix(output)
    check_folder(output.parent if suffix else output)
    files = {"the input": image, "the segmentation": output}
    if suffix == ".dcm":
        check_dicom_seg(output, image)
    if suffix in (".nii", ".nii.gz"):
        check_table_is_free(output)
        files["the table of the labels"] = table_path(output)
    elif not suffix and image.suffix and image.name.partition(".")[0].rpartition("-")[2] in load_structures():
        files["a mask"] = output / image.name
    for what, file in files.items() if suffix else ():
        if file is not image and file.is_dir():
            raise InputError(f"{file}: A folder has this name; choose another name for {what}.")
    for what, file, kind in (("report", options.report, ".json"), ("picture", options.picture, ".png")):
        if file:
            if file.suffix.lower() != kind or file.is_dir():
                raise InputError(f"{file}: a {what} is written as a {kind} file; choose such a name.")
            check_folder(file.parent)
            files[f"the {what}"] = file
    for (first, one), (second, other) in combinations(files.items(), 2):
        if one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other)):
            raise InputError(f"{other}: {second} would replace {first}; choose another name.")
    if not suffix:
        check_mask_folder(output)


def _check_masks(session: InferenceSession, options: Namespace) -> None:
    """Refuse a folder in which masks of another origin have the names of those to be written."""
    if segmentation_suffix(options.output):
        return
    empty = Segmentation((1, 1, 1), np.eye(4))
    for _, task, structures in request_tasks(session.model.manifest, options.task, options.structure):
        for structure in structures:
            empty.add(task.name, structure, EMPTY_BOX, np.zeros((0, 0, 0), bool))
    check_mask_folder(options.output, [f"{empty.identifier(key)}.nii.gz" for key in empty])


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before any work.

    Raises:
        InputError: it is one.
    """
    existing = nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(
            f"Nothing can be written to {folder}: {existing} is no writable folder; choose another."
        )


@contextmanager
def _timed(seconds: Seconds, stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[stage] = perf_counter() - start
