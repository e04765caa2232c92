"""Masks made comparable: one name each, an organ with its tumour, two sides as one organ, axes turned."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np

from ..masks.boxes import EMPTY_BOX, Box, box_around, box_shape, index_within
from ..masks.packed_mask import PackedMask
from ..segmentation import Key, Segmentation
from ..segmentation_files.label_names import comparable_names, comparable_set
from ..structures import ORGANS_WITH_TUMOR, load_structures
from ..volume import Volume, reorient


def comparable_masks(
    prediction: Segmentation, reference: Segmentation, structures: Iterable[str] | None = None
) -> tuple[Segmentation, Segmentation]:
    """The masks of both by their `comparable_names`, an organ with the tumour of the same task.

    The two sides of an organ, as left_kidney and right_kidney, together are the whole one where there is
    none: in the reference beside them; in the prediction where the reference has the whole or it is asked
    for, and then instead of sides that the reference lacks.

    Args:
        prediction: what a model found.
        reference: what is true.
        structures: ids that are asked for; None for no one in particular.

    Returns:
        Prediction and reference, each on its own grid.
    """
    ours, theirs = _renamed(prediction), _renamed(reference)
    expected = {name for _, name in theirs} | comparable_set(structures or ())
    for (task, organ), parts in _whole_organs(ours).items():
        if organ in expected:
            ours[task, organ] = parts
            for side in _sides(organ) - expected:
                del ours[task, side]
    return _joined(prediction, ours), _joined(reference, theirs | _whole_organs(theirs))


def not_compared(names: Iterable[str], common: set[str]) -> set[str]:
    """Those of some structures that are not in common, nor the whole organ of a side, nor both its sides."""
    sides = {side for organ in common for side in _sides(organ)}
    return {name for name in names if name not in common | sides and not _sides(name) <= common}


def reoriented(segmentation: Segmentation, orientation: str) -> Segmentation:
    """Permute and flip the axes of all masks, as `reorient` does those of a volume; cropped as they are.

    Raises:
        InputError: the orientation is not one of the 48 codes.
    """
    return _moved(segmentation, reorient(grid_of(segmentation), orientation))


def placed_on(segmentation: Segmentation, grid: Volume) -> Segmentation | None:
    """The same masks on a grid that is theirs with axes turned, or of which theirs is a part.

    Args:
        segmentation: on a grid of its own; a smaller one will do where nothing lies outside it (`is_part`).
        grid: only its shape and affine are looked at.

    Returns:
        Masks, cropped as they are; None where the grids do not fit.
    """
    turned = reorient(grid_of(segmentation), grid.orientation)
    first = np.rint(np.linalg.solve(grid.affine, turned.affine[:, 3])[:3]).astype(int)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    is_aligned = turned.same_geometry(Volume(turned.array, affine))
    is_inside = min(first) >= 0 and bool((first + turned.shape <= grid.shape).all())
    if not (is_aligned and is_inside and (turned.shape == grid.shape or segmentation.is_part)):
        return None
    return _moved(segmentation, grid)


def _moved(segmentation: Segmentation, grid: Volume) -> Segmentation:
    """The masks on another grid, whose voxels are the same where both have any."""
    values = segmentation.label_values
    result = Segmentation(grid.shape, grid.affine, segmentation.provenance, label_values=values)
    for key in segmentation:
        result.add(*key, *_turned(segmentation.packed(key), segmentation.affine, grid))
    if segmentation.ignored is not None:
        result.ignored = PackedMask(*_turned(segmentation.ignored, segmentation.affine, grid))
    return result


def grid_of(segmentation: Segmentation) -> Volume:
    """The grid of a segmentation as a volume of no content, which takes no memory."""
    return Volume(np.broadcast_to(np.False_, segmentation.shape), segmentation.affine)


def mask_within(box: Box, packed: PackedMask) -> np.ndarray:
    """A mask (z, y, x) in a box of the image that holds it."""
    mask = np.zeros(box_shape(box), bool)
    mask[index_within(box, packed.box)] = packed.unpack()
    return mask


def _turned(packed: PackedMask, affine: np.ndarray, grid: Volume) -> tuple[Box, np.ndarray]:
    """Where a mask lies on a turned grid, and the mask in that box."""
    if not packed.voxel_count:
        return EMPTY_BOX, np.zeros((0, 0, 0), bool)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [extent.start for extent in packed.box]
    part = reorient(Volume(packed.unpack(), affine), grid.orientation)
    start = np.rint(np.linalg.solve(grid.affine, part.affine[:, 3])[:3]).astype(int).tolist()
    z, y, x = (slice(first, first + size) for first, size in zip(start, part.shape, strict=True))
    return (z, y, x), part.array


def _renamed(segmentation: Segmentation) -> dict[Key, list[Key]]:
    """The masks by their new names, each with the key of what it is made of."""
    names = comparable_names(structure for _, structure in segmentation)
    return {(task, names[structure]): [(task, structure)] for task, structure in segmentation}


def _whole_organs(masks: dict[Key, list[Key]]) -> dict[Key, list[Key]]:
    """What the known sides of an organ make, task by task, where no task has it whole."""
    found = {name for _, name in masks}
    wholes = {}
    for task, left in masks:
        organ, right = left.removeprefix("left_"), (task, left.replace("left_", "right_", 1))
        if left in load_structures() and organ not in found and right in masks:
            wholes[task, organ] = [*masks[task, left], *masks[right]]
    return wholes


def _sides(organ: str) -> set[str]:
    return {f"left_{organ}", f"right_{organ}"}


def _joined(segmentation: Segmentation, masks: dict[Key, list[Key]]) -> Segmentation:
    """The masks by their new keys, each the union of its parts; an organ with the tumour besides."""
    result = Segmentation(
        segmentation.shape, segmentation.affine, ignored=segmentation.ignored, is_part=segmentation.is_part
    )
    for (task, name), own in masks.items():
        keys = own + (masks.get((task, f"{name}_tumor"), []) if name in ORGANS_WITH_TUMOR else [])
        parts = [segmentation.packed(key) for key in keys]
        box = reduce(box_around, (part.box for part in parts))
        result.add(task, name, box, reduce(np.logical_or, (mask_within(box, part) for part in parts)))
    return result
