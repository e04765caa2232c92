"""Reading a model package from its folder, or from a .zip that is checked before anything is unpacked."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import InputError
from ..manifest import MANIFEST_FILE, read_manifest
from .archive import CHUNK_BYTES, Archive, ArchiveKind
from .package_files import package_file

__all__ = ["PackageArchive", "PackageFolder"]

PACKAGE = ArchiveKind(
    noun="package",
    advice="zip the package's folder again and install that",
    max_members=1000,
    max_bytes=16 << 30,
)


class PackageFolder:
    """Reads the files of a package folder.

    Args:
        path: the folder.

    Raises:
        InputError: it is not a package, or its manifest has a fault.
    """

    def __init__(self, path: Path) -> None:
        self.place = path
        read_manifest(path)

    def close(self) -> None:
        """Release nothing."""

    def read(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Contents of a file of the package, piece by piece; at most one piece more than `size_bytes`.

        Raises:
            InputError: the file is missing, leads outside the package, or cannot be read.
        """
        path = package_file(self.place, name)
        try:
            with path.open("rb") as file:
                while size_bytes >= 0 and (chunk := file.read(CHUNK_BYTES)):
                    size_bytes -= len(chunk)
                    yield chunk
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); check it and its permissions."
            ) from None


class PackageArchive:
    """Reads the files of the one package in a .zip, which lie at its top or in one folder.

    Args:
        path: the .zip.

    Raises:
        InputError: no zip archive, damaged, encrypted, no package or several in it, larger than a package can
            be, or with members that lead outside, are links, or have the same name.
    """

    def __init__(self, path: Path) -> None:
        self.place = path
        self._archive = Archive(path, PACKAGE)
        try:
            self._archive.check_sizes(self._archive.files)
            self._folder = _package_folder(path, self._archive.files)
        except InputError:
            self._archive.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._archive.close()

    def read(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Contents of a file of the package, piece by piece.

        Args:
            name: its path inside the package.
            size_bytes: the most that may come out; a file that announces more is refused.

        Raises:
            InputError: no such file, too large, or damaged.
        """
        return self._archive.read(f"{self._folder}{name}", size_bytes)


def _package_folder(path: Path, files: Collection[str]) -> str:
    """What the paths of the package's files begin with: nothing, or a folder and a slash."""
    if MANIFEST_FILE in files:
        return ""
    tops = [name.removesuffix(f"/{MANIFEST_FILE}") for name in files if name.endswith(f"/{MANIFEST_FILE}")]
    tops = [top for top in tops if "/" not in top]
    if not tops:
        raise InputError(
            f"{path} is not a model package: it has no {MANIFEST_FILE} at its top or in one folder; "
            "check the file."
        )
    if len(tops) > 1:
        folders = ", ".join(sorted(tops))
        raise InputError(f"{path} holds several packages ({folders}); zip and install them one by one.")
    return f"{tops[0]}/"
