"""How sentences for people list many things."""

from __future__ import annotations

from collections.abc import Sequence


def first_few(names: Sequence[object], most: int) -> str:
    """The first names, and "…" where there are more, as in "a, b, c, …"."""
    return ", ".join([*map(str, names[:most]), *(["…"] if len(names) > most else [])])
