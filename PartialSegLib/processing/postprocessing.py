"""The clean-up of masks that a manifest declares.

Most steps work on the scores of the network's grid: a voxel that is removed gets the score 0, and the mask on
the input grid then follows from the scores as ever. "keep_largest_of_union" works on the masks there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..pytorch.tensor_arrays import array_of, tensor_of
from ..task import PostprocessingStep
from .mask_combination import clear_voxels, unite_masks
from .resampling import bounding_box
from .restoration import Restored

_SHARED_COORDINATES = {6: 1, 18: 2, 26: 3}  # in scipy's words: the rank of the neighbourhood


def apply_postprocessing(
    scores: Mapping[str, Tensor], steps: Sequence[PostprocessingStep], threshold: float
) -> dict[str, Tensor]:
    """Run the steps on the network's grid in order.

    Args:
        scores: per structure (D, H, W); left as they are.
        steps: `Task.network_steps`.
        threshold: a voxel belongs to a structure when its score is greater; at least 0.

    Returns:
        The scores with removed voxels at 0 ("include": the greater of both scores; "mask_by" of scores with
        threshold 0: removed voxels as far below 0 as they were from it, or a neighbour above 0 would reach
        into them when it is interpolated).
    """
    result = dict(scores)
    for step in steps:
        before = result[step.structure]
        if step.step == "include":
            result[step.structure] = torch.maximum(before, result[step.other or ""])
        elif step.step == "mask_by":
            without = torch.zeros_like(before) if threshold > 0 else -before.abs()
            result[step.structure] = before.where(result[step.other or ""] > threshold, without)
        else:
            result[step.structure] = _filter_components(before, step, threshold)
    return result


def keep_largest_of_unions(
    masks: Mapping[str, Restored], steps: Sequence[PostprocessingStep]
) -> dict[str, Restored]:
    """Run the steps on the grid of the image in order.

    This is `remove_all_but_largest_component_from_segmentation` of nnU-Net version 2 (Isensee et al., Nature
    Methods 2021) for masks that may overlap: of equally large components all stay, and what a step removes
    is background from then on, whatever else it was.

    Args:
        masks: per structure a box of the input grid (z, y, x), and the mask within it; left as they are. All
            structures that the steps name are among them.
        steps: `Task.image_steps`.

    Returns:
        The same without the voxels that were removed.
    """
    cleaned = {structure: (box, mask.copy()) for structure, (box, mask) in masks.items()}
    for step in steps:
        box, united = unite_masks([cleaned[structure] for structure in step.union])
        rejected = _rejected_components(united, step)
        for found in cleaned.values():
            clear_voxels(found, (box, rejected))
    return cleaned


def _filter_components(scores: Tensor, step: PostprocessingStep, threshold: float) -> Tensor:
    mask = scores > threshold
    if not mask.any():
        return scores
    box = bounding_box(mask)
    rejected = tensor_of(_rejected_components(array_of(mask[box]), step, scores[box]))
    filtered = scores.clone()
    filtered[box].masked_fill_(rejected.to(scores.device), 0)
    return filtered


def _rejected_components(
    mask: np.ndarray, step: PostprocessingStep, scores: Tensor | None = None
) -> np.ndarray:
    """The voxels of the connected components that a step removes from a mask (z, y, x)."""
    neighborhood = ndimage.generate_binary_structure(3, _SHARED_COORDINATES[step.connectivity])
    components, count = ndimage.label(mask, neighborhood)
    sizes = np.bincount(components[mask], minlength=count + 1)  # 0 for the background
    rejected = np.zeros(count + 1, dtype=bool)
    if step.step == "keep_largest":
        rejected[np.argsort(-sizes, kind="stable")[step.count :]] = True  # equal sizes: the first found stays
    elif step.step == "keep_largest_of_union":
        rejected = sizes < sizes.max()
    elif step.step == "drop_uncertain" and scores is not None:
        measure = ndimage.mean if step.measure == "mean" else ndimage.maximum
        certainty = measure(array_of(scores.float()), components, np.arange(1, count + 1))
        rejected[1:] = certainty <= (step.score or 0)
    elif count > 1 or not step.only_if_several:
        rejected = sizes <= (step.voxels or 0)
    rejected[0] = False
    return rejected[components]
