"""A boolean mask with eight voxels to a byte, cropped to where it is."""

from __future__ import annotations

from math import prod

import numpy as np

from .boxes import Box, bounding_box, common_box, index_within, placed_in


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
        self._planes = np.packbits(part.reshape(len(part), prod(self._plane_shape)), axis=1)

    def unpack(self) -> np.ndarray:
        """The boolean mask (z, y, x) within the box."""
        return self._unpacked(slice(None))

    def filled(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The boolean mask (z, y, x) of a volume of this shape."""
        full = np.zeros(shape, bool)
        full[self.box] = self.unpack()
        return full

    def plane(self, z: int) -> np.ndarray | None:
        """The mask (y, x) within the box in slice z of the volume; None where the box does not reach."""
        index = z - self.box[0].start
        return self._plane(index) if 0 <= index < len(self._planes) else None

    def overlaps(self, other: PackedMask) -> bool:
        """Whether a voxel of the volume belongs to both; slice by slice, so neither is unpacked whole."""
        shared = common_box(self.box, other.box)
        own, theirs = index_within(self.box, shared), index_within(other.box, shared)
        return any(
            np.any(self._plane(mine)[own[1:]] & other._plane(its)[theirs[1:]])
            for mine, its in zip(_indices(own[0]), _indices(theirs[0]), strict=True)
        )

    def _plane(self, index: int) -> np.ndarray:
        mask: np.ndarray = self._unpacked(slice(index, index + 1))[0]
        return mask

    def _unpacked(self, indices: slice) -> np.ndarray:
        height, width = self._plane_shape
        voxels = np.unpackbits(self._planes[indices], axis=1, count=height * width)
        return voxels.view(bool).reshape(len(voxels), height, width)


def _indices(extent: slice) -> range:
    return range(extent.start, extent.stop)
