"""Body wall, skeleton, muscles and chest of the phantom, in reference millimetres.

Reference frame: RAS (x grows to the patient's right, y to the front, z to the head); the origin lies in the
middle of the body at the level of the first lumbar vertebra.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .canvas import Canvas, Painter, paint, tube
from .shapes import capsule, ellipsoid, rotation
from .tissues import Tissue

_LEVELS = np.array([-480, -300, -260, -200, -150, -60, 40, 120, 220, 320], float)
_HALF_WIDTH = np.array([150, 150, 152, 150, 145, 128, 132, 140, 142, 130], float)
_HALF_DEPTH = np.array([80, 92, 98, 94, 90, 85, 91, 97, 92, 78], float)
_VERTEBRA = 33.0  # height of a vertebra and its disc
_NECK = 345.0  # where the shoulders end


class Torso:
    """Random parameters of one trunk and the painters that draw it, in order.

    Args:
        rng: random generator; all randomness is drawn here, so that every slab shows the same patient.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        slim = rng.uniform(0.88, 1.12)
        self.half_width = _HALF_WIDTH * slim * rng.uniform(0.96, 1.04, len(_LEVELS))
        self.half_depth = _HALF_DEPTH * rng.uniform(0.86, 1.16) * rng.uniform(0.96, 1.04, len(_LEVELS))
        self.exponent = rng.uniform(2.1, 2.7)
        self.fat = float(np.exp(rng.normal(2.7, 0.55)))
        self.wall = rng.uniform(8, 15)
        self.back = float(np.interp(0, _LEVELS, self.half_depth))
        self.dome_right = np.array([rng.uniform(58, 78), rng.uniform(-5, 15), rng.uniform(80, 130)])
        self.dome_left = np.array([-rng.uniform(58, 78), rng.uniform(-5, 15), rng.uniform(65, 120)])
        self.dome_curve = rng.uniform(0.009, 0.013)
        self.lordosis = rng.uniform(0, 12)
        self.rng = np.random.default_rng(rng.integers(2**32))
        self.fixed = self._chest() + self._spine() + self._pelvis() + self._muscles()
        self.arms_lifted = self.rng.random() > 0.25
        self.fixed += self._table()
        self.apex = self.rng.uniform(262, 292)
        self.fixed += self._great_vessels_of_the_chest() + self._neck_and_shoulders()

    def spine_y(self, z: float | np.ndarray) -> np.ndarray:
        """Front-back position of the middle of the vertebral bodies at height z."""
        return -self.back + 50 + self.lordosis * np.cos((np.asarray(z) + 60) / 90)

    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height of the diaphragm over (x, y): the higher of two domes."""
        domes = []
        for apex in (self.dome_right, self.dome_left):
            domes.append(apex[2] - self.dome_curve * ((x - apex[0]) ** 2 + 0.9 * (y - apex[1]) ** 2))
        return np.maximum(*domes)

    def paint(self, canvas: Canvas) -> None:
        """Draw wall, chest, abdominal fat, skeleton and muscles."""
        depth, ring = self._depth(canvas)
        angle = np.arctan2(np.abs(canvas.x), -canvas.y) / np.pi  # 0 at the back, 1 in front
        fat = self.fat * (0.7 + 0.6 * np.sin(np.pi * np.clip(angle * 1.2, 0, 1)))
        canvas.fill(depth > -fat, Tissue.FAT)
        canvas.fill(depth > 0, Tissue.MUSCLE)
        inside = depth > ring
        below = canvas.z < self.diaphragm(canvas.x, canvas.y)
        canvas.fill(inside & ~below, Tissue.LUNG)
        tips = self.apex - 0.009 * ((np.abs(canvas.x) - 58) ** 2 + canvas.y**2)
        canvas.fill(inside & (canvas.z > tips), Tissue.MUSCLE)
        canvas.fill(inside & below, Tissue.VISCERAL_FAT)
        legs = canvas.z < -285
        canvas.fill(inside & legs, Tissue.MUSCLE)
        margin = np.where(angle < 0.62, -32, -32 + (angle - 0.62) * 300)
        rib = np.mod(canvas.z + 75 * angle, 27.0) < 10
        caged = (canvas.z > margin) & (canvas.z < self.apex + 15)
        canvas.fill((depth > 2) & (depth < 10) & rib & caged, Tissue.BONE)
        for painter in self.fixed:
            painter(canvas)

    def _depth(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        """Distance in mm below the outer muscle surface, and the thickness of the muscle ring."""
        z = canvas.z
        width = np.interp(z, _LEVELS, self.half_width).astype(np.float32)
        depth = np.interp(z, _LEVELS, self.half_depth).astype(np.float32)
        power = self.exponent
        rho = (np.abs(canvas.x / width) ** power + np.abs(canvas.y / depth) ** power) ** (1 / power)
        rho = np.maximum(rho, 1e-3)
        surface = np.hypot(canvas.x, canvas.y) * (1 / rho - 1)
        legs = 74 - np.hypot(np.abs(canvas.x) - 85, canvas.y)
        surface = np.where(z < -285, legs, surface)
        surface = np.where(z > _NECK, 60 - np.hypot(canvas.x, canvas.y + 12), surface)
        ring = np.where(z > 30, np.float32(self.wall + 5), np.float32(self.wall))
        return surface, ring

    def _chest(self) -> list[Painter]:
        rng, left = self.rng, self.dome_left[2]
        heart = ellipsoid(
            (-22, 32, left + rng.uniform(38, 52)),
            (rng.uniform(48, 66), rng.uniform(40, 52), rng.uniform(45, 60)),
            rotation(rng.uniform(-0.4, 0.4), 2),
        )
        middle = ellipsoid((-5, 0, left + 95), (32, 85, 130))
        painters = [
            paint(heart, Tissue.HEART, [Tissue.LUNG]),
            paint(middle, Tissue.VISCERAL_FAT, [Tissue.LUNG]),
        ]
        for _ in range(60):
            side = rng.choice([-1, 1])
            hilum = np.array([side * 32, -5, left + rng.uniform(50, 90)])
            end = hilum + rng.normal(0, 1, 3) * (45, 45, 55) + (side * 45, 0, 0)
            vessel = capsule(hilum, end, rng.uniform(2, 5), 0.8)
            painters.append(paint(vessel, Tissue.LUNG_VESSEL, [Tissue.LUNG]))
        sternum = capsule((0, self.back + 2, 75), (0, self.back - 4, 260), 11, 14)
        painters.append(paint(sternum, Tissue.BONE, [Tissue.MUSCLE, Tissue.FAT]))
        return painters

    def _great_vessels_of_the_chest(self) -> list[Painter]:
        """Ascending aorta and arch, superior vena cava, and the pulmonary arteries to both hila."""
        heart = self.dome_left[2] + 50
        top, back = heart + self.rng.uniform(75, 100), float(self.spine_y(250)) + 28
        radius = self.rng.uniform(11, 16)
        arch = [(8, 30, heart + 25), (12, 28, top - 20), (2, 14, top), (-14, back, top - 15)]
        pulmonary = [(-14, 34, heart + 25), (-12, 18, heart + 50)]
        over = [Tissue.LUNG, Tissue.VISCERAL_FAT, Tissue.MUSCLE]
        painters = [
            *tube(np.array(arch, float), np.full(4, radius), Tissue.ARTERY, over),
            *tube(np.array(pulmonary, float), np.full(2, 13.0), Tissue.HEART, over),
            paint(capsule((26, 18, heart + 20), (28, 16, 300), 9, 8), Tissue.VEIN, over),
        ]
        for side in (-1, 1):
            hilum = (side * 42, -2, heart + 42 + self.rng.normal(0, 6))
            painters += [
                paint(capsule(pulmonary[1], hilum, 11, 8), Tissue.HEART, over),
                paint(capsule((side * 12, 12, top), (side * 26, 4, 460), 5, 3.5), Tissue.ARTERY, over),
                paint(capsule((side * 20, 18, top), (side * 36, 2, 460), 7, 5), Tissue.VEIN, over),
            ]
        return painters

    def _neck_and_shoulders(self) -> list[Painter]:
        """Trachea, thyroid gland, shoulder blades and collar bones."""
        painters = [
            paint(capsule((0, 2, self.dome_left[2] + 120), (0, 22, 470), 10, 9), Tissue.AIR),
            *(
                paint(ellipsoid((side * 17, 24, 355), (9, 9, 20)), Tissue.PELVIC_ORGAN, [Tissue.MUSCLE])
                for side in (-1, 1)
            ),
        ]
        for side in (-1, 1):
            painters += self._arm(side)
            blade = ellipsoid((side * 90, -85, 240), (48, 7, 60))
            painters += [
                paint(blade, Tissue.BONE, [Tissue.MUSCLE, Tissue.FAT]),
                paint(
                    capsule((side * 10, 75, 262), (side * 140, 10, 320), 6, 6), Tissue.BONE, [Tissue.MUSCLE]
                ),
            ]
        return painters

    def _arm(self, side: int) -> list[Painter]:
        """Shoulder and arm: lifted over the head, or beside the body down to the wrist."""
        chest, joint = (side * 95.0, -20.0, 285.0), (side * 165.0, -10.0, 300.0)
        if self.arms_lifted:
            bones = [(joint, (side * 185.0, 10.0, 520.0))]
        else:
            elbow = (side * (210 + self.fat), -10.0, 20.0)
            bones = [(joint, elbow), (elbow, (side * (195 + self.fat), 25.0, -240.0))]
        limbs = [(chest, joint), *bones]
        painters = []
        for radius, tissue, over in (
            (50 + 0.5 * self.fat, Tissue.FAT, [Tissue.AIR]),
            (48, Tissue.MUSCLE, [Tissue.AIR, Tissue.FAT]),
        ):
            for start, end in limbs:
                below = 0.8 if end[2] < 0 else 1.0
                painters.append(paint(capsule(start, end, radius, radius * below), tissue, over))
        painters += [paint(capsule(start, end, 16, 12), Tissue.BONE) for start, end in bones]
        return [*painters, paint(ellipsoid(joint, (24, 24, 24)), Tissue.BONE)]

    def _spine(self) -> list[Painter]:
        painters = []
        body = self.rng.uniform(17, 22)
        for z in np.arange(-140, 450, _VERTEBRA):
            y, top = float(self.spine_y(z)), z + _VERTEBRA
            low, high = (0, y, z), (0, float(self.spine_y(top)), top)
            behind = (0, y - 27, z), (0, y - 27, top)
            transverse = capsule((-36, y - 24, z + 12), (36, y - 24, z + 12), 4.5, 4.5)
            painters += [
                paint(capsule(*behind, 14, 14), Tissue.BONE),
                paint(capsule(low, high, body, body), Tissue.BONE),
                paint(capsule(low, high, body - 2.5, body - 2.5), Tissue.MARROW),
                paint(ellipsoid(high, (body - 0.5, body - 0.5, 4)), Tissue.DISC),
                paint(capsule(*behind, 8.5, 8.5), Tissue.SPINAL_CANAL),
                paint(capsule((0, y - 42, z + 6), (0, y - 58, z), 4, 5), Tissue.BONE),
                paint(transverse, Tissue.BONE, [Tissue.MUSCLE, Tissue.VISCERAL_FAT]),
            ]
        return painters

    def _pelvis(self) -> list[Painter]:
        painters = [paint(ellipsoid((0, float(self.spine_y(-170)) - 12, -175), (46, 19, 55)), Tissue.MARROW)]
        for side in (-1, 1):
            wing = ellipsoid((side * 88, -18, -150), (9, 52, 58), rotation(side * 0.7, 2))
            head = (side * 88, -2, -232)
            painters += [
                paint(wing, Tissue.BONE),
                paint(ellipsoid(head, (30, 30, 30)), Tissue.BONE),
                paint(capsule(head, (side * 120, -5, -255), 18, 24), Tissue.MARROW),
                paint(capsule((side * 118, -5, -255), (side * 98, 0, -480), 19, 15), Tissue.MARROW),
                paint(capsule((side * 70, 40, -230), (0, 58, -245), 11, 9), Tissue.BONE),
            ]
        return painters

    def _muscles(self) -> list[Painter]:
        painters = []
        soft = [Tissue.FAT, Tissue.VISCERAL_FAT]
        size = self.rng.uniform(0.75, 1.2)
        for side in (-1, 1):
            y = self.spine_y(np.array([10, -80]))
            path = [
                (side * 22, y[0], 10),
                (side * 42, y[1] + 6, -80),
                (side * 72, y[1] + 34, -190),
                (side * 95, 20, -245),
            ]
            for (start, end), a, b in zip(pairwise(path), (7, 20, 18), (20, 18, 12), strict=True):
                painters.append(paint(capsule(start, end, a * size, b * size), Tissue.MUSCLE, soft))
            for start, end, radius in (
                ((side * 64, y[0] - 12, 5), (side * 72, y[1] - 10, -110), 11 * size),
                ((side * 30, -self.back + 20, -160), (side * 27, -self.back + 18, 320), 23 * size),
                ((side * 70, -60, -130), (side * 95, -55, -260), 48 * size),
            ):
                painters.append(paint(capsule(start, end, radius, radius), Tissue.MUSCLE, soft))
        return painters

    def _table(self) -> list[Painter]:
        if self.rng.random() >= 0.7:
            return []
        height = -self.back - 1.4 * self.fat - self.rng.uniform(8, 30)

        def table(canvas: Canvas) -> None:
            plate = canvas.y - (canvas.x / 30) ** 2 * 0.35
            inside = (np.abs(plate - height) < 9) & (np.abs(canvas.x) < 230)
            canvas.fill(inside, Tissue.TABLE, [Tissue.AIR])

        return [table]
