"""What names of files mean: to the system that they are given on, and to others."""

import os
import re
import unicodedata
from pathlib import Path

_OF_DEVICES = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(?=\.|$)", re.IGNORECASE)
_OF_FILE_MANAGERS = {".ds_store", "thumbs.db", "desktop.ini"}


def folded(name: str) -> str:
    """Return what is the same for names that Windows or macOS take for one.

    Both ignore upper and lower case, macOS also whether an accent is part of its letter (Unicode NFC, NFD).
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def allowed(name: str) -> str:
    """Return a name for a file that no system refuses and that leads out of no folder; all else stays."""
    name = re.sub(r'[\x00-\x1f"*/:<>?\\|]', "_", name)
    if not name.strip(". "):
        return "_"
    return _OF_DEVICES.sub(r"\1_", name, count=1) if _OF_DEVICES.match(name) else name


def is_from_file_manager(name: str) -> bool:
    """Say whether Finder or Explorer put a file there by themselves, without anybody knowing."""
    return name.startswith("._") or name.casefold() in _OF_FILE_MANAGERS


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which a first ~ or ~NAME is that home folder; where there is none, it is a name."""
    first = next(iter(Path(path).parts), "")
    if first.startswith("~") and first != "~" and not os.path.isdir(os.path.expanduser(first)):
        return Path(path)  # Windows makes up a home folder for everybody
    return Path(os.path.expanduser(path))


def holds_files(folder: Path) -> bool:
    """Say whether there is anything in a folder that somebody has put there."""
    return not all(is_from_file_manager(path.name) for path in folder.iterdir())
