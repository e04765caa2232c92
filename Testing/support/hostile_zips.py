"""Members and tables of contents of .zip files that no honest program writes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def member(name: str, **attributes: Any) -> zipfile.ZipInfo:
    """A member whose name and attributes are taken as they are given."""
    info = zipfile.ZipInfo("placeholder")
    for key, value in {"filename": name, "external_attr": 0o644 << 16, **attributes}.items():
        setattr(info, key, value)
    return info


def patched(archive: Path, name: str, edit: Callable[[zipfile.ZipInfo], None]) -> Path:
    """The archive with another entry in its table of contents, which is what readers go by."""
    with zipfile.ZipFile(archive, "a") as file:
        edit(file.getinfo(name))
        file.comment = b"written again"
    return archive
