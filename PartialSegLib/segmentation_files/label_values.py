"""The value that each mask of a model has in label maps, whichever tasks were asked for."""

from __future__ import annotations

from ..manifest import Manifest
from ..segmentation import Key, writing_order


def label_values(manifest: Manifest) -> dict[Key, int]:
    """The label of every (task, structure) of a model.

    Where one task shares all voxels among its structures (one softmax, as of nnU-Net), these are the
    channels, which are the labels of the data set that it was trained on, unless one is 0, which is the
    background of every label map. For other models they count from 1 in the order of `writing_order`.
    """
    task, *others = manifest.tasks
    if manifest.inference.activation == "softmax" and not others and min(task.structures.values()) > 0:
        return {(task.name, structure): channel for structure, channel in task.structures.items()}
    keys = ((task.name, structure) for task in manifest.tasks for structure in task.structures)
    return {key: label for label, key in enumerate(writing_order(keys), start=1)}
