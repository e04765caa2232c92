"""From a map of tissues to a CT: Hounsfield units by contrast phase, bowel content, texture, blur, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .smooth_field import SmoothField
from .tissues import Tissue

PHASES = ("native", "arterial", "portal venous", "delayed")

# HU: native, arterial, portal venous, delayed; then their spread between patients; texture within a patient
_TABLE: dict[Tissue, tuple[float, float, float, float, float, float]] = {
    Tissue.AIR: (-1000, -1000, -1000, -1000, 5, 2),
    Tissue.TABLE: (-600, -600, -600, -600, 250, 60),
    Tissue.FAT: (-105, -105, -103, -102, 8, 8),
    Tissue.VISCERAL_FAT: (-100, -99, -96, -95, 10, 14),
    Tissue.MUSCLE: (50, 55, 62, 62, 8, 12),
    Tissue.BONE: (420, 430, 430, 430, 120, 130),
    Tissue.MARROW: (170, 175, 185, 185, 60, 50),
    Tissue.DISC: (80, 85, 90, 90, 20, 15),
    Tissue.SPINAL_CANAL: (25, 30, 35, 35, 10, 8),
    Tissue.LUNG: (-830, -820, -820, -825, 50, 40),
    Tissue.LUNG_VESSEL: (20, 200, 140, 80, 60, 40),
    Tissue.HEART: (42, 240, 140, 100, 35, 30),
    Tissue.ARTERY: (42, 310, 150, 105, 40, 8),
    Tissue.VEIN: (40, 90, 145, 105, 30, 12),
    Tissue.PORTAL_VEIN: (40, 90, 165, 110, 30, 10),
    Tissue.LIVER: (55, 68, 105, 88, 14, 5),
    Tissue.HEPATIC_VESSEL: (40, 80, 150, 105, 25, 8),
    Tissue.GALLBLADDER: (10, 10, 11, 12, 9, 5),
    Tissue.SPLEEN: (47, 125, 118, 95, 12, 5),
    Tissue.KIDNEY_CORTEX: (33, 165, 175, 150, 25, 10),
    Tissue.KIDNEY_MEDULLA: (30, 75, 165, 155, 25, 12),
    Tissue.RENAL_PELVIS: (5, 6, 12, 250, 14, 8),
    Tissue.ADRENAL: (28, 70, 68, 55, 12, 6),
    Tissue.PANCREAS: (40, 100, 88, 72, 14, 12),
    Tissue.ESOPHAGUS: (35, 50, 55, 52, 10, 25),
    Tissue.STOMACH_WALL: (38, 70, 75, 68, 15, 10),
    Tissue.STOMACH: (15, 15, 15, 15, 12, 10),
    Tissue.BOWEL_WALL: (38, 85, 85, 72, 18, 10),
    Tissue.SMALL_BOWEL: (22, 24, 25, 25, 15, 12),
    Tissue.COLON_WALL: (36, 65, 70, 62, 15, 10),
    Tissue.COLON: (30, 30, 30, 30, 20, 15),
    Tissue.BLADDER: (5, 5, 8, 60, 10, 4),
    Tissue.PELVIC_ORGAN: (42, 70, 85, 80, 14, 14),
    Tissue.LIVER_CYST: (8, 8, 9, 9, 6, 3),
    Tissue.KIDNEY_CYST: (8, 8, 9, 9, 7, 3),
    Tissue.LIVER_TUMOR: (38, 60, 65, 60, 18, 12),
    Tissue.KIDNEY_TUMOR: (34, 110, 95, 80, 28, 20),
    Tissue.PANCREAS_TUMOR: (34, 58, 55, 58, 14, 8),
    Tissue.COLON_TUMOR: (42, 75, 85, 78, 14, 9),
    Tissue.LUNG_TUMOR: (25, 50, 55, 50, 30, 15),
}

_ORGANS = (Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, Tissue.PANCREAS)


@dataclass(frozen=True)
class Appearance:
    """How one scan looks: HU and texture of every tissue, bowel content, blur and noise.

    Args:
        mean, texture: (256,) HU by tissue.
        contents: for stomach, small bowel and colon the share of gas, and the HU of the rest (two kinds);
            for the heart those of blood and wall.
        bubbles: how uneven gas in the colon's content makes it: a normally distributed field of this standard
            deviation, HU, whose absolute value is taken off.
        blur: standard deviation (z, y, x) of the point spread, mm.
        noise: standard deviation of white noise, HU; noise_grain that of correlated noise.
        shading: standard deviation of a slow drift over the image, HU.
        unevenness: (256,) by tissue, standard deviation of a field of 20 mm within organs, HU: healthy ones
            are not even, by fat, perfusion and flow of the contrast agent.
        lobulation: how uneven fat between the lobules makes the pancreas, as `bubbles`.
    """

    mean: np.ndarray
    texture: np.ndarray
    contents: dict[Tissue, tuple[float, float, float]]
    bubbles: float
    blur: tuple[float, float, float]
    noise: float
    noise_grain: float
    shading: float
    unevenness: np.ndarray
    lobulation: float


def random_appearance(
    rng: np.random.Generator,
    phase: str | None = None,
    strength: float = 1.0,
    lesion_contrast: float = 1.0,
    unevenness: float = 0.0,
) -> Appearance:
    """Draw an appearance.

    Args:
        rng: random generator.
        phase: one of `PHASES`; None draws one, and mixes it with another.
        strength: 1 for realistic spread of the HU between patients; more for domain randomisation.
        lesion_contrast: multiplies the difference between tumours and the organ around them.
        unevenness: the most that organs have of it, HU; the pancreas has up to three times as much of
            `lobulation`.
    """
    weights = np.zeros(4)
    if phase is None:
        weights[rng.choice(4, p=[0.35, 0.2, 0.35, 0.1])] = 1
        weights = (1 - (mix := rng.uniform(0, 0.35))) * weights + mix * rng.dirichlet(np.ones(4))
    else:
        weights[PHASES.index(phase)] = 1
    mean, texture = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for tissue, row in _TABLE.items():
        mean[tissue] = weights @ row[:4] + rng.normal(0, row[4] * strength)
        texture[tissue] = row[5] * rng.uniform(0.5, 1.5)
    for duct in (Tissue.BILE_DUCT, Tissue.PANCREATIC_DUCT):
        mean[duct], texture[duct] = mean[Tissue.GALLBLADDER], texture[Tissue.GALLBLADDER]
    if rng.random() < 0.15:  # fatty liver
        mean[Tissue.LIVER] -= rng.uniform(10, 50)
    _separate_lesions(mean, rng, lesion_contrast)
    contents = {tissue: _content(rng) for tissue in (Tissue.STOMACH, Tissue.SMALL_BOWEL, Tissue.COLON)}
    contents[Tissue.COLON] = _content(rng, gas=0.45, stool=0.7)
    blur = rng.uniform(0.6, 2.2)
    blurs = blur * rng.uniform(0.8, 1.4), blur, blur
    noise, grain, shading = rng.uniform(2, 14), rng.uniform(1, 8), rng.uniform(0, 5)
    blood, muscle = mean[Tissue.HEART], mean[Tissue.MUSCLE]
    contents[Tissue.HEART] = 0.0, blood, muscle + rng.uniform(0.1, 0.8) * (blood - muscle)
    if weights[PHASES.index("arterial")] > 0.6 and rng.random() < 0.5:
        _make_early_arterial(mean, texture, rng)
    bubbles = rng.uniform(20, 160)
    uneven = np.zeros(256, np.float32)
    if unevenness:
        uneven[list(_ORGANS)] = rng.uniform(0, unevenness, len(_ORGANS))
    lobulation = rng.uniform(0, 3 * unevenness) if unevenness else 0.0
    return Appearance(mean, texture, contents, bubbles, blurs, noise, grain, shading, uneven, lobulation)


def _make_early_arterial(mean: np.ndarray, texture: np.ndarray, rng: np.random.Generator) -> None:
    """Before the contrast agent has come through: veins still dark, the spleen in bright and dark stripes."""
    mean[Tissue.HEPATIC_VESSEL] = mean[Tissue.VEIN] = rng.uniform(35, 55)
    mean[Tissue.PORTAL_VEIN] = rng.uniform(40, 110)
    mean[Tissue.SPLEEN] += rng.uniform(-10, 50)
    texture[Tissue.SPLEEN] = rng.uniform(10, 40)


def _separate_lesions(mean: np.ndarray, rng: np.random.Generator, contrast: float) -> None:
    """Keep lesions apart from the tissue around them, mostly darker, sometimes brighter.

    Three in ten of the pancreas' are cystic: in what DoDNet's pancreas task was made of (the Medical
    Segmentation Decathlon), cystic neoplasms are annotated as tumours beside solid ones.
    """
    kind = rng.spawn(1)[0]
    for lesion, organ in (
        (Tissue.LIVER_TUMOR, Tissue.LIVER),
        (Tissue.PANCREAS_TUMOR, Tissue.PANCREAS),
        (Tissue.KIDNEY_TUMOR, Tissue.KIDNEY_CORTEX),
    ):
        difference = rng.uniform(18, 70) * (-1 if rng.random() < 0.85 else 1)
        mean[lesion] = mean[organ] + contrast * difference
    if kind.random() < 0.3:
        mean[Tissue.PANCREAS_TUMOR] = kind.uniform(0, 35)


def _content(rng: np.random.Generator, gas: float = 0.25, stool: float = 0.15) -> tuple[float, float, float]:
    """Share of gas and two HU of the other content: fluid, food, stool, or positive contrast agent."""
    share = gas * rng.uniform(0, 2) if rng.random() < 0.8 else 0.0
    if rng.random() < 0.2:
        return share, rng.uniform(100, 600), rng.uniform(60, 600)
    if rng.random() < stool:
        return share, rng.uniform(-150, 40), rng.uniform(20, 80)
    return share, rng.uniform(0, 45), rng.uniform(0, 60)


def render(
    tissues: np.ndarray, axes: Sequence[np.ndarray], rng: np.random.Generator, appearance: Appearance
) -> np.ndarray:
    """Turn a slab of tissues into Hounsfield units.

    Args:
        tissues: (z, y, x) uint8.
        axes: voxel centres along z, y, x in mm RAS; y decides where gas rises to, the front.
        rng: random generator for texture and noise.
        appearance: how the scan looks.

    Returns:
        HU (z, y, x), float32, with air at -1024.
    """
    low, high = np.array([a.min() for a in axes]), np.array([a.max() for a in axes])
    image = appearance.mean[tissues]
    _fill_bowel(image, tissues, axes, rng, appearance)
    fine = SmoothField(rng, low, high, 9.0, 1.0)(*axes)
    image += appearance.texture[tissues] * fine
    if appearance.unevenness.any():
        image += appearance.unevenness[tissues] * SmoothField(rng, low, high, 20.0, 1.0)(*axes)
    if appearance.lobulation:
        fat = np.abs(SmoothField(rng, low, high, 7.0, 1.0)(*axes))
        image -= appearance.lobulation * fat * (tissues == Tissue.PANCREAS)
    spacing = [abs(a[1] - a[0]) if len(a) > 1 else 1.0 for a in axes]
    ndimage.gaussian_filter(
        image, [b / s for b, s in zip(appearance.blur, spacing, strict=True)], output=image, truncate=3
    )
    image += SmoothField(rng, low, high, 90.0, appearance.shading)(*axes)
    grain = rng.standard_normal(image.shape, np.float32)
    image += appearance.noise * grain
    image += 4.0 * appearance.noise_grain * ndimage.gaussian_filter(np.roll(grain, 7, 1), 0.9)
    return np.clip(image, -1024, 3071)


def _fill_bowel(
    image: np.ndarray,
    tissues: np.ndarray,
    axes: Sequence[np.ndarray],
    rng: np.random.Generator,
    appearance: Appearance,
) -> None:
    """Give hollow organs gas in front, and patches of two kinds of content."""
    low, high = np.array([a.min() for a in axes]), np.array([a.max() for a in axes])
    front = axes[1][None, :, None]
    for tissue, (share, first, second) in appearance.contents.items():
        inside = tissues == tissue
        if not inside.any():
            continue
        patches = SmoothField(rng, low, high, 22.0, 1.0)(*axes)
        slow = SmoothField(rng, low, high, 70.0, 1.0)(*axes)
        height = slow + (front - front.mean()) / 45.0
        content = np.where(patches > 0, np.float32(first), np.float32(second))
        gas = share > 0 and inside.sum() > 200
        level = np.quantile(height[inside][::17], 1 - min(share, 0.95)) if gas else np.inf
        if tissue == Tissue.COLON:
            content -= appearance.bubbles * np.abs(SmoothField(rng, low, high, 7.0, 1.0)(*axes))
        content[height > level] = -950.0
        image[inside] = content[inside]
