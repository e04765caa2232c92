"""Writing so that nothing half-written is ever seen: a temporary name beside the target, then a rename."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well and vanishes when it does not.

    The temporary lies in the same folder, so that the rename is atomic, and keeps the suffixes of `path`,
    from which writers choose their format. It may be made a file or a folder; a folder's files are moved one
    by one into a target folder that exists already. Missing parent folders are created.

    Args:
        path: Where the finished output shall be.

    Yields:
        The temporary path to write to; nothing exists there yet.

    Raises:
        InputError: When the place cannot be written to, or its disk is full.
    """
    target = Path(path).expanduser()
    temporary = target.with_name(f".{os.getpid()}.partial-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _move(temporary, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Cannot write {target}: {reason}; choose another place or free some space."
        ) from error
    finally:
        _remove(temporary)


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        for child in sorted(source.iterdir()):
            os.replace(child, target / child.name)
    else:
        os.replace(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
