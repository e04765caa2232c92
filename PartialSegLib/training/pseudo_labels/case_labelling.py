"""Pseudo-labels of one case: predicted, compared, merged with the original labels, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...segmentation import Key, Segmentation
from ...volume import Volume, read_ct, read_volume, write_volume
from ..collection import Collection
from ..collection.case_images import on_one_grid
from .merging import MergedLabels, merge_labels
from .plan import PlannedCase, PseudoLabelRequest, find_keys
from .record import StructureRecord
from .reliability import disagreement

if TYPE_CHECKING:
    from ...inference.patch_scoring import Progress
from ...session import InferenceSession


def label_case(
    planned: PlannedCase,
    collection: Collection,
    request: PseudoLabelRequest,
    target: Path,
    session: InferenceSession,
    second: InferenceSession | None,
    on_progress: Progress,
    *,
    force: bool = False,
) -> dict[str, StructureRecord]:
    """Predict the structures that a case lacks, merge them with its labels, and write the label map.

    Args:
        planned: of `plan_cases`.
        collection: that the case is of.
        request: what is asked for.
        target: the label map to write.
        session: with the model.
        second: another model, or the same without mirroring, to compare the prediction with; or None.
        on_progress: called after each patch.
        force: accept an image that does not look like a CT in HU, with a warning, or is another modality.

    Returns:
        What the label map holds of each structure of the merged data set.

    Raises:
        InputError: image or label map cannot be used, or they lie on different grids.
        DeviceError: out of memory.
    """
    case = planned.case
    image = read_ct(collection.path(case.image), is_forced=force, advice="accept it with --force")
    labels = _read_labels(collection.path(case.label), image) if case.label else None
    keys = {structure: request.keys[structure] for structure in planned.merging.added}
    found = _predict(session, image, keys, on_progress)
    differences: dict[str, float] = {}
    if second:
        is_same = second.model is session.model
        other_keys = keys if is_same else find_keys(second.model.manifest, None, tuple(keys))
        other = _predict(second, image, other_keys, on_progress)
        differences = {name: disagreement(found, keys[name], other, other_keys[name]) for name in keys}
    masks = {structure: found.cropped(key) for structure, key in keys.items()}
    merged = merge_labels(planned.merging, labels, masks, image.shape)
    write_volume(target, image.with_array(merged.labels))
    return _structure_records(planned, merged, found, keys, differences, request, image.voxel_volume / 1000)


def _predict(
    session: InferenceSession, image: Volume, keys: Mapping[str, Key], on_progress: Progress
) -> Segmentation:
    try:
        session.set_image(image, check=False)
        tasks = list(dict.fromkeys(task for task, _ in keys.values()))
        return session.predict(tasks, on_progress, structures=list(keys))
    finally:
        session.reset_image()


def _read_labels(path: Path, image: Volume) -> np.ndarray:
    volume = read_volume(path)
    if not on_one_grid(image, volume):
        raise InputError(
            f"{path}: the label map lies on another grid than its image ({volume.shape} and {image.shape} "
            "voxels, or another affine); resample it to the image."
        )
    array = volume.array
    if array.dtype.kind == "f" and not all(bool((plane == np.rint(plane)).all()) for plane in array):
        raise InputError(f"{path}: a label map holds whole numbers only; give the label map of the case.")
    return array


def _structure_records(
    planned: PlannedCase,
    merged: MergedLabels,
    found: Segmentation,
    keys: Mapping[str, Key],
    differences: Mapping[str, float],
    request: PseudoLabelRequest,
    voxel_ml: float,
) -> dict[str, StructureRecord]:
    records = {}
    for name, voxels in merged.voxels.items():
        volume_ml = round(voxels * voxel_ml, 3)
        if name not in keys:
            records[name] = StructureRecord("original", voxels, volume_ml)
            continue
        records[name] = StructureRecord(
            "pseudo",
            voxels,
            volume_ml,
            request.model,
            request.manifest.weights_sha256,
            found.voxel_count(keys[name]),
            merged.conflicts[name],
            round(differences[name], 4) if name in differences else None,
        )
    return records
