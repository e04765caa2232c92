"""A slab of space on which shapes given in millimetres are painted as tissues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .tissues import Tissue

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A solid: negative values of `level(x, y, z)` are inside; low and high (x, y, z) bound it, in mm RAS."""

    low: np.ndarray
    high: np.ndarray
    level: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def ellipsoid(center: Sequence[float], radii: Sequence[float], rotation: np.ndarray | None = None) -> Shape:
    """Ellipsoid at center (x, y, z) with radii in mm, its axes turned by a rotation matrix."""
    middle = np.asarray(center, np.float32)
    turn = np.eye(3) if rotation is None else rotation
    inverse = (turn / np.asarray(radii)).T.astype(np.float32)
    reach = np.sqrt(((turn * np.asarray(radii)) ** 2).sum(axis=1))

    def level(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - middle[0], y - middle[1], z - middle[2]
        return sum((row[0] * dx + row[1] * dy + row[2] * dz) ** 2 for row in inverse) - np.float32(1)

    return Shape(middle - reach, middle + reach, level)


def capsule(start: np.ndarray, end: np.ndarray, radius_start: float, radius_end: float) -> Shape:
    """Segment between two points (x, y, z) with a radius that changes linearly along it, mm."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    axis = b - a
    length2 = np.float32(max(float(axis @ axis), 1e-6))
    reach = max(radius_start, radius_end)

    def level(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        t = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / length2, 0, 1)
        radius = np.float32(radius_start) + t * np.float32(radius_end - radius_start)
        distance2 = (dx - t * axis[0]) ** 2 + (dy - t * axis[1]) ** 2 + (dz - t * axis[2]) ** 2
        return distance2 - radius**2

    return Shape(np.minimum(a, b) - reach, np.maximum(a, b) + reach, level)


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
        """Set the voxels inside shape to tissue, only where one of the tissues in `over` is now (None: anywhere)."""
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
            allowed = np.zeros(256, bool)
            allowed[list(over)] = True
            inside = inside & allowed[part]
        part[inside] = tissue

    def _box(self, shape: Shape) -> tuple[slice, slice, slice] | None:
        slices = []
        for points, low, high in zip(self.axes, shape.low[::-1], shape.high[::-1], strict=True):
            inside = np.flatnonzero((points > low - self.margin) & (points < high + self.margin))
            if inside.size == 0:
                return None
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
        return slices[0], slices[1], slices[2]
