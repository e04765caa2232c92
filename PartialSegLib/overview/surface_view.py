"""A shaded picture of masks in space: parallel rays from the front hit smoothed, translucent surfaces.

Coordinates are mm in the display orientation "IPL" (towards feet, back and left), as in `overview`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

AZIMUTH_DEGREES, ELEVATION_DEGREES = 25.0, 12.0
LIGHT = np.array([-0.55, -0.35, -0.76])  # from above, the viewer's left and the front
TO_VIEWER = np.array([0.0, 0.0, -1.0])
AMBIENT, DIFFUSE, HIGHLIGHT, SHININESS = 0.32, 0.68, 0.25, 24
SMOOTHING_STEPS = 0.9
GRAZED = 0.15
"""Smoothed mask from which a ray counts as touching a body; it passes through the surface from 0.5 on."""


@dataclass(frozen=True, eq=False)
class Body:
    """One thing to draw.

    Attributes:
        mask: boolean (z, y, x) in display orientation, cropped.
        origin: centre of its first voxel (z, y, x), mm.
        spacing: voxel size (z, y, x), mm.
        color: red, green, blue; 0 to 1.
        opacity: 0 to 1 where the surface faces the viewer.
        rim_opacity: added where it is seen edge-on, which makes bodies look like glass.
    """

    mask: np.ndarray
    origin: np.ndarray
    spacing: np.ndarray
    color: tuple[float, float, float]
    opacity: float
    rim_opacity: float = 0.0

    def corners(self) -> np.ndarray:
        """Outer corners (8, 3), mm."""
        ends = np.array(list(product(*((-1.5, size + 0.5) for size in self.mask.shape))))
        return self.origin + ends * self.spacing


def render_surfaces(bodies: Sequence[Body], step: float, background: Sequence[float]) -> np.ndarray:
    """Draw bodies from the front, turned a little so that depth shows.

    Args:
        bodies: what to draw; at least one.
        step: size of a pixel, mm.
        background: red, green, blue; 0 to 1.

    Returns:
        Picture (rows, columns, 3), values 0 to 1.
    """
    rotation = _view_rotation()
    corners = np.concatenate([body.corners() for body in bodies]) @ rotation.T / step
    first = np.floor(corners.min(axis=0)).astype(int)
    rows, columns = (np.ceil(corners.max(axis=0)).astype(int) - first + 1)[:2]
    layers = [_layer(body, rotation, step, first, (rows, columns)) for body in bodies]
    depths = np.stack([depth for depth, _ in layers])
    picture = np.broadcast_to(np.asarray(background, float), (rows, columns, 3)).copy()
    order = np.argsort(-depths, axis=0, kind="stable")  # far to near
    for rank in range(len(layers)):
        for index, (_, rgba) in enumerate(layers):
            here = order[rank] == index
            alpha = rgba[here][:, 3:]
            picture[here] = picture[here] * (1 - alpha) + rgba[here][:, :3] * alpha
    return picture[_extent(np.isfinite(depths).any(axis=0))]


def _extent(is_drawn: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(is_drawn.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _view_rotation() -> np.ndarray:
    """Rotation from (feet, back, left) to (rows, columns, depth), as (3, 3)."""
    azimuth, elevation = np.radians([AZIMUTH_DEGREES, ELEVATION_DEGREES])
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    turn = np.array([[1, 0, 0], [0, -sin, cos], [0, cos, sin]])
    cos, sin = np.cos(elevation), np.sin(elevation)
    tilt = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return np.asarray(tilt @ turn)


def _layer(
    body: Body, rotation: np.ndarray, step: float, first: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (rows, columns; infinite beside the body) and colour with opacity (rows, columns, 4)."""
    depth, rgba = np.full(size, np.inf), np.zeros((*size, 4))
    density, corner = _density(body, rotation, step)
    peak = density.max(axis=2)
    rows, columns = np.nonzero(peak > GRAZED)
    surface = np.minimum(peak[rows, columns], 0.5)
    depths = (density[rows, columns] >= surface[:, None]).argmax(axis=1)
    normals = _normals(density, (rows, columns, depths))
    row, column, start = corner - first
    depth[rows + row, columns + column] = depths + start
    color = _shade(normals, body)
    color[:, 3] *= (surface - GRAZED) / (0.5 - GRAZED)  # soft edges
    rgba[rows + row, columns + column] = color
    return depth, rgba


def _density(body: Body, rotation: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed mask on the grid of the view (rows, columns, depth) and the grid index of its first voxel."""
    corners = body.corners() @ rotation.T / step
    low = np.floor(corners.min(axis=0)).astype(int)
    shape = np.ceil(corners.max(axis=0)).astype(int) - low + 1
    padded = np.pad(body.mask, 2).astype(np.float32)
    smooth = ndimage.gaussian_filter(padded, SMOOTHING_STEPS * step / body.spacing)
    matrix = rotation.T * step / body.spacing[:, None]
    offset = (rotation.T @ low * step - body.origin) / body.spacing + 2
    return ndimage.affine_transform(smooth, matrix, offset, tuple(shape), order=1), low


def _normals(density: np.ndarray, hits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Unit vectors (hits, 3) out of the body."""
    gradient = []
    for axis in range(3):
        ahead, behind = list(hits), list(hits)
        ahead[axis] = np.minimum(hits[axis] + 1, density.shape[axis] - 1)
        behind[axis] = np.maximum(hits[axis] - 1, 0)
        gradient.append(density[tuple(behind)] - density[tuple(ahead)])
    normals = np.stack(gradient, axis=1)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6))


def _shade(normals: np.ndarray, body: Body) -> np.ndarray:
    light, halfway = _unit(LIGHT), _unit(_unit(LIGHT) + TO_VIEWER)
    facing = np.clip(normals @ light, 0, 1)[:, None]
    highlight = np.clip(normals @ halfway, 0, 1)[:, None] ** SHININESS
    color = np.asarray(body.color) * (AMBIENT + DIFFUSE * facing) + HIGHLIGHT * highlight
    rim = (1 - np.clip(normals @ TO_VIEWER, 0, 1))[:, None] ** 3
    opacity = np.clip(body.opacity + body.rim_opacity * rim, 0, 1)
    return np.concatenate([np.clip(color, 0, 1), opacity], axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))
