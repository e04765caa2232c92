"""What memory the computer has left and this process takes; without packages that Slicer lacks.

Windows and Linux tell what programs can still take, caches that can be given up included; on Linux the limits
of control groups count too, in which containers and batch systems run. macOS tells the free share.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")
_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of the limit and the usage, and the line of the cache that can be given up, in versions 2 and 1."""


def available_memory(root: Path = _SYSTEM) -> int | None:
    """The bytes of memory that programs can still take; None where the system does not say.

    Args:
        root: where /proc and /sys are looked for on Linux.
    """
    try:
        if sys.platform == "win32":
            return _available_on_windows()
        if sys.platform == "darwin":
            return _available_on_macos()
        free = _kilobytes(root / "proc/meminfo", "MemAvailable")
        return None if free is None else max(0, min([free, *_left_in_control_groups(root)]))
    except (AttributeError, OSError, ValueError):
        return None


def resident_memory(root: Path = _SYSTEM) -> int | None:
    """The bytes of memory that this process takes; on macOS the most that it took; None if unknown."""
    return _of_process("VmRSS", root)


def peak_memory(root: Path = _SYSTEM) -> int | None:
    """The most bytes of memory that this process has taken so far; None where the system does not say."""
    return _of_process("VmHWM", root)


def gigabytes(count: int) -> str:
    """A number of bytes for people, such as "1.5 GB", or "20 MB" where that says more."""
    return f"{count / (1 << 30):.1f} GB" if count >= 100 << 20 else f"{count / (1 << 20):.0f} MB"


def _of_process(name: str, root: Path) -> int | None:
    try:
        if sys.platform == "win32":
            return _process_on_windows(name)
        if sys.platform == "darwin":
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes there, kilobytes elsewhere
        return _kilobytes(root / "proc/self/status", name)
    except (AttributeError, OSError, ValueError):
        return None


def _kilobytes(path: Path, name: str) -> int | None:
    """The bytes in a line like "MemAvailable:   12 kB"."""
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_control_groups(root: Path) -> Iterator[int]:
    """What the control groups of this process, and those that contain them, leave it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = mount / name.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                yield from _left_in(folder)


def _left_in(folder: Path) -> Iterator[int]:
    """What one control group leaves; nothing where it has no limit or says nothing."""
    for limit_file, usage_file, cache_line in _CONTROL_GROUPS:
        try:
            limit = (folder / limit_file).read_text(encoding="ascii").strip()
            usage = int((folder / usage_file).read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        if limit != "max":
            cache = sum(int(line.split()[1]) for line in statistics if line.split()[0] == cache_line)
            yield int(limit) - usage + cache


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total_physical", ctypes.c_ulonglong),
        ("available_physical", ctypes.c_ulonglong),
        ("others", ctypes.c_ulonglong * 5),
    ]


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("page_faults", ctypes.c_ulong),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    ]


def _available_on_windows() -> int | None:
    if sys.platform != "win32":
        return None
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    succeeded = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.available_physical) if succeeded else None


def _process_on_windows(name: str) -> int | None:
    if sys.platform != "win32":
        return None
    memory = _ProcessMemory(length=ctypes.sizeof(_ProcessMemory))
    this_process = ctypes.c_void_p(-1)
    told = ctypes.windll.kernel32.K32GetProcessMemoryInfo(this_process, ctypes.byref(memory), memory.length)
    if not told:
        return None
    return int(memory.peak_working_set if name == "VmHWM" else memory.working_set)


def _available_on_macos() -> int | None:
    total = _system_value(b"hw.memsize", ctypes.c_uint64())
    free_percent = _system_value(b"kern.memorystatus_level", ctypes.c_uint32())
    return None if total is None else total * (100 if free_percent is None else free_percent) // 100


def _system_value(name: bytes, value: ctypes.c_uint64 | ctypes.c_uint32) -> int | None:
    """A number that the kernel of macOS knows; None where it does not know it."""
    size = ctypes.c_size_t(ctypes.sizeof(value))
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    failed = library.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed else int(value.value)
