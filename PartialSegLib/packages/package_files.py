"""The files of a model package on disk: there, inside it, and the ones its manifest means."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import InputError
from ..files.file_names import holds_files
from ..manifest import MANIFEST_FILE, FileEntry

__all__ = ["check_contents", "check_file", "file_sha256", "package_file", "refuse_to_overwrite"]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_file(folder: Path, name: str) -> Path:
    """Path of a file of a package folder.

    Raises:
        InputError: the file is missing, or a link that leads outside the package.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"The model package {folder} lacks its file {name}; copy or import the package again."
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"The file {name} of {folder} is a link that leads outside the package; copy the file itself."
        )
    return path


def check_contents(place: str | Path, entry: FileEntry, size_bytes: int, sha256: str) -> None:
    """Refuse contents that are not those of the manifest.

    Args:
        place: where they were read, for the message.
        entry: what the manifest says of them.
        size_bytes: their size.
        sha256: their checksum, hexadecimal.

    Raises:
        InputError: size or checksum differ.
    """
    if (size_bytes, sha256) != (entry.bytes, entry.sha256):
        raise InputError(
            f"{place} is not the file of its manifest (SHA-256 {sha256[:12]}…, {size_bytes} bytes, expected "
            f"{entry.sha256[:12]}…, {entry.bytes} bytes); copy or import the package again."
        )


def check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Refuse a file that is missing, outside the package (by a link), or not the one of the manifest.

    Raises:
        InputError: one of these.
    """
    path = package_file(folder, name)
    check_contents(path, entry, path.stat().st_size, file_sha256(path))


def refuse_to_overwrite(folder: Path) -> None:
    """Only a package, an empty folder or nothing may lie where a package shall be written.

    Raises:
        InputError: something else lies there.
    """
    is_package = (folder / MANIFEST_FILE).exists()
    if folder.exists() and not is_package and (folder.is_file() or holds_files(folder)):
        raise InputError(f"{folder} exists and is not a model package; choose another output folder.")
