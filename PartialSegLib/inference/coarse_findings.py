"""What a coarse model finds in an image, and where it is uncertain.

Uncertain is a voxel of the coarse network's grid where the score of a structure lies between 0.1 and 0.9. The
score is what the network says, blended, before any clean-up: for a sigmoid the structure's probability, for a
softmax its channel's, so that a voxel between two structures is uncertain for both. Blended logits become
probabilities first. Slices that the coarse model does not look at are certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..manifest import Inference
from ..processing.nearest_voxels import between_networks
from ..processing.preprocessing import PreparedImage
from ..processing.resampling import bounding_box
from ..processing.restoration import Restored
from ..pytorch.tensor_arrays import array_of, tensor_of
from ..segmentation import Key, Segmentation
from ..task import Task
from .region_selection import CoarsePass, marked_voxels, marking_keys
from .session_image import SessionImage

UNCERTAIN_ABOVE, UNCERTAIN_BELOW = 0.1, 0.9

AROUND = "around what the coarse model found"
OUTSIDE_THE_VISITED = "the coarse masks where no patch is visited"


def uncertain_parts(
    scores: Tensor, kept: np.ndarray | None, task: Task, inference: Inference, image: SessionImage
) -> dict[Key, Restored]:
    """Where the scores of a task are uncertain.

    Args:
        scores: (C, D, H, W), blended, on the grid of `image.tensor`.
        kept: (D, H, W) bool; the other voxels are certain. None keeps all.
        task: whose scores they are.
        inference: of the model.
        image: of the model's session.

    Returns:
        For each structure a box of `image.prepared.tensor` and the boolean mask (d, h, w) within it.
    """
    parts: dict[Key, Restored] = {}
    for structure, probability in _probabilities(scores, task, inference).items():
        uncertain = (probability > UNCERTAIN_ABOVE) & (probability < UNCERTAIN_BELOW)
        if kept is not None:
            uncertain &= tensor_of(kept).to(uncertain.device)
        uncertain = image.unpad(uncertain)
        box = bounding_box(uncertain)
        parts[task.name, structure] = box, array_of(uncertain[box]).copy()
    return parts


def _probabilities(scores: Tensor, task: Task, inference: Inference) -> dict[str, Tensor]:
    blends_logits = inference.blend == "logits"
    if inference.activation == "sigmoid":
        maps = scores.float().sigmoid() if blends_logits else scores
        return dict(zip(task.structures, maps, strict=True))
    maps = scores.float().softmax(dim=0) if blends_logits else scores
    return {structure: maps[channel] for structure, channel in task.structures.items()}


@dataclass(frozen=True, eq=False)
class CoarseFindings:
    """What a coarse model finds with all its tasks.

    Attributes:
        masks: on the input grid.
        uncertain: for each mask whose scores were computed a box of `prepared.tensor` and the voxels within.
        prepared: the image as the coarse network sees it.
    """

    masks: Segmentation
    uncertain: Mapping[Key, Restored]
    prepared: PreparedImage

    def masks_for(self, task: Task) -> dict[str, Restored] | None:
        """The coarse masks of a task's structures, on the input grid; None unless there is one of each.

        Where several coarse tasks yield a structure, the one of the task's name is taken, else the first.
        """
        masks = {}
        for structure in task.structures:
            same = sorted(
                (key for key in self.masks if key[1] == structure), key=lambda key: key[0] != task.name
            )
            if not same:
                return None
            masks[structure] = self.masks.cropped(same[0])
        return masks

    def uncertain_voxels(self, keys: Iterable[Key], image: SessionImage) -> np.ndarray:
        """Where any of some masks is uncertain: (D, H, W), over the `tensor` of another network's image."""
        uncertain = np.zeros(tuple(image.prepared.tensor.shape), bool)
        for key in keys:
            if key in self.uncertain:
                uncertain |= between_networks(self.uncertain[key], self.prepared, image.prepared)
        return image.pad(uncertain)


@dataclass(frozen=True, eq=False)
class MarkedRegion:
    """Where a task has anything to do, by a coarse model.

    Attributes:
        voxels: (D, H, W) bool, over `SessionImage.tensor`; None for everything.
        remark: how it came about, for the provenance.
        keys: of the coarse masks by which it was marked.
        masks: of the task's structures on the input grid, that can be enough in places; None where the fine
            model shall visit all of the region.
    """

    voxels: np.ndarray | None
    remark: str
    keys: Sequence[Key] = ()
    masks: Mapping[str, Restored] | None = None


def mark_region(task: Task, coarse: CoarsePass, found: CoarseFindings, image: SessionImage) -> MarkedRegion:
    """Where a coarse model found what a task looks for, and where its own result can be enough.

    Where it found nothing that is everything, whatever the effort, unless its word is taken for it
    (`CoarsePass.trust_nothing`).

    Args:
        task: of the fine model.
        coarse: the settings; with an effort of 1 its own result is never enough.
        found: what it found.
        image: of the fine model's session.
    """
    keys = marking_keys(task.structures, found.masks)
    if keys is None:
        return MarkedRegion(None, "everything: the coarse model does not know all structures")
    inside = marked_voxels(found.masks, keys, coarse.margin_mm, image.prepared)
    if not inside.any() and not coarse.trust_nothing:
        return MarkedRegion(None, "everything: the coarse model found nothing")
    voxels = image.pad(inside)
    if not inside.any():
        return MarkedRegion(voxels, "nothing: the coarse model found nothing")
    if coarse.effort == 1:
        return MarkedRegion(voxels, AROUND)
    masks = found.masks_for(task)
    if masks is None:
        return MarkedRegion(
            voxels, f"{AROUND}; all by the fine model: the coarse model does not yield all structures"
        )
    return MarkedRegion(voxels, f"{AROUND}; {OUTSIDE_THE_VISITED}", keys, masks)
