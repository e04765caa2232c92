"""Simulates a full disk for whatever this process writes."""

import contextlib
import signal
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def full_disk(room_bytes: int = 512) -> Iterator[None]:
    """Let every file grow to `room_bytes` only; what goes beyond fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="file size limits exist on Unix only")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
