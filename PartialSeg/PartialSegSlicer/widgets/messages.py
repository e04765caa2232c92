"""Questions and errors in dialogs, as plain text: names of packages, files and volumes may hold anything."""

from __future__ import annotations

import html

import slicer


def plain(text: str) -> str:
    """Return what Qt shows as this text, in tooltips and dialogs, where it would follow tags in it."""
    if "<" not in text:
        return text
    return f"<qt>{html.escape(text, quote=False)}</qt>".replace("\n", "<br>")


def showError(text: str) -> None:
    """Say what went wrong."""
    slicer.util.errorDisplay(plain(text))


def confirm(question: str, title: str | None = None) -> bool:
    """Return whether the user agrees."""
    return bool(slicer.util.confirmOkCancelDisplay(plain(question), title))
