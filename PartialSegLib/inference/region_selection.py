"""Region selection: a coarse model, or the air around the body, says where a fine model has nothing to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..manifest import Preprocessing
from ..masks.body import BODY_THRESHOLD_HU, body_margins, largest_object
from ..masks.boxes import placed_in, widened
from ..model import Model, as_model
from ..processing.preprocessing import PreparedImage
from ..pytorch.tensor_arrays import array_of
from ..segmentation import Key, Segmentation
from ..structures import structure_or_tissue

_ALL_NEIGHBORS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, eq=False, init=False)
class CoarsePass:
    """A coarse model that looks first.

    Args:
        model: segments the image with all its tasks; from `load_model`, or what that loads.
        margin_mm: by which the boxes around what it finds are widened on every side.
        trust_nothing: visit nothing for a task of which it finds nothing; else such a task sees everything.
        effort: from 0, fast, to 1, thorough. With 1 the fine model visits all patches that touch the regions.
            With less it visits, for each task, those with the most voxels of which the coarse model is
            uncertain, until they hold this share of them; elsewhere in the regions the coarse masks are
            taken. With 0 it visits none. It means nothing for a task of which the coarse model finds nothing,
            or that has a structure which the coarse model does not yield.

    Raises:
        InputError: unknown model, the margin is below 0, or the effort not in [0, 1].
    """

    model: Model
    margin_mm: float
    trust_nothing: bool
    effort: float

    def __init__(
        self,
        model: Model | str | Path,
        margin_mm: float = 20.0,
        trust_nothing: bool = False,
        effort: float = 1.0,
    ) -> None:
        if not is_number(margin_mm) or not margin_mm >= 0:
            raise InputError(f"The margin is a distance of 0 mm or more, not {margin_mm!r}.")
        check_effort(effort)
        given = {"margin_mm": margin_mm, "trust_nothing": trust_nothing, "effort": effort}
        for name, value in {"model": as_model(model), **given}.items():
            object.__setattr__(self, name, value)

    def describe(self) -> dict[str, Any]:
        """What ends in the provenance."""
        manifest = self.model.manifest
        return {
            "model": manifest.name,
            "model_version": manifest.version,
            "weights_sha256": self.model.sha256,
            "margin_mm": self.margin_mm,
            "trust_nothing": self.trust_nothing,
            "effort": self.effort,
        }


def is_number(value: object) -> bool:
    """Whether it is a real number of Python or numpy, not a text that looks like one, nor True or False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_effort(effort: float) -> None:
    """Refuse what is no effort.

    Raises:
        InputError: it is not in [0, 1].
    """
    if not is_number(effort) or not 0 <= effort <= 1:
        raise InputError(f"The effort is a number from 0 (fast) to 1 (thorough), such as 0.5, not {effort}.")


def marking_keys(structures: Iterable[str], found: Iterable[Key]) -> list[Key] | None:
    """Which coarse masks mark where structures can be: those of the same structure, and of its organ.

    The organ is the anatomic region of a tumour's or vessel's SNOMED codes. None when a structure has no such
    mask: then nobody knows where it is.
    """
    keys: dict[Key, None] = {}
    candidates = list(found)
    for structure in structures:
        region = structure_or_tissue(structure).region
        marking = [
            key
            for key in candidates
            if key[1] == structure or (region and structure_or_tissue(key[1]).type.value == region.value)
        ]
        if not marking:
            return None
        keys |= dict.fromkeys(marking)
    return list(keys)


def marked_voxels(
    found: Segmentation, keys: Iterable[Key], margin_mm: float, prepared: PreparedImage
) -> np.ndarray:
    """The voxels of a prepared image within the widened boxes around all connected parts of some masks.

    Args:
        found: of the same image, on its grid.
        keys: of the masks.
        margin_mm: by which each box is widened on every side.
        prepared: the image.

    Returns:
        (D, H, W) bool, of the shape of `prepared.tensor`; empty where nothing was found.
    """
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    margins = [ceil(margin_mm / step) for step in spacing]
    kept = np.zeros(tuple(prepared.tensor.shape), bool)
    for key in keys:
        place, mask = found.cropped(key)
        components, count = ndimage.label(mask, _ALL_NEIGHBORS)
        for part in ndimage.find_objects(components) if count else ():
            box = widened(placed_in(place, part), margins, found.shape)
            kept[prepared.network_box(box)] = True
    return kept


def body_voxels(prepared: PreparedImage, preprocessing: Preprocessing) -> np.ndarray:
    """The voxels of a prepared image that are not air or table around the patient.

    The body is the largest connected object denser than air; each of its slices counts with everything inside
    its bounding box (so lungs and gas belong to it), widened by 10 mm in all directions.

    Args:
        prepared: the image.
        preprocessing: how its intensities were scaled.

    Returns:
        (D, H, W) bool; everything when there is nothing denser than air.
    """
    # where clipping has made air and fat equal, anything above the clip is denser than air
    hounsfield = max(BODY_THRESHOLD_HU, preprocessing.clip[0])
    dense = prepared.tensor > (hounsfield - preprocessing.subtract) / preprocessing.divide + 1e-6
    body = largest_object(array_of(dense))
    if body is None:
        return np.ones(tuple(dense.shape), bool)
    margins = body_margins(preprocessing.spacing)
    kept = np.zeros_like(body)
    for plane, filled in zip(body, kept, strict=True):
        rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            filled[
                max(0, rows[0] - margins[1]) : rows[-1] + margins[1] + 1,
                max(0, columns[0] - margins[2]) : columns[-1] + margins[2] + 1,
            ] = True
    grown = ndimage.maximum_filter1d(kept.view(np.uint8), 2 * margins[0] + 1, axis=0, mode="constant")
    return grown.astype(bool)
