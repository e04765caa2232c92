"""Stomach and bowel of the phantom: tubes with a wall and a content, in the frame of `torso`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canvas import Painter, tube
from .shapes import smooth_path
from .tissues import Tissue

_SOFT = [Tissue.VISCERAL_FAT]


def digestive_painters(rng: np.random.Generator) -> list[Painter]:
    """Painters of oesophagus, stomach, duodenum, colon and small bowel of one patient."""
    return [*_stomach(rng), *_duodenum(rng), *_colon(rng), *_small_bowel(rng)]


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
    size = rng.uniform(0.5, 1.25)
    points = [(-60, -12, 84, 40), (-64, 12, 58, 38), (-52, 44, 24, 31), (-22, 54, 2, 25), (14, 48, 8, 16)]
    gullet = smooth_path(np.array([(-6.0, -22, 320), (-14, -20, 120), (-34, -12, 92)]), 30)
    return [
        *_hollow_organ(_random_path(rng, points, 8, size), 4.5, (Tissue.STOMACH_WALL, Tissue.STOMACH)),
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
    path = _random_path(rng, points, 5, rng.uniform(0.75, 1.15))
    return _hollow_organ(path, 3.0, (Tissue.BOWEL_WALL, Tissue.SMALL_BOWEL))


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
    return _hollow_organ(path, 3.0, (Tissue.COLON_WALL, Tissue.COLON))


def _small_bowel(rng: np.random.Generator) -> list[Painter]:
    painters: list[Painter] = []
    low, high = np.array([-85, -5, -190]), np.array([85, 72, -15])
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
        painters += _hollow_organ(path, 2.5, (Tissue.BOWEL_WALL, Tissue.SMALL_BOWEL))
    return painters
