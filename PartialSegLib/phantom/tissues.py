"""The tissues of the phantom: their ids in label maps, and which of them make up the structures of a task."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, auto

import numpy as np


class Tissue(IntEnum):
    """What a voxel of a synthetic patient is made of (uint8 label)."""

    AIR = 0
    TABLE = auto()
    FAT = auto()  # subcutaneous
    VISCERAL_FAT = auto()
    MUSCLE = auto()
    BONE = auto()
    MARROW = auto()
    DISC = auto()
    SPINAL_CANAL = auto()
    LUNG = auto()
    LUNG_VESSEL = auto()
    HEART = auto()
    ARTERY = auto()
    VEIN = auto()
    PORTAL_VEIN = auto()
    LIVER = auto()
    HEPATIC_VESSEL = auto()
    GALLBLADDER = auto()
    SPLEEN = auto()
    KIDNEY_CORTEX = auto()
    KIDNEY_MEDULLA = auto()
    RENAL_PELVIS = auto()
    ADRENAL = auto()
    PANCREAS = auto()
    ESOPHAGUS = auto()
    STOMACH_WALL = auto()
    STOMACH = auto()  # content
    BOWEL_WALL = auto()
    SMALL_BOWEL = auto()  # content
    COLON_WALL = auto()
    COLON = auto()  # content
    BLADDER = auto()
    PELVIC_ORGAN = auto()
    LIVER_CYST = auto()
    KIDNEY_CYST = auto()
    LIVER_TUMOR = auto()
    KIDNEY_TUMOR = auto()
    PANCREAS_TUMOR = auto()
    COLON_TUMOR = auto()
    LUNG_TUMOR = auto()
    BILE_DUCT = auto()
    PANCREATIC_DUCT = auto()


_LIVER = (Tissue.LIVER, Tissue.HEPATIC_VESSEL, Tissue.LIVER_CYST, Tissue.LIVER_TUMOR)
_KIDNEY = (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, Tissue.KIDNEY_CYST, Tissue.KIDNEY_TUMOR)
STRUCTURE_TISSUES: dict[str, tuple[Tissue, ...]] = {
    "liver": _LIVER,
    "liver_tumor": (Tissue.LIVER_TUMOR,),
    "kidney": _KIDNEY,
    "kidney_tumor": (Tissue.KIDNEY_TUMOR,),
    "hepatic_vessel": (Tissue.HEPATIC_VESSEL,),
    "pancreas": (Tissue.PANCREAS, Tissue.PANCREATIC_DUCT, Tissue.PANCREAS_TUMOR),
    "pancreas_tumor": (Tissue.PANCREAS_TUMOR,),
    "colon_tumor": (Tissue.COLON_TUMOR,),
    "lung_tumor": (Tissue.LUNG_TUMOR,),
    "spleen": (Tissue.SPLEEN,),
    "gallbladder": (Tissue.GALLBLADDER,),
    "esophagus": (Tissue.ESOPHAGUS,),
    "stomach": (Tissue.STOMACH_WALL, Tissue.STOMACH),
    "colon": (Tissue.COLON_WALL, Tissue.COLON, Tissue.COLON_TUMOR),
    "lung": (Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.LUNG_TUMOR),
    "urinary_bladder": (Tissue.BLADDER,),
}


def membership(tissues: Iterable[Tissue]) -> np.ndarray:
    """Look-up table (256,) bool: whether a label is one of the tissues."""
    table = np.zeros(256, bool)
    table[list(tissues)] = True
    return table


def structure_mask(tissues: np.ndarray, structure: str) -> np.ndarray:
    """Exact boolean mask of one structure in a map of tissues; organs include their tumours (LiTS, KiTS)."""
    return membership(STRUCTURE_TISSUES[structure])[tissues]
