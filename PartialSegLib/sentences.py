"""What is said to people in many places: the notice, long lists, and advice where a name is unknown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis or treatment."


_CONTROL = [code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"]
_WITHOUT_CONTROL = dict.fromkeys(_CONTROL, "\N{REPLACEMENT CHARACTER}")


def without_control(text: str) -> str:
    """A text without what would move a terminal's cursor or change its colours; lines and tabs stay."""
    return text.translate(_WITHOUT_CONTROL)


def first_few(names: Sequence[object], most: int) -> str:
    """The first names, and "…" where there are more, as in "a, b, c, …"."""
    return ", ".join([*map(str, names[:most]), *(["…"] if len(names) > most else [])])


def suggestion(name: object, choices: Collection[str]) -> str:
    """End of a sentence on an unknown name: the closest of the choices, or all of them when none is close.

    It has neither full stop nor question mark, since callers go on in their own ways.
    """
    if not choices:
        return "there is none to choose from"
    close = get_close_matches(str(name), list(choices), n=1)
    return f"perhaps you meant {close[0]}" if close else f"choose from {', '.join(choices)}"
