"""Boolean masks between the grids of one image: each voxel takes what its nearest one says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .preprocessing import AxisMap, PreparedImage
from .resampling import nearest_weights
from .restoration import Restored


def on_network_grid(found: Restored, prepared: PreparedImage) -> np.ndarray:
    """Bring a mask from the input grid to that of a prepared image.

    Args:
        found: a box of the input grid (z, y, x), and the mask within it.
        prepared: the image.

    Returns:
        (D, H, W) bool, of the shape of `prepared.tensor`.
    """
    return _in_network_order(_take(found, _input_indices(prepared)), prepared)


def between_networks(found: Restored, source: PreparedImage, target: PreparedImage) -> np.ndarray:
    """Bring a mask from the grid of one prepared image to that of another one of the same volume.

    Args:
        found: a box of `source.tensor` (D, H, W), and the mask within it.
        source: as one network sees the volume.
        target: as another one does.

    Returns:
        (D, H, W) bool, of the shape of `target.tensor`.
    """
    order = [axis.network_axis for axis in source.axes]
    box, mask = found
    turned = (box[order[0]], box[order[1]], box[order[2]]), mask.transpose(order)
    indices = [
        _nearest_network_voxels(axis)[rows] - source.crop[axis.network_axis].start
        for axis, rows in zip(source.axes, _input_indices(target), strict=True)
    ]
    return _in_network_order(_take(turned, indices), target)


def _input_indices(prepared: PreparedImage) -> list[np.ndarray]:
    """For each input axis the index of the input voxel nearest to each voxel of `prepared.tensor`."""
    return [_nearest_input_voxels(axis)[prepared.crop[axis.network_axis]] for axis in prepared.axes]


def _nearest_input_voxels(axis: AxisMap) -> np.ndarray:
    """(network) input indices."""
    nearest = nearest_weights(axis.input_size, axis.network_size).argmax(axis=1)
    return nearest[::-1] if axis.flipped else nearest


def _nearest_network_voxels(axis: AxisMap) -> np.ndarray:
    """(input) network indices."""
    nearest = nearest_weights(axis.network_size, axis.input_size).argmax(axis=1)
    return axis.network_size - 1 - nearest if axis.flipped else nearest


def _take(found: Restored, indices: Sequence[np.ndarray]) -> np.ndarray:
    """What a mask says at indices along each axis; nothing outside its box."""
    box, mask = found
    inside = [
        (along >= extent.start) & (along < extent.stop) for along, extent in zip(indices, box, strict=True)
    ]
    within = [along[held] - extent.start for along, held, extent in zip(indices, inside, box, strict=True)]
    taken = np.zeros([len(along) for along in indices], bool)
    taken[np.ix_(*inside)] = mask[np.ix_(*within)]
    return taken


def _in_network_order(mask: np.ndarray, prepared: PreparedImage) -> np.ndarray:
    """The axes of a mask, from the input's order to the network's."""
    return mask.transpose(np.argsort([axis.network_axis for axis in prepared.axes]))
