"""MOTS in miniature: seven partially labelled data sets of phantoms, in the proportions of DoDNet's Table 2.

For trying a training without data, for tests, and for comparing methods (docs/reproduction.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import InputError
from ...files.json_fields import to_json
from ...files.output_files import replacing
from ...phantom import LESION_KINDS, PHASES, STRUCTURE_TISSUES, Phantom, make_phantom
from ...volume import Volume, write_volume
from ..collection import Case, Collection, DataSet, write_collection
from .mots import MOTS

LESION_PROBABILITY = 0.5
OPTIONS_FILE = "phantoms.json"


@dataclass(frozen=True)
class PhantomMots:
    """What is made.

    Attributes:
        cases: about this many for training; each data set has two or more, and one or more for test.
        spacing: mm (z, y, x).
        shape: voxels (z, y, x).
        seed: same seed, same cases.
        phase: one of `PHASES`, the same for all patients; None takes all in turn, which is harder to learn.
    """

    cases: int = 92
    spacing: tuple[float, float, float] = (6.0, 6.0, 6.0)
    shape: tuple[int, int, int] = (72, 56, 72)
    seed: int = 0
    phase: str | None = None


def make_phantom_mots(
    folder: Path, options: PhantomMots, on_progress: Callable[[int, int], None] | None = None
) -> Collection:
    """Write images, label maps and `collection.json` into a folder; images that are there are kept.

    A case of data set k is labelled for its task only, as in MOTS: that half of the patients have a tumour of
    this task or of another, nobody says.

    Args:
        folder: made if it is not there.
        options: how many cases, and how large.
        on_progress: called with the numbers of finished and of all cases.

    Raises:
        InputError: no cases asked for, or the folder holds phantoms of other options or cannot be written to.
    """
    if options.cases < 1:
        raise InputError(f"{options.cases} cases asked for; expected 1 or more.")
    share = options.cases / sum(part.training for part in MOTS)
    parts = [
        (
            _phantom_data_set(part.data_set),
            max(2, round(share * part.training)),
            max(1, round(share * part.test)),
        )
        for part in MOTS
    ]
    return make_phantom_collection("phantom-mots", folder, parts, options, on_progress)


def make_phantom_collection(
    name: str,
    folder: Path,
    parts: Sequence[tuple[DataSet, int, int]],
    options: PhantomMots,
    on_progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """The same for other data sets.

    Args:
        name: of the collection.
        folder: made if it is not there.
        parts: data sets with their numbers of training and of test cases.
        options: size of the images; the number of cases does not count.
        on_progress: called with the numbers of finished and of all cases.

    Raises:
        InputError: phantoms lack a structure, or the folder holds phantoms of other options or cannot be
            written to.
    """
    for structure in dict.fromkeys(structure for part in parts for structure in part[0].structures):
        if structure not in STRUCTURE_TISSUES:
            raise InputError(
                f"phantoms have no {structure}; expected structures of {', '.join(STRUCTURE_TISSUES)}."
            )
    plan = [item for number, part in enumerate(parts) for item in _planned_cases(number, *part)]
    data_sets = {data_set.name: data_set for data_set, _, _ in parts}
    folder.mkdir(parents=True, exist_ok=True)
    _keep_options(folder / OPTIONS_FILE, options)
    for done, (case, key) in enumerate(plan):
        if on_progress is not None:
            on_progress(done, len(plan))
        _write_case(folder, case, data_sets[case.data_set], key, options)
    collection = Collection(name, folder, data_sets, tuple(case for case, _ in plan))
    write_collection(folder / "collection.json", collection)
    return collection


def _phantom_data_set(data_set: DataSet) -> DataSet:
    """The protocol of a data set of MOTS, for phantoms."""
    name = f"phantom-{data_set.task.replace(' ', '-')}"
    return replace(data_set, name=name, source="PartialSegLib.phantom", license="Apache-2.0")


def _planned_cases(
    number: int, data_set: DataSet, training: int, test: int
) -> list[tuple[Case, tuple[int, int]]]:
    """Cases of one data set, each with what its random numbers depend on."""
    splits: tuple[tuple[Literal["training", "test"], int], ...] = (("training", training), ("test", test))
    cases = []
    for split, count in splits:
        for index in range(count):
            case = f"{data_set.name}-{split}-{index:04}"
            paths = f"images/{case}.nii.gz", f"labels/{case}.nii.gz"
            cases.append((Case(case, data_set.name, *paths, split), (2 * number + (split == "test"), index)))
    return cases


def _keep_options(path: Path, options: PhantomMots) -> None:
    """Write down how the images are made, or refuse a folder with others."""
    values = to_json(options)
    del values["cases"]
    text = json.dumps(values) + "\n"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(
            f"{path.parent} holds phantoms of another spacing, size, seed or phase ({path.name} says which); "
            "delete that folder, or give another output."
        )


def _write_case(
    folder: Path, case: Case, data_set: DataSet, key: tuple[int, int], options: PhantomMots
) -> None:
    """Write image and label map of a case, unless they are there."""
    assert case.label is not None
    image, label = folder / case.image, folder / case.label
    if image.exists() and label.exists():
        return
    seed = int(np.random.default_rng([options.seed, *key]).integers(2**32))
    lesions = dict.fromkeys(LESION_KINDS, LESION_PROBABILITY)
    phase = options.phase or PHASES[seed % len(PHASES)]
    phantom = make_phantom(seed, options.spacing, options.shape, phase, lesions)
    for path, array in ((image, phantom.volume.array), (label, labels_of(phantom, data_set))):
        path.parent.mkdir(exist_ok=True)
        write_volume(path, Volume(array, phantom.volume.affine))


def labels_of(phantom: Phantom, data_set: DataSet) -> np.ndarray:
    """The label map (z, y, x) uint8 that a data set would have of a phantom.

    What includes something else is drawn first, each with the lowest of its values.
    """
    labels = np.zeros(phantom.volume.shape, np.uint8)
    for structure, values in sorted(data_set.structures.items(), key=lambda item: -len(item[1])):
        labels[phantom.mask(structure)] = min(values)
    return labels
