"""Which structure a label of a data set means: "Left Kidney", "kidney_left" and "kidney l" are one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ..structures import load_structures

WORDS = {
    "tumour": "tumor",
    "tumors": "tumor",
    "tumours": "tumor",
    "cancer": "tumor",
    "lesion": "tumor",
    "lesions": "tumor",
    "mass": "tumor",
    "oesophagus": "esophagus",
    "hepatic": "liver",
    "renal": "kidney",
    "pancreatic": "pancreas",
    "lungs": "lung",
    "kidneys": "kidney",
    "vessels": "vessel",
    "adrenals": "adrenal",
    "l": "left",
    "r": "right",
}
"""Words with one meaning; both sides of every comparison pass through this table."""

PHRASES = {
    "gall bladder": "gallbladder",
    "bladder": "urinary bladder",
    "arota": "aorta",  # so in the dataset.json of AMOS
    "postcava": "inferior vena cava",
    "ivc": "inferior vena cava",
    "left adrenal": "left adrenal gland",
    "right adrenal": "right adrenal gland",
    "lag": "left adrenal gland",
    "rag": "right adrenal gland",
    "spinalcord": "spinal cord",
    "small intestine": "small bowel",
    "portal vein splenic vein": "portal vein and splenic vein",
    "both kidney": "kidney",
    "bronchi": "bronchus",
    "lung nodule": "lung tumor",
    "lung nodules": "lung tumor",
}
"""Whole labels, after `WORDS`, that mean a structure of another name."""


def structures_of_labels(labels: Iterable[str]) -> dict[str, str]:
    """The structure of each label: a known one, or the label itself as an identifier of its own.

    A bare "tumor" is that of the only organ that has one, as in LiTS and KiTS. Of two labels that would mean
    the same structure, the later one keeps its own name.

    Args:
        labels: names as the data set gives them.

    Returns:
        Label to structure; the structures differ from each other.
    """
    labels = list(labels)
    found: dict[str, str] = {}
    for label in labels:
        structure = _known_structure(label)
        found[label] = structure if structure not in found.values() else _identifier(label)
    for label, structure in found.items():
        organs = [organ for organ in found.values() if f"{organ}_tumor" in load_structures()]
        tumor = f"{organs[0]}_tumor" if len(organs) == 1 else structure
        if words_of(label) == ["tumor"] and tumor not in found.values():
            found[label] = tumor
    return _made_unique(found)


def words_of(label: str) -> list[str]:
    """The words of a label in small letters, each word of `WORDS` by its one meaning."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return [WORDS.get(word, word) for word in _plain(spaced).split("_") if word]


def comparable_names(labels: Iterable[str]) -> dict[str, str]:
    """One name for each of some labels, whoever gave them: the known structure that it means, else its own.

    Args:
        labels: names of data sets, programs and people; the same one may come twice.

    Returns:
        Label to the id of a known structure (as `structures_of_labels`), or to the label in small letters
        with "_" for spaces and dashes.
    """
    folded = {label: _plain(label) for label in labels}
    ids = structures_of_labels({name: label for label, name in folded.items()}.values())
    known = {folded[label]: id for label, id in ids.items() if id in load_structures()}
    return {label: known.get(name, name) for label, name in folded.items()}


def comparable_set(structures: Iterable[str]) -> set[str]:
    """The names of `comparable_names`, each found without regard to the others."""
    return {comparable_names([structure])[structure] for structure in structures}


def _known_structure(label: str) -> str:
    """The id of the structure with these words in any order, or an identifier made of the label."""
    words = words_of(label)
    words = words_of(PHRASES.get(" ".join(words), " ".join(words)))
    for id in load_structures():
        if sorted(words_of(id)) == sorted(words):
            return id
    return _identifier(label)


def _identifier(label: str) -> str:
    return _plain(label) or "structure"


def _plain(label: str) -> str:
    """A label of any script in small letters, with "_" for all that is neither letter nor digit."""
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", label).lower()).strip("_")


def _made_unique(found: dict[str, str]) -> dict[str, str]:
    """Number the structures that still have the same name."""
    unique: dict[str, str] = {}
    for label, structure in found.items():
        number, name = 2, structure
        while name in unique.values():
            name, number = f"{structure}_{number}", number + 1
        unique[label] = name
    return unique
