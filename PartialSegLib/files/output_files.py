"""Writing so that nothing half-written is ever seen: a temporary name beside the target, then a rename.

It is on the disk before it gets its name, so that a power cut leaves the old file or the new one.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from secrets import token_hex

from ..errors import InputError
from .file_names import expanded

_STALE_SECONDS = 10.0
"""After which a lock that does not change belongs to a process that was killed."""
_PATIENCE_SECONDS = 2.0 if os.name == "nt" else 0.0
"""On Windows nothing can be replaced while another program, such as a virus scanner, looks at it."""
_LONGEST_NAME = 250
"""In bytes: file systems allow 255, and `_move` adds a suffix."""
_TEMPORARY_NAME = re.compile(r"\.([1-9][0-9]{0,8})-[0-9a-f]{8}\.partial-.+(?<!\.old)", re.DOTALL)
"""Of `_temporary_name`; what `_move` has set aside (.old) may be the only copy and is not meant."""
_LEFT_SECONDS = 3600.0
"""After which a folder is not being written on another computer, whose processes nobody here can ask for."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], outdated: Collection[str] = (), named: Path | None = None
) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well and vanishes when it does not.

    The temporary lies in the same folder, so that the rename is atomic, and keeps the suffixes of `path`,
    from which writers choose their format. It may be made a file or a folder; a folder's files are moved one
    by one into a target folder that exists already, in which the temporary then lies, and when one cannot be
    moved, the old ones are put back. Missing parent folders are created. Beside a finished folder,
    `remove_leftovers` tidies up.

    Args:
        path: Where the finished output shall be.
        outdated: Names of files in a target folder that go when the new ones are there, and come back with
            the old ones.
        named: What an error says cannot be written, where that is not all of `path`.

    Yields:
        The temporary path to write to; nothing exists there yet.

    Raises:
        InputError: When the place cannot be written to, or its disk is full.
    """
    target = expanded(path).absolute()  # "." has no name
    place = target if target.is_dir() else target.parent
    temporary = place / _temporary_name(target.name)
    try:
        with explained_writing_errors(named or target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            is_folder = temporary.is_dir()
            _move(temporary, target, outdated)
    finally:
        _remove(temporary)
    if is_folder:
        for folder in {place, target.parent}:
            remove_leftovers(folder)


def remove_leftovers(place: Path) -> None:
    """Remove the unfinished folders of `replacing` whose process was killed, an hour ago or earlier.

    Links, folders of processes that live, and whatever has another name stay, as does what cannot be removed.

    Args:
        place: The folder that they lie in; may be missing.
    """
    with contextlib.suppress(OSError):  # another process was quicker
        for path in place.iterdir():
            match = _TEMPORARY_NAME.fullmatch(path.name)
            if match is None or path.is_symlink() or not path.is_dir() or _is_alive(int(match[1])):
                continue
            newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - newest > _LEFT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def explained_writing_errors(target: Path) -> Iterator[None]:
    """Say in one sentence that an output cannot be written.

    Raises:
        InputError: When the place cannot be written to, or its disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot write {target}: {reason}; choose another place or free some space."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block: it holds the file `path`, the others wait.

    Works on network drives, too, where what reads and writes in the block takes far less than ten seconds.

    Args:
        path: The lock; nothing is there before and after the block. Missing parent folders are created.

    Raises:
        InputError: When the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        seen, since = 0, time.monotonic()
        while not _create(path, bool(seen) or time.monotonic() - since < _PATIENCE_SECONDS):
            time.sleep(0.02)
            if (stamp := _stamp(path)) != seen:
                seen, since = stamp, time.monotonic()
            elif time.monotonic() - since > _STALE_SECONDS:
                path.unlink(missing_ok=bool(stamp))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot write {path}: {reason}; choose another place.") from error
    try:
        yield
    finally:
        _remove(path)


def nearest_existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there.

    Raises:
        InputError: When there is none, as on a drive of Windows that is not connected.
    """
    absolute = folder.absolute()
    existing = next((place for place in (absolute, *absolute.parents) if place.exists()), None)
    if existing is None:
        raise InputError(
            f"Nothing can be written to {folder}: there is no {absolute.anchor}; connect the drive or choose "
            "another folder."
        )
    return existing


def replace_patiently(source: Path, target: Path) -> None:
    """As `os.replace`, of files and folders, but on Windows it waits while another program looks at one."""
    if target.is_dir() and not source.is_dir():  # each system calls it something else
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.05)


def _temporary_name(name: str) -> str:
    """Hidden and like no other; of a long name the beginning is left out, the suffixes stay."""
    start = f".{os.getpid()}-{token_hex(4)}.partial-"
    while len(os.fsencode(start + name)) > _LONGEST_NAME:
        name = name[1:]
    return start + name


def _is_alive(pid: int) -> bool:
    """Whether a process of this computer has that number, perhaps another one than was meant."""
    if sys.platform == "win32":  # where os.kill would end it
        synchronize, no_such_process = 0x100000, 87
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        process = kernel.OpenProcess(synchronize, False, pid)
        if not process:
            return ctypes.get_last_error() != no_such_process
        has_ended = kernel.WaitForSingleObject(process, 0) == 0
        kernel.CloseHandle(process)
        return not has_ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _create(path: Path, is_patient: bool) -> bool:
    """Whether the file was not there before.

    Windows refuses it while another process removes it, too: the patient take that for "it is there".
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except PermissionError:
        if os.name != "nt" or not is_patient:
            raise
        return False
    return True


def _stamp(path: Path) -> int:
    """When a file was made, by the clock of its drive; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


def _flush(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the disk; drives that cannot tell are believed."""
    mode = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # Windows flushes only what may be written to
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            descriptor = os.open(file, mode)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                    raise
            finally:
                os.close(descriptor)


def _move(source: Path, target: Path, outdated: Collection[str]) -> None:
    if not (source.is_dir() and target.is_dir()):
        replace_patiently(source, target)
        return
    old = Path(f"{source}.old")
    old.mkdir()
    names = sorted(os.listdir(source))
    try:
        for name in names:
            if (target / name).is_file():
                _set_aside(target / name, old / name)
            replace_patiently(source / name, target / name)
        for name in outdated:
            if (target / name).is_file():
                replace_patiently(target / name, old / name)
    except BaseException:
        for name in (*names, *outdated):
            if (old / name).exists() and not _is_same(old / name, target / name):
                replace_patiently(old / name, target / name)
            elif name in names and not (source / name).exists():
                _remove(target / name)
        _remove(old)
        raise
    _remove(old)


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _set_aside(path: Path, old: Path) -> None:
    """Keep a file under a second name; where drives allow it, it stays under the first one, too."""
    try:
        os.link(path, old)
    except OSError:
        replace_patiently(path, old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
