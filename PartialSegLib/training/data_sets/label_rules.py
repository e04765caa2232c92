"""Label rules: which values of a label map belong to which structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import InputError
from ...importers.label_names import structures_of_labels

ORGANS_WITH_TUMOR = ("liver", "kidney", "pancreas")
"""Organs that include their tumours, as in LiTS, KiTS19 and the Decathlon's pancreas; vessels do not."""


def structures_of_values(labels: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Structures with their values, for labels named by a data set.

    Names become structure ids (`importers.label_names`). The organs of `ORGANS_WITH_TUMOR` get the values of
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


def parse_label_rules(rules: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Rules typed by a user, NAME=VALUE[,VALUE...]; the values are taken as they are given.

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
        labels[name.strip()] = tuple(int(part) for part in parts)
    ids = structures_of_labels(labels)
    return {ids[name]: values for name, values in labels.items()}
