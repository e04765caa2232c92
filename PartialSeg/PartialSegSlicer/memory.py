"""How much memory a run needs."""

from collections.abc import Collection
from math import prod

import numpy as np

from PartialSegLib.manifest import WEIGHTS_FILE, Manifest

from .scene.geometry import volumeInMl

_WORKER_BYTES = 600 << 20  # the process with PyTorch, before it has a model
_WEIGHT_COPIES = 3  # in float32, in the type that the network runs in, and of the engine
_BYTES_PER_PATCH_VOXEL = 600  # of activations: 400 to 700 for the networks that were measured
_BYTES_PER_GRID_VOXEL = 8  # intensities before and after scaling
_BYTES_PER_SCORE = 3  # float16, and as much again for the task that is being cleaned up


def neededMemory(
    volumeNode, model: Manifest | None, tasks: Collection[str] | None = None, imageIsSent: bool = False
) -> int:
    """Estimate the bytes that segmenting a volume takes, in the worker and for masks here.

    The network's share is that on the CPU.

    Args:
        volumeNode: a scalar volume node.
        model: the manifest of the model; None leaves out the network's grid. Features that are kept to speed
            up the next task come on top, up to the budget that the user sets for them.
        tasks: of the model, which are scored together; None for all.
        imageIsSent: whether the worker has the model and the image: then both are there already.
    """
    needed = 2 * volumeNode.GetImageData().GetNumberOfPoints()
    if not imageIsSent:
        needed += _WORKER_BYTES + imageBytes(volumeNode)
    if model is None:
        return needed
    gridVoxels = volumeInMl(volumeNode) * 1000 / np.prod(model.preprocessing.spacing)
    scored = [task for task in model.tasks if tasks is None or task.name in tasks]
    channels = sum(max(task.structures.values()) + 1 for task in scored)
    needed += int(gridVoxels * _BYTES_PER_SCORE * channels)
    if not imageIsSent:
        needed += int(gridVoxels * _BYTES_PER_GRID_VOXEL) + _networkBytes(model)
    return needed


def _networkBytes(model: Manifest) -> int:
    weights = model.files[WEIGHTS_FILE].bytes if WEIGHTS_FILE in model.files else 0
    return _WEIGHT_COPIES * weights + _BYTES_PER_PATCH_VOXEL * prod(model.inference.patch_size)


def imageBytes(volumeNode) -> int:
    """Return the bytes of a volume's voxels."""
    image = volumeNode.GetImageData()
    return image.GetNumberOfPoints() * image.GetScalarSize() * image.GetNumberOfScalarComponents()
