"""Lesions: random blobs inside (or on) an organ of any map of tissues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .smooth_field import SmoothField
from .tissues import Tissue, membership


@dataclass(frozen=True)
class LesionKind:
    """Where a kind of lesion grows (`sites`), what it may replace (`over`), and its radii in mm."""

    tissue: Tissue
    sites: tuple[Tissue, ...]
    over: tuple[Tissue, ...]
    radius: tuple[float, float]
    most: int  # lesions of this kind in one patient


_LIVER = (Tissue.LIVER, Tissue.HEPATIC_VESSEL)
_KIDNEY = (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA)
_AROUND_KIDNEYS = (Tissue.VISCERAL_FAT, Tissue.FAT)
_COLON = (Tissue.COLON_WALL, Tissue.COLON)
LESION_KINDS: dict[str, LesionKind] = {
    "liver_cyst": LesionKind(Tissue.LIVER_CYST, _LIVER, _LIVER, (4, 20), 3),
    "kidney_cyst": LesionKind(Tissue.KIDNEY_CYST, _KIDNEY, (*_KIDNEY, *_AROUND_KIDNEYS), (4, 22), 3),
    "liver_tumor": LesionKind(Tissue.LIVER_TUMOR, _LIVER, (*_LIVER, Tissue.LIVER_CYST), (5, 38), 6),
    "kidney_tumor": LesionKind(
        Tissue.KIDNEY_TUMOR,
        _KIDNEY,
        (*_KIDNEY, *_AROUND_KIDNEYS, Tissue.KIDNEY_CYST, Tissue.RENAL_PELVIS),
        (8, 36),
        2,
    ),
    "pancreas_tumor": LesionKind(
        Tissue.PANCREAS_TUMOR,
        (Tissue.PANCREAS,),
        (Tissue.PANCREAS, Tissue.PANCREATIC_DUCT, Tissue.BILE_DUCT, Tissue.VISCERAL_FAT),
        (7, 24),
        1,
    ),
    "colon_tumor": LesionKind(
        Tissue.COLON_TUMOR, (Tissue.COLON_WALL,), (*_COLON, Tissue.VISCERAL_FAT), (9, 28), 1
    ),
    "lung_tumor": LesionKind(
        Tissue.LUNG_TUMOR, (Tissue.LUNG, Tissue.LUNG_VESSEL), (Tissue.LUNG, Tissue.LUNG_VESSEL), (5, 26), 2
    ),
}


def add_lesions(
    tissues: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    kinds: dict[str, float],
) -> None:
    """Grow lesions into a map of tissues, in place.

    Args:
        tissues: (z, y, x) uint8.
        spacing: voxel size (z, y, x), mm.
        rng: random generator.
        kinds: probability for each kind of `LESION_KINDS` that the patient has it.
    """
    for name, probability in kinds.items():
        kind = LESION_KINDS[name]
        if rng.random() >= probability:
            continue
        sites = np.flatnonzero(membership(kind.sites)[tissues])
        for _ in range(int(rng.integers(1, kind.most + 1)) if sites.size else 0):
            center = np.unravel_index(int(rng.choice(sites)), tissues.shape)
            radius = float(np.exp(rng.uniform(*np.log(kind.radius))))
            _grow(tissues, spacing, rng, kind, np.asarray(center), radius)


def _grow(
    tissues: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    kind: LesionKind,
    center: np.ndarray,
    radius: float,
) -> None:
    """Paint one bumpy ellipsoid around a voxel."""
    reach = np.ceil(1.6 * radius / np.asarray(spacing)).astype(int)
    low = np.maximum(center - reach, 0)
    high = np.minimum(center + reach + 1, tissues.shape)
    axes = [(np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, center, spacing, strict=True)]
    stretch = np.exp(rng.normal(0, 0.18, 3))
    distance2 = sum(
        (axis.reshape([-1 if i == j else 1 for j in range(3)]) * stretch[i]) ** 2
        for i, axis in enumerate(axes)
    )
    bumps = SmoothField(
        rng, np.full(3, -1.6 * radius), np.full(3, 1.6 * radius), max(0.7 * radius, 4.0), 0.25
    )
    part = tissues[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    inside = np.sqrt(distance2) < radius * (1 + bumps(*axes))
    part[inside & membership(kind.over)[part]] = kind.tissue
