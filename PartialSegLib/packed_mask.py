"""A boolean mask with eight voxels to a byte, cropped to where it is."""

from __future__ import annotations

import numpy as np

from .boxes import Box, bounding_box, placed_in


class PackedMask:
    """Takes an eighth of the memory of the mask; packing and unpacking cost about as much as copying it.

    Args:
        box: where the mask lies in a volume.
        mask: boolean (z, y, x), of the size of the box; copied.

    Attributes:
        box: around the voxels of the mask; of size 0 at the start of the given box if there are none.
        voxel_count: how many voxels belong to the mask.
    """

    def __init__(self, box: Box, mask: np.ndarray) -> None:
        filled = bounding_box(mask)
        part = np.ascontiguousarray(mask[filled])
        self.box = placed_in(box, filled)
        self.voxel_count = int(np.count_nonzero(part))
        self._plane_shape = part.shape[1:]
        self._planes = np.packbits(part.reshape(len(part), part[0].size if len(part) else 0), axis=1)

    def unpack(self) -> np.ndarray:
        """The boolean mask (z, y, x) within the box."""
        return self._unpacked(self._planes)

    def plane(self, z: int) -> np.ndarray | None:
        """The mask (y, x) within the box in slice z of the volume; None where the box does not reach."""
        index = z - self.box[0].start
        if not 0 <= index < len(self._planes):
            return None
        mask: np.ndarray = self._unpacked(self._planes[index : index + 1])[0]
        return mask

    def _unpacked(self, planes: np.ndarray) -> np.ndarray:
        height, width = self._plane_shape
        voxels = np.unpackbits(planes, axis=1, count=height * width)
        return voxels.view(bool).reshape(len(planes), height, width)
