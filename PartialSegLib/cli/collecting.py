"""The commands below `data`: making, joining, checking, listing and preparing collections."""

from __future__ import annotations

import dataclasses
import logging
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import get_args

from ..errors import InputError
from ..files.file_names import expanded
from ..sentences import first_few, suggestion
from ..structures import load_structures
from ..training import read_config
from ..training.collection import Case, Collection, DataSet, read_collection, write_collection
from ..training.collection.case_check import NO_HOUNSFIELD, SPACING_RANGE_MM, Fault, check_cases, fault_rows
from ..training.data import prepare
from ..training.data_sets import LAYOUTS, MOTS, MULTITALENT
from ..training.data_sets.dataset_json import FILE, channels_of, data_set_of, read_dataset_json
from ..training.data_sets.joining import joined
from ..training.data_sets.label_rules import parse_label_rules
from ..training.data_sets.mask_merging import merge_cases
from ..training.data_sets.phantom_mots import PhantomMots, make_phantom_mots
from ..training.data_sets.protocols import PROTOCOLS
from ..training.data_sets.recipe import find_parts, part_rows, recipe_collection
from ..training.data_sets.splits import (
    Split,
    named_cases,
    with_listed_splits,
    with_nnunet_fold,
    with_validation_fold,
)
from ..training.data_sets.totalsegmentator import (
    mask_names,
    parse_mask_rules,
    totalsegmentator_cases,
    totalsegmentator_data_set,
)
from ..training.train import make_manifest
from .terminal import progress_bar, write_line, write_table

logger = logging.getLogger(__name__)

RECIPES = {"mots": MOTS, "multitalent": MULTITALENT}
PROTOCOL_OF_LAYOUT = {
    "kits": "kits19",
    "lits": "lits",
    "btcv": "btcv",
    "btcv-pelvis": "btcv-pelvis",
    "segthor": "segthor",
    "structseg": "structseg",
    "brats": "brats",
}


def collect(options: Namespace) -> None:
    """Make a collection of data sets of one layout."""
    _check_output(options.output)
    _check_name(options.name)
    if options.name and len(options.folder) > 1:
        raise InputError("--name is for one data set; give one folder, or leave --name out.")
    collections = []
    for given in options.folder:
        folder = expanded(given).absolute()
        data_set = _data_set(options, folder)
        cases = LAYOUTS[options.what](folder, data_set.name)
        if not options.unlabelled:
            cases = _labelled(folder, cases)
        collections.append(Collection(data_set.name, folder, {data_set.name: data_set}, cases))
    _write(options, collections)


def collect_totalsegmentator(options: Namespace) -> None:
    """Merge the masks of TotalSegmentator's cases beside the collection, and make it.

    Splits are drawn on all cases: those that are left out change nothing for the others.
    """
    _check_output(options.output)
    _check_name(options.name)
    name = options.name or "totalsegmentator"
    found = totalsegmentator_cases(options.folder, name)
    excluded = named_cases(found, options.exclude)
    cases = tuple(case for case in found if case.name not in excluded)
    rules = parse_mask_rules(options.label or ())
    named = (*(options.mask or ()), *chain.from_iterable(rules.values()))
    masks = mask_names(cases, tuple(dict.fromkeys(named)))
    folder = expanded(options.output).absolute().with_name(f"{options.output.stem}-labels")
    with progress_bar("case") as show:
        merged, faults = merge_cases(cases, masks, folder, show, _workers(options))
    if faults:
        _refuse(faults, len(cases), options.incomplete)
    data_set = totalsegmentator_data_set(name, options.task or name, masks, rules)
    if rules:
        _warn_of_unknown(data_set.structures)
    labels = {case.name: case.label for case in merged}
    everything = tuple(
        dataclasses.replace(case, label=labels.get(case.name, str(folder / case.name))) for case in found
    )
    faulty = {fault.case for fault in faults}
    _write(options, [Collection(name, options.folder, {name: data_set}, everything)], faulty)


def collect_recipe(options: Namespace) -> None:
    """Make the collection of a paper, or say in a table which of its data sets are missing."""
    _check_output(options.output)
    found = find_parts(RECIPES[options.what], options.folder)
    missing = [one for one in found if not one.complete]
    if missing:
        write_table(*part_rows(found), right=[2, 3])
        if not options.incomplete:
            raise InputError(
                f"{len(missing)} of {len(found)} data sets are not complete; "
                "get what the table says, or go on with --incomplete."
            )
    _write(options, [recipe_collection(options.what, found, options.folder, options.seed)])


def collect_phantoms(options: Namespace) -> None:
    """Make MOTS in miniature."""
    if not 1 <= options.spacing <= SPACING_RANGE_MM[1]:
        raise InputError(f"--spacing: {options.spacing:g} mm given, expected 1 to {SPACING_RANGE_MM[1]:g}.")
    _check_output(options.output / "collection.json")
    step = options.spacing
    shape = round(432 / step), round(336 / step), round(432 / step)  # mm: trunks from hips to shoulders
    wanted = PhantomMots(options.cases, (step, step, step), shape, options.seed)
    with progress_bar("case") as show:
        _summarise(make_phantom_mots(expanded(options.output), wanted, show))


def join(options: Namespace) -> None:
    """Make one collection of several."""
    _check_output(options.output, options.collection)
    collections = [read_collection(path) for path in options.collection]
    collection = joined(options.output.stem, collections, options.output.parent)
    _write_and_summarise(options.output, collection, named_cases(collection.cases, options.exclude))


def check(options: Namespace) -> None:
    """Read all cases and list what is wrong, and which label maps have no foreground.

    Raises:
        InputError: something is wrong; a label map without foreground alone is not.
    """
    collection = read_collection(options.collection)
    with progress_bar("case") as show:
        faults = check_cases(collection, show, _workers(options))
    if not all(fault.is_taken for fault in faults):
        _refuse(faults, len(collection.cases), go_on=False)
    if faults:
        write_table(*fault_rows(faults))
    doubtful = sum(fault.kind == NO_HOUNSFIELD for fault in faults)
    without = f"; {len(faults) - doubtful} without foreground, which training takes"
    hardly = f"; {doubtful} with values that are hardly HU: training takes them, the model will not fit CTs"
    notes = (without if len(faults) > doubtful else "") + (hardly if doubtful else "")
    write_line(f"{len(collection.cases)} cases, no faults{notes}.")


def prepare_cases(options: Namespace) -> None:
    """Preprocess the cases that a configuration of training names, and say where they are."""
    config = read_config(options.config, options.change)
    if config.collection is None:
        raise InputError(
            f"{options.config} trains on synthetic cases; start the training, there is nothing to prepare."
        )
    if options.processes is not None and options.processes < 1:
        raise InputError(f"--processes is a number from 1 on, not {options.processes}.")
    processes = options.processes or max(1, _cores() - 1)
    data = dataclasses.replace(config.collection, preparing_processes=processes)
    config = dataclasses.replace(config, collection=data)
    folder = prepare(config, make_manifest(config), progress_bar)
    write_line(str(folder))


def show(options: Namespace) -> None:
    """Say what a collection holds."""
    _summarise(read_collection(options.collection))


def _data_set(options: Namespace, folder: Path) -> DataSet:
    """The protocol of a data set: what the user says, else what its files say, else what is known of it."""
    protocol = options.protocol or PROTOCOL_OF_LAYOUT.get(options.what)
    if protocol is not None and protocol not in PROTOCOLS:
        raise InputError(f"Unknown protocol '{protocol}'; {suggestion(protocol, PROTOCOLS)}.")
    if protocol is not None:
        data_set = dataclasses.replace(PROTOCOLS[protocol], channels=_channels(options, folder, protocol))
    elif options.what in ("decathlon", "nnunet"):
        data_set = data_set_of(folder, read_dataset_json(folder))
    elif options.label:
        data_set = DataSet(folder.name, folder.name, {})
    else:
        raise InputError("The labels have no names; give --label NAME=VALUE for each structure.")
    structures = parse_label_rules(options.label or ()) or data_set.structures
    _warn_of_unknown(structures)
    return dataclasses.replace(
        data_set,
        name=options.name or data_set.name,
        task=options.task or data_set.task,
        structures=structures,
        ignore=tuple(options.ignore or data_set.ignore),
    )


def _warn_of_unknown(structures: Iterable[str]) -> None:
    """Say which structures have no code and are in no protocol: they may be misspelt."""
    known = {*load_structures(), *(name for protocol in PROTOCOLS.values() for name in protocol.structures)}
    for structure in structures:
        if structure not in known:
            close = get_close_matches(structure, sorted(known), n=1)
            advice = f", or perhaps you meant {close[0]}" if close else ""
            logger.warning("%s is no structure with a code; it is kept as it is%s", structure, advice)


def _labelled(folder: Path, cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Those with a label map; says which have none, since nobody may have meant that."""
    left_out = [case.name for case in cases if case.label is None]
    if len(left_out) == len(cases):
        raise InputError(f"{folder} holds no label maps; add --unlabelled to collect images alone.")
    if left_out:
        text = "%s: images without a label map are left out (%d): %s; --unlabelled keeps them."
        logger.warning(text, folder, len(left_out), first_few(left_out, 3))
    return tuple(case for case in cases if case.label is not None)


def _channels(options: Namespace, folder: Path, protocol: str) -> tuple[str, ...]:
    """Those that dataset.json names, where the layout has one; else those of the protocol."""
    if options.what in ("decathlon", "nnunet") and (folder / FILE).exists():
        return channels_of(read_dataset_json(folder), folder / FILE)
    return PROTOCOLS[protocol].channels


def _check_name(name: str | None) -> None:
    """Refuse a name of a data set that cannot be part of a file name: the cases are named after it."""
    if name and Path(name).name != name:
        raise InputError(f"--name {name}: expected a name without '/', such as {Path(name).name or 'mine'}.")


def _check_output(output: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse to replace any file but an earlier collection; those that are read here stay as well.

    Raises:
        InputError: the name is not that of a collection, or something else is there.
    """
    output = expanded(output)
    if output.suffix != ".json":
        raise InputError(f"-o {output}: expected the name of a collection, such as {output.stem}.json.")
    if not output.exists():
        return
    if any(expanded(path).exists() and output.samefile(expanded(path)) for path in inputs):
        raise InputError(f"-o {output}: this collection is to be joined; choose another name.")
    try:
        read_collection(output)
    except (InputError, OSError):
        raise InputError(
            f"-o {output}: there is something else than a collection; choose another name, or remove it."
        ) from None


def _write(options: Namespace, collections: Sequence[Collection], faulty: Set[str] = frozenset()) -> None:
    """Join, split, leave out what is excluded or faulty, write and summarise."""
    collection = joined(options.output.stem, collections, options.output.parent)
    cases = collection.cases
    left_out = faulty | named_cases(cases, options.exclude)
    if options.list:
        cases = with_listed_splits(cases, _lists(options.list), left_out)
    if options.folds is not None and options.fold is None:
        raise InputError(f"--folds {options.folds}: say which one with --fold K.")
    if options.folds is not None:
        cases = with_nnunet_fold(cases, options.folds, options.fold)
    elif options.fold is not None:
        cases = with_validation_fold(cases, options.fold, options.seed)
    _write_and_summarise(options.output, dataclasses.replace(collection, cases=cases), left_out)


def _write_and_summarise(output: Path, collection: Collection, left_out: Set[str]) -> None:
    kept = tuple(case for case in collection.cases if case.name not in left_out)
    collection = dataclasses.replace(collection, cases=kept)
    write_collection(output, collection)
    _summarise(collection)


def _lists(given: Sequence[str]) -> dict[Split, Path]:
    splits = {split: split for split in get_args(Split)}
    lists: dict[Split, Path] = {}
    for text in given:
        split, _, path = text.partition("=")
        if split not in splits or not path:
            raise InputError(f"--list {text}: expected SPLIT=FILE, the split {', '.join(splits)}.")
        lists[splits[split]] = Path(path)
    return lists


def _summarise(collection: Collection) -> None:
    """Data sets with their tasks, cases of each split and structures."""
    counts = Counter((case.data_set, _column(case)) for case in collection.cases)
    columns = ["training", "validation", "test", "unlabelled"]
    rows = [
        [name, data_set.task, *(str(counts[name, column]) for column in columns), _structures(data_set)]
        for name, data_set in collection.data_sets.items()
    ]
    header = ["DATA SET", "TASK", *map(str.upper, columns), "STRUCTURES"]
    write_table(header, rows, right=[2, 3, 4, 5])


def _column(case: Case) -> str:
    return "unlabelled" if case.label is None else case.split


def _structures(data_set: DataSet) -> str:
    """Structures and their values; many are counted."""
    if len(data_set.structures) > 15:
        return f"{len(data_set.structures)} structures"
    return ", ".join(
        f"{structure}={','.join(map(str, values))}" for structure, values in data_set.structures.items()
    )


def _refuse(faults: list[Fault], cases: int, go_on: bool) -> None:
    """Write the table of faults, and stop unless the user wants to go on."""
    write_table(*fault_rows(faults))
    if not go_on:
        wrong = [fault.case for fault in faults if not fault.is_taken]
        raise InputError(
            f"{len(wrong)} faults in {len(set(wrong))} of {cases} cases; repair these files, or make the "
            "collection again without these cases (`partialseg data … --exclude NAME`)."
        )


def _workers(options: Namespace) -> int:
    if options.workers < 1:
        raise InputError(f"--workers is a number of threads from 1 on, not {options.workers}.")
    return int(options.workers)


def _cores() -> int:
    """Those of the machine that this process may use; batch systems give out a part of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
