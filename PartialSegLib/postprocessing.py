"""The clean-up of masks that a manifest declares, done on the scores of the network's grid.

A voxel that is removed gets the score 0; the mask on the input grid then follows from the scores as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .resampling import bounding_box
from .task import PostprocessingStep

_SHARED_COORDINATES = {6: 1, 18: 2, 26: 3}  # in scipy's words: the rank of the neighbourhood


def apply_postprocessing(
    scores: Mapping[str, Tensor], steps: Sequence[PostprocessingStep], threshold: float
) -> dict[str, Tensor]:
    """Run the steps in order.

    Args:
        scores: per structure (D, H, W); left as they are.
        steps: of the task.
        threshold: a voxel belongs to a structure when its score is greater; at least 0.

    Returns:
        The scores with removed voxels at 0 ("include": the greater of both scores).
    """
    result = dict(scores)
    for step in steps:
        before = result[step.structure]
        if step.step == "include":
            result[step.structure] = torch.maximum(before, result[step.other or ""])
        elif step.step == "mask_by":
            result[step.structure] = before.where(result[step.other or ""] > threshold, 0)
        else:
            result[step.structure] = _filter_components(before, step, threshold)
    return result


def _filter_components(scores: Tensor, step: PostprocessingStep, threshold: float) -> Tensor:
    mask = scores > threshold
    box = bounding_box(mask)
    rejected = torch.from_numpy(_rejected_components(mask[box].cpu().numpy(), step))
    filtered = scores.clone()
    filtered[box].masked_fill_(rejected.to(scores.device), 0)
    return filtered


def _rejected_components(mask: np.ndarray, step: PostprocessingStep) -> np.ndarray:
    """The voxels of the connected components that "keep_largest" or "drop_small" removes."""
    neighborhood = ndimage.generate_binary_structure(3, _SHARED_COORDINATES[step.connectivity])
    components, count = ndimage.label(mask, neighborhood)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0  # the background is no component
    rejected = np.zeros(count + 1, dtype=bool)
    if step.step == "keep_largest":
        rejected[np.argsort(-sizes, kind="stable")[step.count :]] = True  # equal sizes: the first found stays
    elif count > 1 or not step.only_if_several:
        rejected = sizes <= (step.voxels or 0)
    rejected[0] = False
    return rejected[components]
