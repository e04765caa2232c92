"""Solids, paths and rotations in millimetres, from which the anatomy of the phantom is put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Shape:
    """A solid: `level(x, y, z)` is negative inside; corners low and high (x, y, z) bound it, mm RAS."""

    low: np.ndarray
    high: np.ndarray
    level: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def ellipsoid(center: ArrayLike, radii: ArrayLike, turn: np.ndarray | None = None) -> Shape:
    """Ellipsoid at center (x, y, z) with radii in mm, its axes turned by a rotation matrix."""
    middle = np.asarray(center, np.float32)
    turn = np.eye(3) if turn is None else turn
    rows = (turn / np.asarray(radii)).T.astype(np.float32)
    reach = np.sqrt(((turn * np.asarray(radii)) ** 2).sum(axis=1))

    def level(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - middle[0], y - middle[1], z - middle[2]
        u, v, w = (row[0] * dx + row[1] * dy + row[2] * dz for row in rows)
        return u**2 + v**2 + w**2 - np.float32(1)

    return Shape(middle - reach, middle + reach, level)


def capsule(start: ArrayLike, end: ArrayLike, radius_start: float, radius_end: float) -> Shape:
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


def union_without(parts: Sequence[Shape], hollow: Shape) -> Shape:
    """Smooth union of the parts, less a hollow."""

    def level(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        total = sum(np.exp(np.minimum(-4 * part.level(x, y, z), 20)) for part in parts)
        return np.maximum(1 - total, -hollow.level(x, y, z))

    low = np.min([part.low for part in parts], axis=0) - 10
    high = np.max([part.high for part in parts], axis=0) + 10
    return Shape(low, high, level)


def rotation(angle: float, axis: int) -> np.ndarray:
    """Rotation matrix by angle (rad) about one axis (0 x, 1 y, 2 z)."""
    matrix = np.eye(3)
    first, second = [index for index in range(3) if index != axis]
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def smooth_path(points: np.ndarray, step: float) -> np.ndarray:
    """Resample a polyline with a Catmull-Rom spline.

    Args:
        points: (N, C); the first three columns are x, y, z in mm, further ones are interpolated alike.
        step: rough distance of the new points, mm.
    """
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    result = []
    for i in range(1, len(padded) - 2):
        before, start, end, after = padded[i - 1 : i + 3]
        count = max(int(np.linalg.norm((end - start)[:3]) / step), 1)
        t = (np.arange(count) / count)[:, None]
        linear, square = end - before, 2 * before - 5 * start + 4 * end - after
        cube = 3 * start - before - 3 * end + after
        result.append(0.5 * (2 * start + linear * t + square * t**2 + cube * t**3))
    return np.concatenate([*result, points[-1:]])
