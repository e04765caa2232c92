"""Solid organs and vessels of the phantom, in the frame of `torso`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canvas import Painter, paint, tube
from .shapes import capsule, ellipsoid, rotation, smooth_path, union_without
from .tissues import Tissue
from .torso import Torso

_SOFT = [Tissue.VISCERAL_FAT]
_PERIRENAL_FAT = Tissue.FAT  # not visceral fat: neither liver nor spleen nor bowel may take its place
_AROUND_KIDNEYS = [*_SOFT, _PERIRENAL_FAT]
_KIDNEY = [Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA]
_AROUND_VESSELS = [Tissue.VISCERAL_FAT, Tissue.LUNG]
_ONE_KIDNEY, _LOW_KIDNEY = 0.06, 0.2  # shares; where a kidney should be then lies spleen, liver or bowel


def organ_painters(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    """Painters of all solid organs and vessels of one patient, in the order in which they must be drawn."""
    return [
        *_great_vessels(rng, torso),
        *_kidneys(rng, torso),
        *_liver(rng),
        *_spleen(rng, torso),
        *_pancreas(rng),
        *_pelvic_organs(rng),
    ]


def _vary(rng: np.random.Generator, points: ArrayLike, spread: float) -> np.ndarray:
    """Points (N, 3) with a common and an individual random shift."""
    array = np.asarray(points, float)
    return array + rng.normal(0, spread, 3) + rng.normal(0, spread / 2, array.shape)


def _great_vessels(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    front = float(torso.spine_y(0)) + 28
    radius, shift = rng.uniform(8, 13), rng.normal(0, 4)
    aorta = [
        (-14 + shift, front, 300),
        (-14 + shift, front - 2, 100),
        (-10 + shift, front, 0),
        (-6 + shift, front + 2, -78),
    ]
    cava = [(20 + shift, front + 6, 118), (22, front + 4, 60), (18, front, 0), (16, front, -85)]
    arterial, venous = _vary(rng, aorta, 2), _vary(rng, cava, 3)
    return [
        *tube(
            smooth_path(arterial, 25), np.linspace(1.15, 0.85, 40) * radius, Tissue.ARTERY, _AROUND_VESSELS
        ),
        *tube(smooth_path(venous, 25), np.full(40, rng.uniform(8, 13)), Tissue.VEIN, _AROUND_VESSELS),
        *_branches(arterial, venous, torso),
        *_mesenteric_vessels(rng, front),
    ]


def _branches(aorta: np.ndarray, cava: np.ndarray, torso: Torso) -> list[Painter]:
    """Iliac and renal vessels on both sides, from the ends and third points of aorta and vena cava."""
    painters: list[Painter] = []
    spine = float(torso.spine_y(0))
    for side in (-1, 1):
        for start, tissue, back in ((aorta[-1], Tissue.ARTERY, 0.0), (cava[-1], Tissue.VEIN, 10.0)):
            iliac = np.array([start, (side * 38, spine + 28 + 8 - back, -130), (side * 65, 45, -240)])
            painters += tube(smooth_path(iliac, 25), np.full(40, 6.0), tissue, _AROUND_VESSELS)
        kidney = (side * 42, spine + 12, -5)
        artery, vein = np.add(aorta[2], (0, 0, 2)), np.add(cava[2], (0, 3, 0))
        painters += tube(np.array([artery, kidney]), np.full(2, 3.0), Tissue.ARTERY, _AROUND_VESSELS)
        painters += tube(np.array([vein, kidney]), np.full(2, 5.0), Tissue.VEIN, _AROUND_VESSELS)
    return painters


def _mesenteric_vessels(rng: np.random.Generator, front: float) -> list[Painter]:
    """The superior mesenteric artery, and the vein beside it that drains into the portal vein."""
    points = [(-4, front + 14, 10), (-6, front + 26, -25), (0, front + 34, -80), (25, front + 36, -120)]
    path = _vary(rng, points, 4)
    artery, vein = smooth_path(path, 15), smooth_path(np.add(path, (13, 2, 0)), 15)
    return [
        *tube(artery, np.linspace(4.5, 2, 40), Tissue.ARTERY, _AROUND_VESSELS),
        *tube(vein, np.linspace(6.5, 3, 40), Tissue.PORTAL_VEIN, _AROUND_VESSELS),
    ]


def _kidneys(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    painters: list[Painter] = []
    back = float(torso.spine_y(0))
    size = rng.uniform(0.82, 1.2)
    thickness = min(0.4 * torso.fat, 14)
    missing = rng.choice([-1, 1]) if rng.random() < _ONE_KIDNEY else 0
    for side in (-1, 1):
        if side == missing:
            continue
        x, y = side * rng.uniform(54, 70), back + rng.uniform(-6, 10)
        lower = rng.uniform(15, 60) if rng.random() < _LOW_KIDNEY else 0
        center = np.array([x, y, rng.normal(-12 if side > 0 else 0, 12) - lower])
        radii = np.array([27, 25, 54]) * size * rng.uniform(0.9, 1.12, 3)
        tilt = rotation(-side * rng.uniform(0.05, 0.35), 1) @ rotation(rng.uniform(0.0, 0.3), 0)
        turn = tilt @ rotation(side * rng.uniform(0.2, 0.7), 2)
        painters += [
            paint(ellipsoid(center, radii + thickness, turn), _PERIRENAL_FAT, [*_SOFT, Tissue.MUSCLE]),
            paint(ellipsoid(center, radii, turn), Tissue.KIDNEY_CORTEX, _AROUND_KIDNEYS),
        ]
        for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
            offset = turn @ (np.array([0.1, 0.45 * np.cos(angle), 0.52 * np.sin(angle)]) * radii)
            painters.append(paint(ellipsoid(center + offset, (8, 7, 9)), Tissue.KIDNEY_MEDULLA, _KIDNEY))
        hilum = center + turn @ (np.array([-side * 0.75, 0.1, 0]) * radii)
        sinus = ellipsoid(hilum, np.array([16, 9, 21]) * rng.uniform(0.6, 1.25), turn)
        pelvis = ellipsoid(hilum, np.array([11, 5, 9]) * rng.uniform(0.5, 1.8), turn)
        ureter = [hilum, np.add(hilum, (0, 5, -50)), (side * 35, back + 25, -130), (side * 30, 0, -225)]
        painters += [
            paint(sinus, Tissue.VISCERAL_FAT, _KIDNEY),
            paint(pelvis, Tissue.RENAL_PELVIS, [*_KIDNEY, Tissue.VISCERAL_FAT]),
            *tube(smooth_path(np.array(ureter), 25), np.full(60, 2.5), Tissue.RENAL_PELVIS, _AROUND_KIDNEYS),
        ]
        top = center + turn @ np.array([0, 0, radii[2] + 4]) + np.array([-side * 10, 6, 0])
        for limb in ((-side * 2, -14, 6), (-side * 14, -8, 6)):
            painters.append(paint(capsule(top, np.add(top, limb), 4, 2.5), Tissue.ADRENAL, _AROUND_KIDNEYS))
    return painters


def _liver(rng: np.random.Generator) -> list[Painter]:
    size = rng.uniform(0.92, 1.2)
    lobes = [
        ellipsoid(
            np.array([66, 4, 48]) + rng.normal(0, 6, 3),
            np.array([76, 82, 92]) * size * rng.uniform(0.9, 1.1, 3),
        ),
        ellipsoid(
            np.array([86, -6, rng.uniform(-35, 10)]),
            np.array([42, 48, 58]) * size * rng.uniform(0.75, 1.2, 3),
        ),
        ellipsoid(
            np.array([rng.uniform(-35, 15), 44, rng.uniform(52, 72)]),
            np.array([rng.uniform(45, 95), 38, 36]) * size,
            rotation(rng.uniform(-0.3, 0.1), 1) @ rotation(rng.uniform(-0.2, 0.3), 2),
        ),
    ]
    hollow = ellipsoid(
        (rng.uniform(0, 18), rng.uniform(-20, 0), rng.uniform(-20, 5)),
        np.array([52, 52, 62]) * rng.uniform(0.85, 1.1, 3),
    )
    liver = union_without(lobes, hollow)
    gallbladder = ellipsoid(
        (rng.uniform(38, 58), rng.uniform(25, 48), rng.uniform(-10, 15)),
        np.array([13, 17, 26]) * rng.uniform(0.6, 1.35),
        rotation(0.5, 0),
    )
    painters = [paint(liver, Tissue.LIVER, _SOFT)]
    if rng.random() < 0.85:
        painters.append(paint(gallbladder, Tissue.GALLBLADDER, [Tissue.LIVER, Tissue.VISCERAL_FAT]))
    return painters + _liver_vessels(rng)


def _liver_vessels(rng: np.random.Generator) -> list[Painter]:
    """Portal branches from the hilum, hepatic veins from the vena cava, and the trunk of the portal vein."""
    painters: list[Painter] = []
    hilum, cava = np.array([28.0, 6.0, 44.0]), np.array([20.0, -10.0, 100.0])
    for end, radius in (((70, 2, 50), 6.5), ((85, 20, 25), 5.5), ((80, -20, 70), 5.0), ((0, 38, 62), 5.5)):
        painters += _tree(rng, hilum, np.array(end) + rng.normal(0, 8, 3), radius, 3)
    for end, radius in (((95, -15, 55), 5.5), ((58, 45, 55), 5.0), ((-15, 42, 66), 4.5)):
        painters += _tree(rng, cava, np.array(end) + rng.normal(0, 8, 3), radius, 2)
    portal = smooth_path(np.array([(4, 2, 2), (14, 4, 20), hilum]) + rng.normal(0, 2, 3), 15)
    return painters + tube(portal, np.full(20, rng.uniform(5.5, 8)), Tissue.PORTAL_VEIN, _SOFT)


def _tree(
    rng: np.random.Generator, start: np.ndarray, end: np.ndarray, radius: float, generations: int
) -> list[Painter]:
    """A branching vessel inside the liver."""
    painters = [paint(capsule(start, end, radius, radius * 0.7), Tissue.HEPATIC_VESSEL, [Tissue.LIVER])]
    if generations:
        direction = end - start
        length = 0.75 * np.linalg.norm(direction)
        for _ in range(2):
            turned = direction / np.linalg.norm(direction) + rng.normal(0, 0.55, 3)
            tip = end + length * turned / np.linalg.norm(turned)
            painters += _tree(rng, end, tip, radius * 0.68, generations - 1)
    return painters


def _spleen(rng: np.random.Generator, torso: Torso) -> list[Painter]:
    """A spleen under the left dome; in some patients it reaches behind the stomach towards the spine."""
    size = np.exp(rng.normal(0.1, 0.2))
    x, y = -rng.uniform(76, 98), rng.uniform(-48, -22)
    dome = float(torso.diaphragm(np.array(x), np.array(y)))
    center = np.array([x, y, dome - rng.uniform(18, 45)])
    turn = rotation(rng.uniform(0.2, 0.8), 2) @ rotation(rng.uniform(-0.3, 0.4), 0)
    parts = [ellipsoid(center, np.array([34, 56, 55]) * size * rng.uniform(0.85, 1.15, 3), turn)]
    if rng.random() < 0.5:
        back = float(torso.spine_y(center[2])) + rng.uniform(-12, 8)
        inner = np.array([x + rng.uniform(15, 40), back, center[2] - rng.uniform(0, 35)])
        parts.append(ellipsoid(inner, np.array([32, 24, 36]) * size * rng.uniform(0.8, 1.15, 3)))
    inward = np.array([rng.uniform(34, 52), rng.uniform(22, 32), rng.uniform(-15, 10)])
    hollow = ellipsoid(center + inward, np.array([36, 42, 60]) * size)
    return [paint(union_without(parts, hollow), Tissue.SPLEEN, _SOFT)]


def _pancreas(rng: np.random.Generator) -> list[Painter]:
    tail = (-78, -20, rng.uniform(25, 55))
    points = _vary(rng, [(30, 6, -22), (26, 10, -2), (8, 22, 8), (-20, 14, 14), (-48, 0, 24), tail], 7)
    radii = np.array([11, 15, 10, 11, 11, 9]) * rng.uniform(0.85, 1.4) * rng.uniform(0.85, 1.15, 6)
    path = smooth_path(np.column_stack([points, radii]), 8)
    lobules = 1 + 0.15 * rng.normal(0, 1, len(path))
    painters = tube(path[:, :3], path[:, 3] * lobules, Tissue.PANCREAS, _SOFT)
    splenic = np.add(path[len(path) // 3 :, :3], (0, -11, 3))
    painters += tube(splenic, np.full(len(splenic), 4.0), Tissue.PORTAL_VEIN, [*_SOFT, Tissue.PANCREAS])
    return painters + _ducts(path[:, :3], rng.spawn(1)[0])


def _ducts(pancreas: np.ndarray, rng: np.random.Generator) -> list[Painter]:
    """The bile duct from the liver through the pancreas' head, and the pancreatic duct; a fifth are wide."""
    wide = rng.random(2) < 0.2
    head = pancreas[1] + rng.normal(0, 2, 3) + (3, -4, 0)
    points = [np.add(head, (8, 10, 62)), np.add(head, (2, 6, 34)), head, np.add(pancreas[0], (9, 0, -8))]
    bile = smooth_path(np.array(points), 8)
    radius = rng.uniform(5, 8) if wide[0] else rng.uniform(1.5, 4)
    along = pancreas + rng.normal(0, 2, 3)
    duct = rng.uniform(2, 4.5) if wide[1] else rng.uniform(0.7, 1.5)
    return [
        *tube(along, np.full(len(along), duct), Tissue.PANCREATIC_DUCT, [Tissue.PANCREAS]),
        *tube(bile, np.full(len(bile), radius), Tissue.BILE_DUCT, [*_SOFT, Tissue.PANCREAS]),
    ]


def _pelvic_organs(rng: np.random.Generator) -> list[Painter]:
    bladder = ellipsoid((0, 25, -218), np.array([42, 32, 34]) * rng.uniform(0.5, 1.4, 3))
    center = (rng.normal(0, 8), -8, rng.uniform(-245, -215))
    organ = ellipsoid(center, (rng.uniform(20, 38), 22, rng.uniform(20, 36)))
    return [paint(bladder, Tissue.BLADDER, _SOFT), paint(organ, Tissue.PELVIC_ORGAN, _SOFT)]
