"""Anatomical structures: what a mask is a mask of, in SNOMED CT codes and in Slicer's terminology fields."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TYPE_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
_MORPHOLOGICALLY_ALTERED = "49755003"
ORGANS_WITH_TUMOR = ("liver", "kidney", "pancreas")
"""Organs that include their tumours, as in LiTS, KiTS19 and the Decathlon's pancreas; vessels do not."""


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3, 8.8).

    Attributes:
        value: The code, e.g. "10200004".
        scheme: The coding scheme designator, "SCT" for SNOMED CT.
        meaning: What it says to people, e.g. "Liver".
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Structure:
    """An anatomical structure or a lesion in one.

    The coded fields are those of Slicer's terminology and of DICOM segmentations: a tumour is a
    morphologically altered structure (category) of type mass in an anatomic region; organs need no region.

    Attributes:
        id: Name in manifests and in Python, e.g. "liver_tumor".
        name: Name for people, e.g. "liver tumor".
        color: Red, green, blue; 0 to 255.
        category: Segmented property category.
        type: Segmented property type.
        type_modifier: Laterality, or None.
        region: Anatomic region, or None.
        region_modifier: Laterality of the region, or None.
    """

    id: str
    name: str
    color: tuple[int, int, int]
    category: Code
    type: Code
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None

    @property
    def is_lesion(self) -> bool:
        """Whether this is a change of an organ, as a tumour is, and not anatomy."""
        return self.category.value == _MORPHOLOGICALLY_ALTERED

    @property
    def overlap_rank(self) -> tuple[bool, bool]:
        """The higher one gets a voxel that can have one label only: lesions, then vessels, then organs."""
        return self.is_lesion, self.region is not None


@cache
def load_structures() -> dict[str, Structure]:
    """Return all known structures by id, in the order of structures.json."""
    text = Path(__file__).with_name("structures.json").read_text(encoding="utf-8")
    return {id: _structure(id, fields) for id, fields in json.loads(text).items()}


def structure_or_tissue(id: str) -> Structure:
    """Return the structure of that id, or plain tissue of that name for one from elsewhere."""
    tissue = Code("85756007", "SCT", "Tissue")
    unknown = Structure(id, id.replace("_", " "), (128, 174, 128), tissue, tissue)
    return load_structures().get(id, unknown)


def terminology_entry(structure: Structure) -> str:
    """Write the codes of a structure as Slicer serialises them in the segment tag "TerminologyEntry".

    Seven parts joined by "~": type context, category, type, type modifier, region context, region, region
    modifier; each code as "scheme^value^meaning" (Slicer developer guide, Segmentations, "Terminologies").
    """
    what = (structure.category, structure.type, structure.type_modifier)
    where = (structure.region, structure.region_modifier)
    return "~".join((_TYPE_CONTEXT, *map(_triplet, what), _REGION_CONTEXT, *map(_triplet, where)))


def _structure(id: str, fields: dict[str, Any]) -> Structure:
    codes = {key: Code(**value) for key, value in fields.items() if key not in ("name", "color")}
    red, green, blue = fields["color"]
    return Structure(id, fields["name"], (red, green, blue), **codes)


def _triplet(code: Code | None) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^"
