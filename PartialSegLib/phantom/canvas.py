"""A slab of space on which shapes given in millimetres are painted as tissues."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .shapes import Shape, capsule
from .tissues import Tissue, membership

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


class Canvas:
    """Tissues (Z, Y, X) of a slab and the bent coordinates of its voxels.

    Args:
        axes: voxel centres along z, y, x in mm.
        bend: displacement (x, y, z) of every voxel in mm, each (Z, Y, X).
    """

    def __init__(self, axes: Coordinates, bend: Coordinates) -> None:
        z, y, x = axes
        self.axes = axes
        self.x = x[None, None, :].astype(np.float32) + bend[0]
        self.y = y[None, :, None].astype(np.float32) + bend[1]
        self.z = z[:, None, None].astype(np.float32) + bend[2]
        self.margin = max(float(np.abs(part).max()) for part in bend)
        self.tissues = np.zeros(self.x.shape, np.uint8)

    def paint(self, shape: Shape, tissue: Tissue, over: Sequence[Tissue] | None = None) -> None:
        """Set the voxels inside shape to tissue, but only those that are now one of `over` (None: all)."""
        box = self._box(shape)
        if box is None:
            return
        inside = shape.level(self.x[box], self.y[box], self.z[box]) < 0
        self.fill(inside, tissue, over, box)

    def fill(
        self,
        inside: np.ndarray,
        tissue: Tissue,
        over: Sequence[Tissue] | None = None,
        box: tuple[slice, ...] = (slice(None),) * 3,
    ) -> None:
        """Set the voxels of a mask (of the box) to tissue, where `over` allows it."""
        part = self.tissues[box]
        if over is not None:
            inside = inside & membership(over)[part]
        part[inside] = tissue

    def _box(self, shape: Shape) -> tuple[slice, slice, slice] | None:
        slices = []
        for points, low, high in zip(self.axes, shape.low[::-1], shape.high[::-1], strict=True):
            inside = np.flatnonzero((points > low - self.margin) & (points < high + self.margin))
            if inside.size == 0:
                return None
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
        return slices[0], slices[1], slices[2]


Painter = Callable[[Canvas], None]


def paint(shape: Shape, tissue: Tissue, over: Sequence[Tissue] | None = None) -> Painter:
    """`Canvas.paint`, to be done later on every slab of the patient."""
    return lambda canvas: canvas.paint(shape, tissue, over)


def tube(
    points: np.ndarray, radii: np.ndarray, tissue: Tissue, over: Sequence[Tissue] | None = None
) -> list[Painter]:
    """A bent tube: capsules between points (N, 3) with the given radii (at least N), mm."""
    return [
        paint(capsule(points[i], points[i + 1], radii[i], radii[i + 1]), tissue, over)
        for i in range(len(points) - 1)
    ]
