"""Reading a model package from its folder, or from a .zip that is checked before anything is unpacked."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .errors import InputError
from .manifest import MANIFEST_FILE, is_inside, read_manifest
from .package_files import package_file

__all__ = ["PackageArchive", "PackageFolder"]

CHUNK_BYTES = 1 << 20
MAX_MEMBERS = 1000
MAX_BYTES = 16 << 30
MAX_RATIO = 100  # weights shrink to nine tenths; deflate cannot go beyond 1032
SMALL_BYTES = 1 << 20  # below, any ratio is harmless
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)
"""What a damaged or hostile archive provokes inside zipfile."""


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
        try:
            self._zip = zipfile.ZipFile(path)
        except PermissionError:
            raise InputError(f"{path} cannot be read; check its permissions.") from None
        except DAMAGE as error:
            raise InputError(f"{path} is not a zip archive ({error}); copy or download it again.") from None
        try:
            members = self._zip.infolist()
            self._check_members(members)
            self._check_sizes(members)
            self._members = _package_members(path, members)
        except InputError:
            self._zip.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._zip.close()

    def read(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Contents of a file of the package, piece by piece.

        Args:
            name: its path inside the package.
            size_bytes: the most that may come out; a file that announces more is refused.

        Raises:
            InputError: no such file, too large, or damaged.
        """
        member = self._members.get(name)
        if member is None:
            raise InputError(f"The model package {self.place} lacks its file {name}; zip the package again.")
        if member.file_size > size_bytes:
            raise InputError(
                f"{name} in {self.place} unpacks to {member.file_size} bytes, expected at most {size_bytes}; "
                "zip the package again."
            )
        try:
            with self._zip.open(member) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except DAMAGE as error:
            raise InputError(
                f"{name} in {self.place} is damaged ({error}); copy or download the archive again."
            ) from None

    def _check_members(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse members that no package has, whether or not they would be unpacked."""
        if len(members) > MAX_MEMBERS:
            self._refuse(f"holds {len(members)} files, a package at most {MAX_MEMBERS}")
        counts = Counter(_path(member).casefold() for member in members)
        for member in members:
            name = member.orig_filename  # as in the file; zipfile cuts and rewrites the other one
            if "\0" in name or not (is_inside(name) and is_inside(member.filename)):
                self._refuse(f"holds {name!r}, which leads outside the package")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(f"holds {name!r}, which is a link or a device instead of a file")
            if counts[_path(member).casefold()] > 1:
                self._refuse(f"holds {name!r} more than once")
            if member.flag_bits & 1:
                self._refuse("is encrypted")
            if member.compress_type not in METHODS:
                self._refuse(f"holds {name!r} in a compression other than deflate")

    def _check_sizes(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse archives that would unpack to more than a package can hold, before unpacking."""
        total = sum(member.file_size for member in members)
        if total > MAX_BYTES:
            self._refuse(f"unpacks to {total} bytes, a package to {MAX_BYTES} at most")
        if sum(member.compress_size for member in members) > self.place.stat().st_size:
            self._refuse("announces more bytes than it has")
        for member in members:
            if member.file_size > max(SMALL_BYTES, MAX_RATIO * member.compress_size):
                self._refuse(f"holds {member.filename!r}, which unpacks to over {MAX_RATIO} times its size")

    def _refuse(self, fault: str) -> None:
        raise InputError(f"{self.place} {fault}; zip the package's folder again and install that.")


def _path(member: zipfile.ZipInfo) -> str:
    """The member's path without "./" and doubled separators."""
    return str(PurePosixPath(member.filename))


def _package_members(path: Path, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The package's files by their paths inside it."""
    files = {_path(member): member for member in members if not member.is_dir()}
    if MANIFEST_FILE in files:
        return files
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
    prefix = f"{tops[0]}/"
    return {name.removeprefix(prefix): member for name, member in files.items() if name.startswith(prefix)}
