"""Label rules: which values of a label map belong to which structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import InputError
from ...segmentation_files.label_names import structures_of_labels, words_of
from ...structures import ORGANS_WITH_TUMOR, load_structures

ANY_TUMOR = "tumor"
PARTS_OF_TUMORS = {"edema", "oedema"}
"""Words for a part of what BraTS calls the whole tumour."""


def structures_of_values(labels: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Structures with their values, for labels named by a data set.

    Names become structure ids (`label_names`). The organs of `ORGANS_WITH_TUMOR` get the values of
    their tumour in addition.

    Args:
        labels: name to values, without the background.
    """
    ids = structures_of_labels(labels)
    structures = {ids[name]: values for name, values in labels.items()}
    for organ in ORGANS_WITH_TUMOR:
        tumor = structures.get(f"{organ}_tumor", ())
        if organ in structures:
            structures[organ] = tuple(dict.fromkeys((*structures[organ], *tumor)))
    return structures


def contradicted_labels(
    labels: Mapping[str, tuple[int, ...]], structures: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """Labels whose names say something else of their values than the rules of a protocol.

    A label that names a structure has to be one of those that the protocol gives its values; any other, such
    as "cancer" or "Vessel", has to share a word with one of them.

    Args:
        labels: of a data set, name to values, without the background.
        structures: of the protocol, with their values.

    Returns:
        Each such label, with the structures that the protocol gives its values.
    """
    ids, known = structures_of_labels(labels), set(load_structures()) - {ANY_TUMOR}
    contradicted = {}
    for label, values in labels.items():
        meant = [structure for structure, of_it in structures.items() if set(values) <= set(of_it)]
        words = {ANY_TUMOR if word in PARTS_OF_TUMORS else word for word in words_of(label)}
        shares_a_word = any(words & set(words_of(structure)) for structure in meant)
        if ids[label] not in meant and (ids[label] in known or not shares_a_word):
            contradicted[label] = meant
    return contradicted


def parse_label_rules(rules: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Rules typed by a user, NAME=VALUE[,VALUE...]; rules of one name are joined.

    A name that is the id of a known structure means that one, whatever else is labelled: "tumor" beside
    "pancreas" may be that of any organ.

    Raises:
        InputError: a rule has no name, no values or one that is not a whole number above 0.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        name, _, values = rule.partition("=")
        parts = [part.strip() for part in values.split(",")]
        if not name.strip() or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InputError(
                f"'{rule}' is no label rule; give NAME=VALUE[,VALUE...] with whole numbers above 0, "
                "as in liver=1,2."
            )
        values_before = labels.get(name.strip(), ())
        labels[name.strip()] = tuple(dict.fromkeys((*values_before, *map(int, parts))))
    typed = [name for name in labels if name in load_structures()]
    ids = structures_of_labels(dict.fromkeys([*typed, *labels])) | {name: name for name in typed}
    return {ids[name]: values for name, values in labels.items()}
