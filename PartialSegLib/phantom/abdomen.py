"""Solid organs and vessels of the phantom, in the frame of `torso`."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Shape, capsule, ellipsoid
from .tissues import Tissue
from .torso import Painter, Torso, _paint, _turn

_SOFT = [Tissue.VISCERAL_FAT]


def organ_painters(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    """Painters of all solid organs and vessels of one patient, in the order in which they must be drawn."""
    return [
        *_great_vessels(rng, torso),
        *_kidneys(rng, torso),
        *_liver(rng),
        *_spleen(rng),
        *_pancreas(rng),
        *_pelvic_organs(rng),
    ]


def tube(points: np.ndarray, radii: np.ndarray, tissue: Tissue, over: list[Tissue] | None) -> list[Painter]:
    """A bent tube: capsules between points (N, 3) with the given radii (N), mm."""
    return [
        _paint(capsule(points[i], points[i + 1], radii[i], radii[i + 1]), tissue, over) for i in range(len(points) - 1)
    ]


def smooth_path(points: np.ndarray, step: float) -> np.ndarray:
    """Resample a polyline (N, C) with a Catmull-Rom spline, about `step` mm between points (first three columns)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    result = []
    for i in range(1, len(padded) - 2):
        before, start, end, after = padded[i - 1 : i + 3]
        count = max(int(np.linalg.norm((end - start)[:3]) / step), 1)
        t = (np.arange(count) / count)[:, None]
        result.append(
            0.5 * (2 * start + (end - before) * t + (2 * before - 5 * start + 4 * end - after) * t**2
                   + (3 * start - before - 3 * end + after) * t**3)
        )
    return np.concatenate([*result, points[-1:]])


def _vary(rng: np.random.Generator, points: list[tuple[float, ...]], spread: float) -> np.ndarray:
    """Points with a common and an individual random shift."""
    array = np.array(points, float)
    return array + rng.normal(0, spread, 3) + rng.normal(0, spread / 2, array.shape)


def _great_vessels(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    front = float(torso.spine_y(0)) + 28
    over = [Tissue.VISCERAL_FAT, Tissue.LUNG]
    radius, shift = rng.uniform(8, 13), rng.normal(0, 4)
    aorta = _vary(rng, [(-14 + shift, front, 300), (-14 + shift, front - 2, 100), (-10 + shift, front, 0), (-6 + shift, front + 2, -78)], 2)
    cava = _vary(rng, [(20 + shift, front + 6, 118), (22, front + 4, 60), (18, front, 0), (16, front, -85)], 3)
    painters = [
        *tube(smooth_path(aorta, 25), np.linspace(1.15, 0.85, 40) * radius, Tissue.ARTERY, over),
        *tube(smooth_path(cava, 25), np.full(40, rng.uniform(8, 13)), Tissue.VEIN, over),
    ]
    for side in (-1, 1):
        for start, tissue, back in ((aorta[-1], Tissue.ARTERY, 0.0), (cava[-1], Tissue.VEIN, 10.0)):
            path = smooth_path(np.array([start, (side * 38, front + 8 - back, -130), (side * 65, 45, -240)]), 25)
            painters += tube(path, np.full(40, 6.0), tissue, over)
        renal = [(aorta[2] + (0, 0, 2), Tissue.ARTERY, 3.0), (cava[2] + (0, 3, 0), Tissue.VEIN, 5.0)]
        for start, tissue, size in renal:
            path = np.array([start, (side * 42, torso.spine_y(0) + 12, -5)])
            painters += tube(path, np.full(2, size), tissue, over)
    mesenteric = _vary(rng, [(-4, front + 14, 10), (-6, front + 26, -25), (0, front + 34, -80), (25, front + 36, -120)], 4)
    painters += tube(smooth_path(mesenteric, 15), np.linspace(4.5, 2, 40), Tissue.ARTERY, over)
    painters += tube(smooth_path(mesenteric + (13, 2, 0), 15), np.linspace(6.5, 3, 40), Tissue.PORTAL_VEIN, over)
    return painters


def _kidneys(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    painters: list[Painter] = []
    back = float(torso.spine_y(0))
    size = rng.uniform(0.82, 1.2)
    for side in (-1, 1):
        center = np.array([side * rng.uniform(54, 70), back + rng.uniform(-6, 10), rng.normal(-12 if side > 0 else 0, 12)])
        radii = np.array([27, 25, 54]) * size * rng.uniform(0.9, 1.12, 3)
        turn = _turn(-side * rng.uniform(0.05, 0.35), 1) @ _turn(rng.uniform(0.0, 0.3), 0) @ _turn(side * rng.uniform(0.2, 0.7), 2)
        painters.append(_paint(ellipsoid(center, radii, turn), Tissue.KIDNEY_CORTEX, _SOFT))
        kidney = [Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA]
        for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
            offset = turn @ (np.array([0.1, 0.45 * np.cos(angle), 0.52 * np.sin(angle)]) * radii)
            painters.append(_paint(ellipsoid(center + offset, (8, 7, 9)), Tissue.KIDNEY_MEDULLA, kidney))
        hilum = center + turn @ (np.array([-side * 0.75, 0.1, 0]) * radii)
        fat = rng.uniform(0.6, 1.25)
        painters.append(_paint(ellipsoid(hilum, np.array([16, 9, 21]) * fat, turn), Tissue.VISCERAL_FAT, kidney))
        pelvis = np.array([11, 5, 9]) * rng.uniform(0.5, 1.8)
        painters.append(_paint(ellipsoid(hilum, pelvis, turn), Tissue.RENAL_PELVIS, [*kidney, Tissue.VISCERAL_FAT]))
        ureter = smooth_path(np.array([hilum, hilum + (0, 5, -50), (side * 35, back + 25, -130), (side * 30, 0, -225)]), 25)
        painters += tube(ureter, np.full(60, 2.5), Tissue.RENAL_PELVIS, _SOFT)
        top = center + turn @ np.array([0, 0, radii[2] + 4]) + (-side * 10, 6, 0)
        for limb in ((-side * 2, -14, 6), (-side * 14, -8, 6)):
            painters.append(_paint(capsule(top, top + limb, 4, 2.5), Tissue.ADRENAL, _SOFT))
    return painters


def _liver(rng: np.random.Generator) -> list[Painter]:
    size = rng.uniform(0.85, 1.15)
    lobes = [
        ellipsoid(np.array([66, 4, 48]) + rng.normal(0, 6, 3), np.array([76, 82, 92]) * size * rng.uniform(0.9, 1.1, 3)),
        ellipsoid(
            np.array([86, -6, rng.uniform(-35, 10)]), np.array([42, 48, 58]) * size * rng.uniform(0.75, 1.2, 3)
        ),
        ellipsoid(
            np.array([rng.uniform(-35, 15), 44, rng.uniform(52, 72)]),
            np.array([rng.uniform(45, 95), 38, 36]) * size,
            _turn(rng.uniform(-0.3, 0.1), 1) @ _turn(rng.uniform(-0.2, 0.3), 2),
        ),
    ]
    hollow = ellipsoid((rng.uniform(0, 18), rng.uniform(-20, 0), rng.uniform(-20, 5)), np.array([52, 52, 62]) * rng.uniform(0.85, 1.1, 3))
    liver = _union_without(lobes, hollow)
    gallbladder = ellipsoid((rng.uniform(38, 58), rng.uniform(25, 48), rng.uniform(-10, 15)), np.array([13, 17, 26]) * rng.uniform(0.6, 1.35), _turn(0.5, 0))
    hilum = np.array([28.0, 6.0, 44.0])
    painters = [_paint(liver, Tissue.LIVER, _SOFT)]
    if rng.random() < 0.85:
        painters.append(_paint(gallbladder, Tissue.GALLBLADDER, [Tissue.LIVER, Tissue.VISCERAL_FAT]))
    for end, radius in (((70, 2, 50), 6.5), ((85, 20, 25), 5.5), ((80, -20, 70), 5.0), ((0, 38, 62), 5.5)):
        painters += _tree(rng, hilum, np.array(end) + rng.normal(0, 8, 3), radius, 3)
    for end, radius in (((95, -15, 55), 5.5), ((58, 45, 55), 5.0), ((-15, 42, 66), 4.5)):
        painters += _tree(rng, np.array([20.0, -10.0, 100.0]), np.array(end) + rng.normal(0, 8, 3), radius, 2)
    portal = smooth_path(np.array([(4, 2, 2), (14, 4, 20), hilum]) + rng.normal(0, 2, 3), 15)
    return painters + tube(portal, np.full(20, rng.uniform(5.5, 8)), Tissue.PORTAL_VEIN, _SOFT)


def _tree(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, radius: float, generations: int) -> list[Painter]:
    """A branching vessel inside the liver."""
    painters = [_paint(capsule(start, end, radius, radius * 0.7), Tissue.HEPATIC_VESSEL, [Tissue.LIVER])]
    if generations:
        direction = end - start
        length = 0.75 * np.linalg.norm(direction)
        for _ in range(2):
            turned = direction / np.linalg.norm(direction) + rng.normal(0, 0.55, 3)
            painters += _tree(rng, end, end + length * turned / np.linalg.norm(turned), radius * 0.68, generations - 1)
    return painters


def _union_without(parts: list[Shape], hollow: Shape) -> Shape:
    """Smooth union of parts less a hollow."""

    def level(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        total = sum(np.exp(np.minimum(-4 * part.level(x, y, z), 20)) for part in parts)
        return np.maximum(1 - total, -hollow.level(x, y, z))

    return Shape(np.min([p.low for p in parts], axis=0) - 10, np.max([p.high for p in parts], axis=0) + 10, level)


def _spleen(rng: np.random.Generator) -> list[Painter]:
    size = np.exp(rng.normal(0, 0.17))
    center = np.array([-rng.uniform(88, 102), rng.uniform(-48, -22), rng.uniform(38, 75)])
    turn = _turn(rng.uniform(0.2, 0.8), 2) @ _turn(rng.uniform(-0.3, 0.4), 0)
    body = ellipsoid(center, np.array([34, 56, 55]) * size * rng.uniform(0.85, 1.15, 3), turn)
    hollow = ellipsoid(center + (rng.uniform(34, 52), 22, rng.uniform(-15, 10)), np.array([36, 42, 60]) * size)
    return [_paint(_union_without([body], hollow), Tissue.SPLEEN, _SOFT)]


def _pancreas(rng: np.random.Generator) -> list[Painter]:
    points = _vary(
        rng, [(30, 6, -22), (26, 10, -2), (8, 22, 8), (-20, 14, 14), (-48, 0, 24), (-78, -20, rng.uniform(25, 55))], 7
    )
    radii = np.array([11, 15, 10, 11, 11, 9]) * rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 6)
    path = smooth_path(np.column_stack([points, radii]), 8)
    lobules = 1 + 0.15 * rng.normal(0, 1, len(path))
    painters = tube(path[:, :3], path[:, 3] * lobules, Tissue.PANCREAS, _SOFT)
    splenic = path[len(path) // 3 :, :3] + (0, -11, 3)
    return painters + tube(splenic, np.full(len(splenic), 4.0), Tissue.PORTAL_VEIN, [*_SOFT, Tissue.PANCREAS])


def _pelvic_organs(rng: np.random.Generator) -> list[Painter]:
    bladder = ellipsoid((0, 25, -218), np.array([42, 32, 34]) * rng.uniform(0.5, 1.4, 3))
    organ = ellipsoid((rng.normal(0, 8), -8, rng.uniform(-245, -215)), (rng.uniform(20, 38), 22, rng.uniform(20, 36)))
    return [_paint(bladder, Tissue.BLADDER, _SOFT), _paint(organ, Tissue.PELVIC_ORGAN, _SOFT)]
