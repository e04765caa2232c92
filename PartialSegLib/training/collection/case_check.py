"""The check of a collection before training: whatever is wrong with its cases, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ...errors import InputError
from ...volume import Volume, check_hounsfield, read_volume
from ..loop.threads import mapped
from .case_images import case_image, image_content, on_one_grid, placement, product
from .collection import Case, Collection, DataSet

SPACING_RANGE_MM = (0.2, 10.0)
"""Distances of voxels that CTs of public data sets have; what lies outside is a header in other units."""
SHOWN_VALUES = 8
NO_FOREGROUND, NO_HOUNSFIELD = "no foreground", "hardly HU"
"""Kinds that training takes: a patient without tumour has a label map without any annotated structure, and an
image that is cut to an organ has no air."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one case.

    Attributes:
        case: its name.
        data_set: its data set's name.
        kind: a few words, the same for all faults of a kind.
        text: what was found.
    """

    case: str
    data_set: str
    kind: str
    text: str

    @property
    def is_taken(self) -> bool:
        """Whether training takes the case all the same."""
        return self.kind in (NO_FOREGROUND, NO_HOUNSFIELD)


def check_cases(
    collection: Collection,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
    prepared: Mapping[str, str] = MappingProxyType({}),
) -> list[Fault]:
    """Read every image and label map of a collection and list what is wrong.

    Found are: files that cannot be read, more or fewer channels than the data set names, channels on
    different grids or without contents, spacings outside `SPACING_RANGE_MM`, label maps of another shape or
    place than their image, values that are not whole numbers or that no rule of the data set knows, label
    maps without any annotated structure, CTs whose values are hardly HU, and images that occur in two splits,
    whatever their file, orientation or compression. One image for two data sets of the same split is no
    fault.

    Args:
        collection: cases without a label map are checked for their image alone.
        on_progress: called with (cases done, all cases).
        workers: threads; each holds one case in memory.
        prepared: names of cases that need not be read again, with their `image_content`, empty if unknown.

    Returns:
        Faults in the order of the cases.
    """
    faults: list[Fault] = []
    first_with: dict[str, Case] = {}

    def checked(case: Case) -> tuple[list[Fault], str]:
        return ([], prepared[case.name]) if case.name in prepared else _check_case(collection, case)

    with mapped(checked, collection.cases, workers) as results:
        for done, (case, (found, content)) in enumerate(zip(collection.cases, results, strict=True), 1):
            faults += found
            twin = first_with.setdefault(content, case) if content else case
            if twin.split != case.split:
                text = f"{case.split}, the same image as {twin.name} ({twin.split})"
                faults.append(Fault(case.name, case.data_set, "image in two splits", text))
            on_progress(done, len(collection.cases))
    return faults


def fault_rows(faults: Sequence[Fault]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of faults."""
    header = ["CASE", "DATA SET", "FAULT", "FOUND"]
    return header, [[fault.case, fault.data_set, fault.kind, fault.text] for fault in faults]


def _check_case(collection: Collection, case: Case) -> tuple[list[Fault], str]:
    """What is wrong with a case, and the hash of its image, empty if that is unreadable."""
    image = case_image(collection, case)
    try:
        channels = image.read()
    except InputError as error:
        return [Fault(case.name, case.data_set, "image unreadable", str(error))], ""
    found = [*image.faults(channels), *_spacing_faults(channels[0])]
    found += _value_faults_of_images(channels, image.channels)
    if case.label is not None:
        try:
            label = read_volume(collection.path(case.label), any_modality=True)
        except InputError as error:
            found.append(("label map unreadable", str(error)))
        else:
            found += label_faults(channels[0], label, collection.data_sets[case.data_set])
    return [Fault(case.name, case.data_set, kind, text) for kind, text in found], image_content(channels)


def label_faults(image: Volume, label: Volume, data_set: DataSet) -> list[tuple[str, str]]:
    """What is wrong with a label map on its image: a few words, and what was found."""
    return [*_grid_faults(image, label), *_value_faults(label, data_set)]


def _value_faults_of_images(channels: Sequence[Volume], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, channel in enumerate(channels):
        lowest, highest = channel.array.min(), channel.array.max()
        if lowest == highest:
            which = f"{names[number]}: " if len(channels) == len(names) > 1 else ""
            yield "image empty", f"{which}every voxel is {lowest:g}"
        elif len(channels) == len(names) and names[number] == "CT" and (doubt := check_hounsfield(channel)):
            yield NO_HOUNSFIELD, doubt


def _spacing_faults(image: Volume) -> Iterator[tuple[str, str]]:
    low, high = SPACING_RANGE_MM
    if min(image.spacing) < low or max(image.spacing) > high:
        yield "spacing out of range", f"{product(image.spacing)} mm; expected {low:g} to {high:g} mm"


def _grid_faults(image: Volume, label: Volume) -> Iterator[tuple[str, str]]:
    if image.shape != label.shape:
        yield "shapes differ", f"image {product(image.shape)}, label map {product(label.shape)} (z, y, x)"
    elif not on_one_grid(image, label):
        yield "affines differ", f"image {placement(image)}, label map {placement(label)}"


def _value_faults(label: Volume, data_set: DataSet) -> Iterator[tuple[str, str]]:
    values = {float(value) for plane in label.array for value in np.unique(plane)}
    fractions = sorted(value for value in values if value != int(value))
    if fractions:
        yield "label values not whole", _listed(fractions)
        return
    annotated = {value for structure in data_set.structures.values() for value in structure}
    unknown = sorted(values - annotated - {0.0, *data_set.ignore})
    if unknown:
        yield "label values unknown", f"{_listed(unknown)}; known are 0 and {_listed(sorted(annotated))}"
    if not values & annotated:
        yield NO_FOREGROUND, f"none of the values {_listed(sorted(annotated))}"


def _listed(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:SHOWN_VALUES])
    return shown if len(values) <= SHOWN_VALUES else f"{shown} and {len(values) - SHOWN_VALUES} more"
