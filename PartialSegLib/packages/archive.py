"""Reading a .zip from somewhere, checked as a whole before anything is unpacked."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import NoReturn, Self

from ..errors import InputError
from ..files.file_names import folded
from ..manifest import is_inside

__all__ = ["Archive", "ArchiveKind"]

CHUNK_BYTES = 1 << 20
MAX_RATIO = 100  # weights shrink to nine tenths; deflate cannot go beyond 1032
SMALL_BYTES = 1 << 20  # below, any ratio is harmless
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)
"""What a damaged or hostile archive provokes inside zipfile."""


@dataclass(frozen=True)
class ArchiveKind:
    """What archives are expected to hold, and how much of it.

    Attributes:
        noun: what one archive holds, such as "package".
        advice: what to do about one that is refused.
        max_members: the most files.
        max_bytes: the most that those which are read may unpack to, together.
    """

    noun: str
    advice: str
    max_members: int
    max_bytes: int


class Archive:
    """A .zip whose files all have plain paths inside it.

    Args:
        path: the .zip.
        kind: what it should be.

    Attributes:
        place: the .zip.
        files: the paths of its files, without "./" and doubled separators.

    Raises:
        InputError: no zip archive, damaged, encrypted, with too many members, or with members that lead
            outside, are links, or have the same name.
    """

    def __init__(self, path: Path, kind: ArchiveKind) -> None:
        self.place = path
        self._kind = kind
        try:
            self._zip = zipfile.ZipFile(path)
        except PermissionError:
            raise InputError(f"{path} cannot be read; check its permissions.") from None
        except DAMAGE as error:
            raise InputError(f"{path} is not a zip archive ({error}); copy or download it again.") from None
        try:
            members = self._zip.infolist()
            self._check_members(members)
        except InputError:
            self._zip.close()
            raise
        self._members = {_path(member): member for member in members if not member.is_dir()}
        self.files = tuple(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._zip.close()

    def check_sizes(self, names: Collection[str]) -> None:
        """Refuse files that would unpack to more than they can hold, before unpacking.

        Args:
            names: those of the files that will be read.

        Raises:
            InputError: together they are too large, or one is a decompression bomb.
        """
        members = [self._members[name] for name in names]
        total = sum(member.file_size for member in members)
        if total > self._kind.max_bytes:
            self._refuse(f"unpacks to {total} bytes, a {self._kind.noun} to {self._kind.max_bytes} at most")
        if sum(member.compress_size for member in members) > self.place.stat().st_size:
            self._refuse("announces more bytes than it has")
        for member in members:
            if member.file_size > max(SMALL_BYTES, MAX_RATIO * member.compress_size):
                self._refuse(f"holds {member.filename!r}, which unpacks to over {MAX_RATIO} times its size")

    def read(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Contents of a file, piece by piece.

        Args:
            name: one of `files`.
            size_bytes: the most that may come out; a file that announces more is refused.

        Raises:
            InputError: no such file, too large, or damaged.
        """
        member = self._members.get(name)
        if member is None:
            self._refuse(f"lacks its file {name}")
        if member.file_size > size_bytes:
            raise InputError(
                f"{name} in {self.place} unpacks to {member.file_size} bytes, expected at most {size_bytes}; "
                f"{self._kind.advice}."
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
        """Refuse members that no such archive has, whether or not they would be unpacked."""
        noun, most = self._kind.noun, self._kind.max_members
        if len(members) > most:
            self._refuse(f"holds {len(members)} files, a {noun} at most {most}")
        counts = Counter(folded(_path(member)) for member in members)
        for member in members:
            name = member.orig_filename  # as in the file; zipfile cuts and rewrites the other one
            if "\0" in name or not (is_inside(name) and is_inside(member.filename)):
                self._refuse(f"holds {name!r}, which leads outside the {noun}")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(f"holds {name!r}, which is a link or a device instead of a file")
            if counts[folded(_path(member))] > 1:
                self._refuse(f"holds {name!r} more than once")
            if member.flag_bits & 1:
                self._refuse("is encrypted")
            if member.compress_type not in METHODS:
                self._refuse(f"holds {name!r} in a compression other than deflate")

    def _refuse(self, fault: str) -> NoReturn:
        raise InputError(f"{self.place} {fault}; {self._kind.advice}.")


def _path(member: zipfile.ZipInfo) -> str:
    """The member's path without "./" and doubled separators."""
    return str(PurePosixPath(member.filename))
