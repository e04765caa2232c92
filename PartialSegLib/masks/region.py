"""A region of interest: a box in patient coordinates, and the voxels inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..errors import InputError
from .boxes import Box


@dataclass(frozen=True)
class Region:
    """A box along the patient's axes, in RAS mm.

    Attributes:
        bounds: (lowest, highest) along R, A and S; both ends belong to the region.
    """

    bounds: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

    @classmethod
    def from_limits(cls, limits: Sequence[float] | Sequence[Sequence[float]]) -> Region:
        """Build a region from ((x0, x1), (y0, y1), (z0, z1)) or x0, x1, y0, y1, z0, z1.

        Raises:
            InputError: not six finite numbers, or a lower end above its upper end.
        """
        try:
            values = np.asarray(limits, dtype=float)
        except (TypeError, ValueError):
            values = np.empty(0)
        is_shaped, values = values.shape in ((6,), (3, 2)), values.ravel()
        if not is_shaped or not np.isfinite(values).all() or not (values[0::2] <= values[1::2]).all():
            raise InputError(
                "A region of interest is x0 x1 y0 y1 z0 z1 in mm (RAS) with x0 <= x1, y0 <= y1 and z0 <= z1, "
                f"not {limits}."
            )
        x0, x1, y0, y1, z0, z1 = values.tolist()
        return cls(((x0, x1), (y0, y1), (z0, z1)))

    def voxel_box(self, affine: np.ndarray, shape: Sequence[int]) -> Box:
        """Smallest box of voxels of a grid that holds all voxel centres inside the region.

        Raises:
            InputError: the region lies outside the image, or between the centres of its voxels.
        """
        corners = np.array([(*corner, 1) for corner in product(*self.bounds)])
        indices = np.linalg.solve(affine, corners.T)[:3]
        first = np.maximum(np.ceil(indices.min(axis=1) - 1e-6), 0).astype(int)
        last = np.minimum(np.floor(indices.max(axis=1) + 1e-6), np.array(shape) - 1).astype(int)
        if (first > last).any():
            if ((indices.max(axis=1) >= -0.5) & (indices.min(axis=1) <= np.array(shape) - 0.5)).all():
                size = " × ".join(f"{step:.3g}" for step in np.linalg.norm(affine[:3, :3], axis=0))
                raise InputError(
                    f"The region of interest lies between the centres of the voxels, which are {size} mm "
                    "large (z, y, x); choose a larger one."
                )
            ends = np.array([affine @ (*index, 1) for index in product(*((0, size - 1) for size in shape))])
            spans = [
                f"{low:.0f} to {high:.0f}" for low, high in zip(ends.min(0)[:3], ends.max(0)[:3], strict=True)
            ]
            raise InputError(
                f"The region of interest lies outside the image ({', '.join(spans)} mm in R, A, S); move it, "
                "or leave it out."
            )
        z, y, x = (slice(int(low), int(high) + 1) for low, high in zip(first, last, strict=True))
        return z, y, x

    def clear_outside(self, mask: np.ndarray, box: Box, affine: np.ndarray) -> None:
        """Set voxels to False whose centre lies outside the region.

        Args:
            mask: boolean voxels of the box, changed in place.
            box: where the mask lies on the grid.
            affine: (4, 4), of the grid.
        """
        rows, columns = (np.arange(extent.start, extent.stop) for extent in box[1:])
        for plane, index in zip(mask, range(box[0].start, box[0].stop), strict=True):
            for (low, high), (along_z, along_y, along_x, origin) in zip(self.bounds, affine[:3], strict=True):
                position = (origin + along_z * index + along_y * rows)[:, None] + along_x * columns
                plane &= (position >= low - 1e-6) & (position <= high + 1e-6)
