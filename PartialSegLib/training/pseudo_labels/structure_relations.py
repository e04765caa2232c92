"""Which structures may share voxels: an organ and what lies in it, told from their SNOMED CT codes."""

from __future__ import annotations

from ...structures import Code, Structure, load_structures


def lies_within(inner: str, outer: str) -> bool:
    """Whether every voxel of one structure belongs to the other by definition.

    That is so for a lesion and the organ it is a lesion of (organs include their tumours, as in LiTS and
    KiTS), and for one side of a paired organ and the organ. Vessels may leave the organ that they supply.

    Args:
        inner: id of a structure.
        outer: id of another one; false for equal ids and for structures without codes.
    """
    structure, organ = _known(inner, outer)
    if structure is None or organ is None or organ.is_lesion or organ.region:
        return False
    if structure.region and not structure.is_lesion:
        return False
    place, side = _place(structure)
    return place == organ.type and organ.type_modifier in (None, side)


def may_share_voxels(first: str, second: str) -> bool:
    """Whether a voxel may belong to two structures: one of them is a part or a lesion of the other.

    A lesion that names no organ, such as `tumor`, may lie in any.

    Args:
        first: id of a structure.
        second: id of another one; false for equal ids and for structures without codes.
    """
    one, other = _known(first, second)
    return one is not None and other is not None and (_may_lie_in(one, other) or _may_lie_in(other, one))


def _may_lie_in(inner: Structure, outer: Structure) -> bool:
    if outer.is_lesion or outer.region:
        return False
    if inner.is_lesion and inner.region is None:
        return True
    place, side = _place(inner)
    return place == outer.type and (None in (side, outer.type_modifier) or side == outer.type_modifier)


def _place(structure: Structure) -> tuple[Code, Code | None]:
    """The organ that a structure is or lies in, and the side."""
    if structure.region:
        return structure.region, structure.region_modifier
    return structure.type, structure.type_modifier


def _known(first: str, second: str) -> tuple[Structure | None, Structure | None]:
    structures = load_structures()
    return (structures.get(first), structures.get(second)) if first != second else (None, None)
