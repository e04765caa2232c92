"""A hand-made anatomical label map turned into tissues; strong deformation makes many patients of it.

Made for the SPL/NAC/BWH abdominal atlas (Open Anatomy Project): 95 structures from the tenth thoracic
vertebra to the hips. The spacing in its header makes organs half their size; 3.0 x 1.5 x 1.5 mm gives kidneys
of 120 ml each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..phantom import Tissue
from ..volume import read_volume, reorient

SPACING = (3.0, 1.5, 1.5)  # mm (z, y, x), see above
_CHEST_ROWS = 36  # slices added on top, where the atlas ends
_NUM_LABELS = 1000

_LABELS: dict[Tissue, tuple[int, ...]] = {
    Tissue.LIVER: (3,), Tissue.SPLEEN: (4,), Tissue.PANCREAS: (6,), Tissue.GALLBLADDER: (10,),
    Tissue.COLON: (9,), Tissue.STOMACH: (13,), Tissue.KIDNEY_CORTEX: (51, 52),
    Tissue.RENAL_PELVIS: (141, 142, 145, 146),
    Tissue.ARTERY: (7, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 29, 71, 72, 73, 74, 75, 76, 126, 127, 227),
    Tissue.VEIN: (8, 81, 82, 83, 84, 85, 86, 128, 129), Tissue.PORTAL_VEIN: (11, 12, 117),
    Tissue.HEPATIC_VESSEL: (151, 152, 153), Tissue.ADRENAL: (111, 112), Tissue.DISC: tuple(range(551, 560)),
    Tissue.BONE: (2, 299, 600, 700, *range(301, 308), *range(401, 413), *range(501, 506), *range(681, 700)),
    Tissue.MUSCLE: (32, *range(131, 141), 143, *range(231, 242)),
}  # fmt: skip


def read_atlas(path: Path | str) -> np.ndarray:
    """Read the label map and fill what it leaves open: fat, chest wall, lungs, heart, spinal canal, walls.

    Returns:
        Tissues (z, y, x) uint8 at `SPACING`; z upwards, y to the front, x to the right. Fat outside the
        muscles is put on when the atlas is deformed.

    Raises:
        InputError: the file is missing, cannot be read or is no such label map.
    """
    tissues = _tissues(reorient(read_volume(path), "SAR").array, path)
    rows = np.flatnonzero((tissues > 0).any(axis=(1, 2)))
    tissues = tissues[rows[0] + 1 : rows[-1] - 3]
    tissues = np.concatenate([tissues, np.repeat(tissues[-1:], _CHEST_ROWS, axis=0)])
    body = _body(tissues)
    _fill_open_space(tissues, body)
    _layer(tissues)
    return tissues


def _tissues(labels: np.ndarray, path: Path | str) -> np.ndarray:
    """What the labels stand for."""
    expected = "the label map of the SPL/NAC/BWH abdominal atlas"
    lowest, highest = labels.min(), labels.max()
    if not 0 <= lowest <= highest < _NUM_LABELS:
        raise InputError(f"{path} has values from {lowest:g} to {highest:g}; expected {expected}, 0 to 999.")
    table = np.zeros(_NUM_LABELS, np.uint8)
    for tissue, members in _LABELS.items():
        table[list(members)] = tissue
    tissues = table[labels.astype(np.int32)]
    found = np.bincount(tissues.ravel(), minlength=max(_LABELS) + 1)
    if missing := [tissue.name.lower().replace("_", " ") for tissue in _LABELS if not found[tissue]]:
        raise InputError(f"{path} has no label of {missing[0]}; expected {expected}.")
    return tissues


def with_varied_organs(tissues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy in which single organs have grown into or shrunk away from the soft tissue around them."""
    result = tissues.copy()
    soft = np.isin(
        result, [Tissue.VISCERAL_FAT, Tissue.STOMACH, Tissue.STOMACH_WALL, Tissue.COLON, Tissue.COLON_WALL]
    )
    for tissue, low, high in (
        (Tissue.SPLEEN, 0, 9),
        (Tissue.KIDNEY_CORTEX, -2, 4),
        (Tissue.PANCREAS, -1.5, 4),
        (Tissue.LIVER, -3, 8),
    ):
        amount = rng.uniform(low, high)
        organ = result == tissue
        found = ndimage.find_objects(organ.view(np.uint8))[0]
        box = tuple(slice(max(s.start - 6, 0), s.stop + 6) for s in found)
        part, inside = result[box], organ[box]
        if amount > 0:
            grown = ndimage.distance_transform_edt(~inside, SPACING) < amount
            part[grown & soft[box]] = tissue
        else:
            part[inside & (ndimage.distance_transform_edt(inside, SPACING) < -amount)] = Tissue.VISCERAL_FAT
    return result


def _body(tissues: np.ndarray) -> np.ndarray:
    """Everything within the outermost muscles and ribs, slice by slice."""
    body = np.zeros(tissues.shape, bool)
    for row, tissue in zip(body, tissues, strict=True):
        padded = np.pad(tissue > 0, 40)
        near = ndimage.distance_transform_edt(~padded) < 34
        closed = ndimage.distance_transform_edt(ndimage.binary_fill_holes(near)) > 34
        row[...] = ndimage.binary_fill_holes(closed)[40:-40, 40:-40] | (tissue > 0)
    return body


def _fill_open_space(tissues: np.ndarray, body: np.ndarray) -> None:
    """Give every unlabelled voxel of the body a tissue."""
    top_of_organs = _diaphragm(tissues)
    height = np.arange(len(tissues))[:, None, None]
    open_space = body & (tissues == 0)
    wall = np.stack([ndimage.distance_transform_edt(row) * SPACING[1] for row in body])
    chest = height > top_of_organs[None]
    bones = np.isin(tissues, [Tissue.BONE, Tissue.DISC])
    for row, canal in zip(tissues, bones, strict=True):
        hole = ndimage.binary_fill_holes(ndimage.binary_closing(canal, iterations=2)) & ~canal & (row == 0)
        row[hole] = Tissue.SPINAL_CANAL
    open_space &= tissues == 0
    tissues[open_space & chest] = Tissue.LUNG
    tissues[open_space & ~chest] = Tissue.VISCERAL_FAT
    tissues[open_space & (wall < 9) & (height > len(tissues) * 0.55)] = Tissue.MUSCLE
    _add_heart(tissues)


def _diaphragm(tissues: np.ndarray) -> np.ndarray:
    """Row (y, x) above which open space is lung: the tops of liver, stomach, spleen, falling off outside."""
    organs = np.isin(tissues, [Tissue.LIVER, Tissue.STOMACH, Tissue.SPLEEN])
    organs[-_CHEST_ROWS:] = False
    rows = np.arange(len(tissues))[:, None, None]
    top = np.where(organs, rows, 0).max(axis=0).astype(float)
    covered = top > top.max() - 22
    away = ndimage.distance_transform_edt(~covered) * SPACING[1]
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    surface = np.where(covered, top, 0)[tuple(nearest)] - 0.7 * away / SPACING[0] - 0.006 * away**2
    return ndimage.gaussian_filter(np.maximum(surface, top.max() - 40), 5)


def _add_heart(tissues: np.ndarray) -> None:
    """An ellipsoid in front of the aorta, in mm, and mediastinal fat around the midline."""
    depth, height, width = tissues.shape
    z, y, x = np.ogrid[:depth, :height, :width]
    middle = np.argwhere(tissues == Tissue.ARTERY).mean(axis=0)
    base = depth - _CHEST_ROWS
    up, front, right = (
        (z - base - 14) * 3 / 52,
        (y - middle[1] - 42) * 1.5 / 48,
        (x - middle[2] + 8) * 1.5 / 58,
    )
    heart = up**2 + front**2 + right**2 < 1
    tissues[heart & (tissues == Tissue.LUNG)] = Tissue.HEART
    middle_fat = (np.abs(x - middle[2]) * 1.5 < 26) & (y < middle[1] + 45)
    tissues[middle_fat & (tissues == Tissue.LUNG)] = Tissue.VISCERAL_FAT


def _layer(tissues: np.ndarray) -> None:
    """Split organs into outer and inner tissue: cortex, marrow, walls."""
    for outer, inner, thickness in (
        (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, 7.0), (Tissue.BONE, Tissue.MARROW, 4.0),
        (Tissue.STOMACH, Tissue.STOMACH_WALL, -3.5), (Tissue.COLON, Tissue.COLON_WALL, -2.0),
    ):  # fmt: skip
        organ = tissues == outer
        depth = ndimage.distance_transform_edt(organ, SPACING)
        tissues[organ & (depth > thickness if thickness > 0 else depth <= -thickness)] = inner
