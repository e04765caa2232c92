"""One run at a time in a place: a file that a run holds until it ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import InputError
from ...files.output_files import explained_writing_errors


@contextmanager
def held(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a file until the block ends; it stays where it is.

    Args:
        lock: the file, made if it is not there; its folder is there.
        refusal: what to say where another process holds it, in a sentence.

    Raises:
        InputError: another process holds it, or it cannot be written to.
    """
    with explained_writing_errors(lock.parent):
        file = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        if not _hold(file):
            raise InputError(refusal)
        yield
    finally:
        os.close(file)


def _hold(file: int) -> bool:
    """Whether no other process holds an open file; this one then does so until it closes the file or ends.

    File systems without locks let everybody in. With `flock` data workers would go on holding the file when
    their run is killed.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
