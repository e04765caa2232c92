"""The command `pseudo-label`: a model labels what the cases of a collection are not labelled for."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, DeviceError, InputError, OutOfMemoryError
from ..failures import is_fault_of_ours, sentence
from ..manifest import Manifest, read_manifest
from ..packages.installed import find_package
from ..training.collection import Case
from ..training.pseudo_labels.case_labelling import label_case
from ..training.pseudo_labels.labelling import PseudoLabelling
from ..training.pseudo_labels.plan import PlannedCase, PseudoLabelRequest, find_keys
from ..training.pseudo_labels.reliability import (
    ReliabilityLimits,
    check_percentiles,
    labelled_cases,
    volume_limits,
)
from .segmenting import bundled_model, check_folder, given_names
from .terminal import progress_bar, write_line, write_table

if TYPE_CHECKING:
    from ..session import InferenceSession

logger = logging.getLogger(__name__)

Sessions = tuple["InferenceSession", "InferenceSession | None"]


def pseudo_label(options: Namespace) -> None:
    """Label what is left of a collection; a case that fails is written down, and the next one begins.

    Raises:
        InputError: the collection, the model or the output cannot be used, or at least one case failed.
        DeviceError: the device is missing.
    """
    check_folder(options.output.parent)
    folder = find_package(options.model or bundled_model())
    manifest = read_manifest(folder)
    request = _request(options, manifest)
    limits = ReliabilityLimits(_largest_disagreements(options.max_disagreement, request))
    work = PseudoLabelling(options.collection, options.output, request, options.overwrite)
    references = _references(options, work)
    sessions = _open_sessions(folder, options, request) if work.left else None
    with work.held():  # from here on the output's folder has files
        if earlier := len(work.planned) - len(work.left):
            write_line(f"{earlier} of {len(work.planned)} cases were done before.")
        if work.left:
            _label(work, sessions or _open_sessions(folder, options, request), options.force)
        volumes = volume_limits(work.source, references, options.volume_percentiles) if references else {}
        work.finish(replace(limits, volume_ml=volumes))
    _write_result(work)


def _request(options: Namespace, manifest: Manifest) -> PseudoLabelRequest:
    """What the options ask for; how the predictions are made and compared is part of it."""
    has_mirrored = bool(manifest.inference.mirror_axes) and not options.no_mirror
    compared: Any = None
    request = PseudoLabelRequest(
        manifest,
        given_names(options.structure),
        given_names(options.task),
        given_names(options.data_set),
        options.unlabelled,
        options.new_task,
        options.format,
    )
    if options.compare:
        other = read_manifest(find_package(options.compare))
        find_keys(other, None, tuple(request.keys))
        compared = [other.name, other.version, other.weights_sha256]
    elif options.max_disagreement and not has_mirrored:
        raise InputError(
            f"{manifest.name} predicts without mirroring, so there is nothing to compare its predictions "
            "with; name another model with --compare, or leave --max-disagreement out."
        )
    elif options.max_disagreement:
        compared = "without mirroring"
    settings = {"overlap": options.overlap, "mirror": has_mirrored, "compared_with": compared}
    return replace(request, settings=settings)


def _references(options: Namespace, work: PseudoLabelling) -> dict[str, list[Case]]:
    """The cases whose volumes give the limits, found before the work that would be lost."""
    if not options.volume_percentiles:
        return {}
    check_percentiles(options.volume_percentiles)
    references = labelled_cases(work.source, work.request.keys, work.earlier)
    if unknown := [structure for structure in work.request.keys if structure not in references]:
        write_line(f"No case is labelled for {', '.join(unknown)}: such volumes have no limits.")
    return references


def _largest_disagreements(given: list[str] | None, request: PseudoLabelRequest) -> dict[str, float]:
    """Read `0.2` for all structures and `liver=0.1` for one, which comes before the former."""
    general: dict[str, float] = {}
    special: dict[str, float] = {}
    for text in given or ():
        structure, _, number = text.rpartition("=")
        if structure and structure not in request.keys:
            raise InputError(
                f"--max-disagreement {text}: {structure} is not added; choose another structure."
            )
        try:
            limit = float(number)
        except ValueError:
            raise InputError(
                f"--max-disagreement {text}: expected a share such as 0.2, or STRUCTURE=SHARE; correct it."
            ) from None
        if structure:
            special[structure] = limit
        else:
            general = dict.fromkeys(request.keys, limit)
    return general | special


def _open_sessions(folder: Path, options: Namespace, request: PseudoLabelRequest) -> Sessions:
    """The session that predicts, and the one whose predictions are compared with its own."""
    from ..model import load_model
    from ..session import InferenceSession

    common = {"device": options.device, "cache_bytes": 0, "overlap": options.overlap}
    model = load_model(folder)
    session = InferenceSession(model, mirror=request.settings["mirror"], **common)
    if options.compare:
        other = load_model(options.compare)
        has_axes = bool(other.manifest.inference.mirror_axes) and not options.no_mirror
        return session, InferenceSession(other, mirror=has_axes, **common)
    second = InferenceSession(model, **common) if request.settings["compared_with"] else None
    return session, second


def _label(work: PseudoLabelling, sessions: Sessions, force: bool) -> None:
    for number, planned in enumerate(work.left, 1):
        error = _try(planned, work, sessions, force)
        write_line(f"{number} of {len(work.left)}: {planned.case.name}, {error or 'done'}")


def _try(planned: PlannedCase, work: PseudoLabelling, sessions: Sessions, force: bool) -> str:
    """Label one case and write down what became of it; whatever goes wrong with it alone is returned."""
    structures, error = {}, ""
    try:
        with progress_bar() as show:
            where = work.source, work.request, work.label_path(planned)
            structures = label_case(planned, *where, *sessions, show, force=force)
    except OutOfMemoryError as failure:  # another image may be smaller
        error = sentence(failure)
    except (Cancelled, DeviceError):
        raise
    except Exception as failure:
        if is_fault_of_ours(failure):
            logger.warning("%s:", planned.case.name, exc_info=failure)
        error = sentence(failure)
    work.record(planned, structures, error)
    return error


def _write_result(work: PseudoLabelling) -> None:
    """Say what the collection holds; refuse to call it a success where cases failed."""
    failed = {name: record for name, record in work.cases.items() if record.error}
    doubtful = {name: record for name, record in work.cases.items() if record.doubts}
    rows = [[name, "failed", record.error] for name, record in failed.items()]
    rows += [[name, "left out", "; ".join(record.doubts)] for name, record in doubtful.items()]
    if rows:
        write_table(["case", "result", "reason"], rows)
    used = len(work.cases) - len(rows)
    write_line(f"{used} of {len(work.planned)} cases have pseudo-labels in {work.output}.")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(work.planned)} cases failed and keep their own labels; the table says "
            "why, and the same command tries them again."
        )
