"""Stomach and bowel of the phantom: tubes with a wall and a content, in the frame of `torso`.

Part of them is collapsed: then they are little but wall, which enhances like the pancreas beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canvas import Painter, tube
from .shapes import smooth_path
from .tissues import Tissue

_SOFT = [Tissue.VISCERAL_FAT]


def digestive_painters(rng: np.random.Generator) -> list[Painter]:
    """Painters of oesophagus, stomach, duodenum, colon and small bowel of one patient."""
    low, high = np.array([-85.0, -5, -190]), np.array([85.0, 72, -15])
    return [*_stomach(rng), *_duodenum(rng), *_colon(rng), *small_bowel_painters(rng, low, high)]


def small_bowel_painters(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> list[Painter]:
    """Loops of small bowel that wander through a box, a part of them collapsed.

    Args:
        rng: random generator.
        low: one corner of the box, x, y, z in mm.
        high: the other one.
    """
    emptiness = rng.spawn(1)[0]
    painters: list[Painter] = []
    for _ in range(int(rng.integers(10, 24))):
        point = rng.uniform(low, high)
        heading = rng.normal(0, 1, 3)
        radius = rng.uniform(8, 15)
        points = []
        for _ in range(int(rng.integers(5, 14))):
            heading = heading / np.linalg.norm(heading) + rng.normal(0, 0.5, 3)
            point = point + 20 * heading / np.linalg.norm(heading)
            heading = np.where((point < low) | (point > high), -heading, heading)
            point = np.clip(point, low, high)
            points.append((*point, radius * rng.uniform(0.8, 1.2)))
        path = smooth_path(np.array(points), 8)
        wall = _collapse(path, emptiness, 0.4, (0.55, 0.8)) or 2.5
        painters += _hollow_organ(path, wall, (Tissue.BOWEL_WALL, Tissue.SMALL_BOWEL))
    return painters


def _collapse(
    path: np.ndarray, rng: np.random.Generator, probability: float, sizes: tuple[float, float]
) -> float | None:
    """Sometimes make a tube narrower, in place; return the thickness of its wall then, mm."""
    if rng.random() >= probability:
        return None
    path[:, 3] *= rng.uniform(*sizes)
    return float(path[:, 3].mean() * rng.uniform(0.6, 1.0))


def _hollow_organ(path: np.ndarray, wall: float, tissues: tuple[Tissue, Tissue]) -> list[Painter]:
    """A tube with columns x, y, z, radius (mm): the wall first, then the content inside it."""
    outer, inner = tissues
    content = np.maximum(path[:, 3] - wall, 1.0)
    return [*tube(path[:, :3], path[:, 3], outer, _SOFT), *tube(path[:, :3], content, inner, [outer])]


def _random_path(rng: np.random.Generator, points: ArrayLike, spread: float, size: float) -> np.ndarray:
    """A smooth path through the shifted points, columns x, y, z, radius (mm); size scales the radius."""
    array = np.array(points, float)
    array[:, :3] += rng.normal(0, spread, (len(array), 3)) + rng.normal(0, spread / 2, 3)
    array[:, 3] *= size * rng.uniform(0.85, 1.15, len(array))
    return smooth_path(array, 8)


def _stomach(rng: np.random.Generator) -> list[Painter]:
    emptiness = rng.spawn(1)[0]
    size = rng.uniform(0.5, 1.25)
    points = [(-60, -12, 84, 40), (-64, 12, 58, 38), (-52, 44, 24, 31), (-22, 54, 2, 25), (14, 48, 8, 16)]
    gullet = smooth_path(np.array([(-6.0, -22, 320), (-14, -20, 120), (-34, -12, 92)]), 30)
    path = _random_path(rng, points, 8, size)
    wall = _collapse(path, emptiness, 0.3, (0.4, 0.7)) or 4.5
    return [
        *_hollow_organ(path, wall, (Tissue.STOMACH_WALL, Tissue.STOMACH)),
        *tube(gullet, np.full(len(gullet), 8.0), Tissue.ESOPHAGUS, [*_SOFT, Tissue.LUNG]),
    ]


def _duodenum(rng: np.random.Generator) -> list[Painter]:
    points = [
        (18, 46, 10, 13),
        (42, 28, 12, 14),
        (54, 6, -20, 13),
        (38, 0, -54, 13),
        (-4, 0, -52, 11),
        (-26, 12, -30, 11),
    ]
    emptiness = rng.spawn(1)[0]
    path = _random_path(rng, points, 5, rng.uniform(0.75, 1.15))
    wall = _collapse(path, emptiness, 0.4, (0.6, 0.85)) or 3.0
    return _hollow_organ(path, wall, (Tissue.BOWEL_WALL, Tissue.SMALL_BOWEL))


def _colon(rng: np.random.Generator) -> list[Painter]:
    sag = rng.uniform(-70, 0)
    points = [
        (88, 15, -140, 28), (100, 5, -95, 27), (104, 0, -50, 25), (92, 22, -18, 24),
        (60, 62, -35 + sag / 2, 22), (5, 70, -30 + sag, 21), (-55, 58, -5 + sag / 2, 21), (-95, 15, 35, 22),
        (-104, -12, -5, 20), (-108, -18, -70, 18), (-98, 0, -130, 18), (-70, 5, -170, 18),
        (-25, 15, -165, 18), (5, -10, -190, 18), (0, -45, -225, 20), (0, -42, -270, 18),
    ]  # fmt: skip
    path = _random_path(rng, points, 8, rng.uniform(0.7, 1.3))
    path[:, 3] *= 1 + 0.16 * np.sin(np.arange(len(path)) * 1.9 + rng.uniform(0, 6))
    emptiness = rng.spawn(1)[0]
    if emptiness.random() < 0.5:  # a stretch of it
        middle, length = emptiness.uniform(0, len(path)), emptiness.uniform(6, 25)
        near = np.exp(-(((np.arange(len(path)) - middle) / length) ** 2))
        path[:, 3] *= 1 - emptiness.uniform(0.3, 0.6) * near
    return _hollow_organ(path, 3.0, (Tissue.COLON_WALL, Tissue.COLON))
