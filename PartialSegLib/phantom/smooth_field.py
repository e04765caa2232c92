"""Smooth random fields in millimetres: they bend anatomy and modulate intensities."""

from __future__ import annotations

import numpy as np


class SmoothField:
    """A random function of position: cubic B-splines on a coarse grid of normally distributed knots.

    The function is fixed in space, so it can be evaluated slab by slab at any spacing.

    Args:
        rng: random generator.
        low, high: corners (z, y, x) of the region, mm.
        scale: knot distance, mm.
        amplitude: standard deviation of the knots, in the units of the field.
    """

    def __init__(
        self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray, scale: float, amplitude: float
    ) -> None:
        self.low = np.asarray(low, float)
        self.scale = scale
        knots = np.ceil((np.asarray(high) - self.low) / scale).astype(int) + 4
        self.knots = rng.normal(0, amplitude, knots).astype(np.float32)

    def __call__(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values (Z, Y, X) on the grid spanned by three axes of coordinates in mm."""
        field = self.knots
        for axis, points in zip((2, 1, 0), (x, y, z), strict=True):
            field = np.moveaxis(np.tensordot(self._basis(points, axis), field, (1, axis)), 0, axis)
        return field

    def _basis(self, points: np.ndarray, axis: int) -> np.ndarray:
        """Cubic B-spline weights (points, knots) along one axis; outside, the border is repeated."""
        count = self.knots.shape[axis]
        position = np.clip((points - self.low[axis]) / self.scale + 1, 1, count - 2.001)
        distance = np.abs(position[:, None] - np.arange(count))
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = (2 - distance) ** 3 / 6
        return np.where(distance < 1, near, np.where(distance < 2, far, 0)).astype(np.float32)
