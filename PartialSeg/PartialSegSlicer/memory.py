"""How much memory a run needs."""

from collections.abc import Collection

import numpy as np

from PartialSegLib.manifest import Manifest

from .geometry import volumeInMl

_WORKER_BYTES = 600 << 20  # the process with PyTorch and the weights, before it sees an image
_BYTES_PER_GRID_VOXEL = 8  # intensities before and after scaling
_BYTES_PER_SCORE = 3  # float16, and as much again for the task that is being cleaned up


def neededMemory(volumeNode, model: Manifest | None, tasks: Collection[str] | None = None) -> int:
    """Estimate the bytes that segmenting a volume takes, in the worker and for masks here.

    Args:
        volumeNode: a scalar volume node.
        model: the manifest of the model; None leaves out the network's grid. Features that are kept to speed
            up the next task come on top, up to the budget that the user sets for them.
        tasks: of the model, which are scored together; None for all.
    """
    needed = _WORKER_BYTES + imageBytes(volumeNode) + 2 * volumeNode.GetImageData().GetNumberOfPoints()
    if model is not None:
        gridVoxels = volumeInMl(volumeNode) * 1000 / np.prod(model.preprocessing.spacing)
        scored = [task for task in model.tasks if tasks is None or task.name in tasks]
        channels = sum(max(task.structures.values()) + 1 for task in scored)
        needed += int(gridVoxels * (_BYTES_PER_GRID_VOXEL + _BYTES_PER_SCORE * channels))
    return needed


def imageBytes(volumeNode) -> int:
    """Return the bytes of a volume's voxels."""
    image = volumeNode.GetImageData()
    return image.GetNumberOfPoints() * image.GetScalarSize() * image.GetNumberOfScalarComponents()
