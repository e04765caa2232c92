"""Reading DICOM segmentations (PS3.3, A.51), as TCIA gives away references and Slicer exports segments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..images.dicom_series import is_dicom, storage_class
from ..segmentation import Key, Segmentation
from ..structures import Structure, load_structures
from .dicom_seg import MANUFACTURER, SEGMENTATION_CLASS, check_highdicom
from .label_names import structures_of_labels

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HALF = 0.5
"""Of a probability or occupancy: from here on a voxel belongs to a segment."""


def holds_dicom_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    return path.is_file() and is_dicom(path) and storage_class(path) == SEGMENTATION_CLASS


def only_dicom_seg(folder: Path) -> Path | None:
    """The DICOM segmentation that is the only file of a folder, as that of a series is; None for no other."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return files[0] if len(files) == 1 and holds_dicom_seg(files[0]) else None


def read_dicom_seg(path: Path) -> Segmentation:
    """Read a DICOM segmentation on its own grid: its slices, from the first that it marks to the last.

    A segment is the known structure that has its codes (type, region and their modifiers), else the one of
    its label; segments of one structure, such as several tumours, become one mask. Segments that PartialSeg
    has written keep their task. Of fractional segments what is at least a half belongs to the mask.

    Args:
        path: A DICOM file.

    Returns:
        The masks; `Segmentation.is_part` says that nothing lies outside their grid.

    Raises:
        InputError: When it is no DICOM segmentation, its slices make no volume, or highdicom is missing.
    """
    if not holds_dicom_seg(path):
        raise InputError(f"{path} is no DICOM segmentation; give one, or another file of a segmentation.")
    check_highdicom()
    import highdicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom finds fault with values that nobody needs here
            stored = highdicom.seg.segread(path)
            try:
                return _segmentation(stored)
            except RuntimeError:  # its slices are no volume, by the distance that it states
                return _segmentation(_without_distance(path))
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises whatever its parts come across in a damaged file
        reason = str(error).rstrip(".") or type(error).__name__
        raise InputError(f"{path} cannot be read as a DICOM segmentation ({reason}).") from error


def _without_distance(path: Path) -> Any:
    """The object without the stated distance of slices, which may be wrong; positions tell it."""
    import highdicom
    from pydicom import dcmread

    contents = dcmread(path)
    groups = [*contents.SharedFunctionalGroupsSequence, *contents.PerFrameFunctionalGroupsSequence]
    for measures in (one for group in groups for one in group.get("PixelMeasuresSequence", ())):
        measures.pop("SpacingBetweenSlices", None)
    return highdicom.seg.Segmentation.from_dataset(contents)


def _segmentation(stored: Any) -> Segmentation:
    keys = _keys({number: stored.get_segment_description(number) for number in stored.segment_numbers})
    masks = {key: _union(stored, numbers) for key, numbers in keys.items()}
    shape, affine = stored.get_volume_geometry().spatial_shape, stored.get_volume_geometry().affine
    segmentation = Segmentation(shape, _TO_RAS @ affine, _provenance(stored), is_part=True)
    for (task, structure), mask in masks.items():
        segmentation.add(task, structure, None, mask)
    return segmentation


def _union(stored: Any, numbers: Sequence[int]) -> np.ndarray:
    """What belongs to any of some segments: (z, y, x) bool, over all slices that any segment marks."""
    parts = (stored.get_volume(segment_numbers=[number]).array[..., 0] >= _HALF for number in numbers)
    return reduce(np.logical_or, parts)


def _keys(segments: dict[int, SegmentDescription]) -> dict[Key, list[int]]:
    """Task and structure of the segments, and the numbers of those that are of one structure."""
    labels = {number: str(segment.segment_label) for number, segment in segments.items()}
    by_label = structures_of_labels(labels.values())
    keys: dict[Key, list[int]] = {}
    for number, segment in segments.items():
        key = _written_key(segment)
        if key is None:
            key = "", _known_structure(segment) or by_label[labels[number]]
        keys.setdefault(key, []).append(number)
    return keys


def _written_key(segment: SegmentDescription) -> Key | None:
    """Task and structure of a segment that PartialSeg has written, by its tracking ID."""
    made_by = segment.algorithm_identification
    if made_by is None or not str(made_by.name).startswith(MANUFACTURER) or not segment.tracking_id:
        return None
    task, separator, structure = str(segment.tracking_id).rpartition("/")
    return (task, structure) if separator else None


def _known_structure(segment: SegmentDescription) -> str | None:
    """The only known structure with the codes of a segment."""
    codes = _codes(segment)
    same = [id for id, structure in load_structures().items() if _codes_of(structure) == codes]
    return same[0] if len(same) == 1 else None


def _codes(segment: SegmentDescription) -> tuple[str, ...]:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence") or [None]
    return (
        _value(kind),
        _value(_first(kind, "SegmentedPropertyTypeModifierCodeSequence")),
        _value(regions[0]),
        _value(_first(regions[0], "AnatomicRegionModifierSequence")),
    )


def _codes_of(structure: Structure) -> tuple[str, ...]:
    codes = structure.type, structure.type_modifier, structure.region, structure.region_modifier
    return tuple(code.value if code and code.scheme == "SCT" else "" for code in codes)


def _first(item: Any, name: str) -> Any:
    return None if item is None else next(iter(item.get(name) or ()), None)


def _value(code: Any) -> str:
    """The code of an item, if it is one of SNOMED CT."""
    is_snomed = code is not None and code.get("CodingSchemeDesignator") == "SCT"
    return str(code.CodeValue) if is_snomed else ""


def _provenance(stored: Any) -> dict[str, Any]:
    names = {"manufacturer": "Manufacturer", "series_description": "SeriesDescription"}
    return {key: str(stored.get(name)) for key, name in names.items() if stored.get(name)}
