"""A seeded procedural CT of the human trunk with exact labels: for tests, demo, benchmarks and training.

Body wall, skeleton, lungs, heart, vessels and abdominal organs stand at plausible places with plausible
sizes, bent by smooth random fields; lesions grow inside organs; Hounsfield units follow a contrast phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..volume import Volume
from .abdomen import organ_painters
from .canvas import Canvas, Coordinates
from .digestive import digestive_painters, small_bowel_painters
from .lesions import LESION_KINDS, add_lesions
from .rendering import PHASES, Appearance, random_appearance, render
from .smooth_field import SmoothField
from .tissues import STRUCTURE_TISSUES, Tissue, structure_mask
from .torso import Torso

__all__ = [
    "LESION_KINDS", "PHASES", "STRUCTURE_TISSUES", "Appearance", "Phantom", "SmoothField", "Tissue",
    "add_lesions", "add_small_bowel", "make_phantom", "make_tissues", "random_appearance", "render",
    "structure_mask", "voxel_axes",
]  # fmt: skip

_SLAB_VOXELS = 8_000_000
_LESIONS = {name: 0.6 for name in LESION_KINDS}
_BENDS = ((90.0, 7.0), (38.0, 2.2))  # knot distance and amplitude, mm


@dataclass(frozen=True)
class Phantom:
    """A synthetic patient: the CT (HU, int16) and the tissue of every voxel (uint8), both (z, y, x)."""

    volume: Volume
    tissues: np.ndarray

    def mask(self, structure: str) -> np.ndarray:
        """Exact boolean mask (z, y, x) of a structure; organs include their tumours."""
        return structure_mask(self.tissues, structure)


def make_tissues(
    seed: int,
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Tissues of a random patient without lesions.

    Drawn slab by slab: beside the result it takes about 60 bytes for each voxel of one slab.

    Args:
        seed: same seed, same patient, at any spacing and field of view.
        spacing: voxel size (z, y, x), mm.
        shape: voxels (z, y, x); z upwards, y to the front, x to the right.
        center: middle of the image (z, y, x), mm from the middle of the body at the first lumbar vertebra.

    Returns:
        uint8 (z, y, x) of `Tissue` values.
    """
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.88, 1.1) * rng.uniform(0.94, 1.06, 3)
    torso = Torso(rng)
    painters = organ_painters(rng, torso) + digestive_painters(rng)
    corner = np.array([520.0, 260.0, 320.0])
    bends = [[SmoothField(rng, -corner, corner, *bend) for bend in _BENDS] for _ in range(3)]
    axes = [axis / s for axis, s in zip(voxel_axes(spacing, shape, center), scale, strict=True)]
    result = np.empty(shape, np.uint8)
    rows = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        slab = (axes[0][start : start + rows], axes[1], axes[2])
        x, y, z = (coarse(*slab) + fine(*slab) for coarse, fine in bends)
        canvas = Canvas(slab, (x, y, z))
        torso.paint(canvas)
        for painter in painters:
            painter(canvas)
        result[start : start + rows] = canvas.tissues
    return result


def add_small_bowel(
    tissues: np.ndarray,
    axes: Coordinates,
    bend: Coordinates,
    rng: np.random.Generator,
    box: tuple[np.ndarray, np.ndarray],
) -> None:
    """Let loops of small bowel wander through the visceral fat of any map of tissues, in place.

    Args:
        tissues: (z, y, x) uint8.
        axes: voxel centres along z, y, x, mm.
        bend: how far every voxel lies from there (x, y, z), mm, each (z, y, x).
        rng: random generator.
        box: two corners (x, y, z) between which the loops run, mm.
    """
    canvas = Canvas(axes, bend)
    canvas.tissues = tissues
    for painter in small_bowel_painters(rng, *box):
        painter(canvas)


def make_phantom(
    seed: int,
    spacing: tuple[float, float, float] = (3.0, 1.5, 1.5),
    shape: tuple[int, int, int] = (128, 256, 288),
    phase: str | None = "portal venous",
    lesions: dict[str, float] | None = None,
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Phantom:
    """Make a CT of a random patient with exact labels.

    Args:
        seed: same arguments, same phantom.
        spacing: voxel size (z, y, x), mm.
        shape: voxels (z, y, x).
        phase: contrast phase, one of `PHASES`; None draws one.
        lesions: probability of each kind of lesion; 0.6 for all when None, {} for a healthy patient.
        center: as of `make_tissues`.

    Returns:
        CT and tissues; the axes of the arrays grow to the head, to the front and to the right.

    Raises:
        InputError: unknown phase or kind of lesion.
    """
    lesions = _LESIONS if lesions is None else lesions
    if phase is not None and phase not in PHASES:
        raise InputError(f"There is no contrast phase {phase!r}; choose from {', '.join(PHASES)}.")
    for kind in lesions:
        if kind not in LESION_KINDS:
            raise InputError(f"There is no kind of lesion {kind!r}; choose from {', '.join(LESION_KINDS)}.")
    tissues = make_tissues(seed, spacing, shape, center)
    rng = np.random.default_rng([seed, 1])
    add_lesions(tissues, spacing, rng, lesions)
    appearance = random_appearance(rng, phase)
    axes = voxel_axes(spacing, shape, center)
    image = np.empty(shape, np.int16)
    rows = max(8, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        slab = slice(start, start + rows)
        image[slab] = np.round(render(tissues[slab], (axes[0][slab], axes[1], axes[2]), rng, appearance))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, ::-1].T
    affine[:3, 3] = [axes[2][0], axes[1][0], axes[0][0]]
    return Phantom(Volume(image, affine), tissues)


def voxel_axes(
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[np.ndarray]:
    """Voxel centres along z, y, x in mm of an image whose middle lies at center (z, y, x)."""
    return [(np.arange(n) - (n - 1) / 2) * s + c for n, s, c in zip(shape, spacing, center, strict=True)]
