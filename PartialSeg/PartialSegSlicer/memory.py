"""How much memory a run needs, and how much the computer has left; without packages that Slicer lacks."""

import ctypes
import ctypes.util
import sys
from pathlib import Path

import numpy as np

from PartialSegLib.manifest import Manifest

from .geometry import volumeInMl

_WORKER_BYTES = 600 << 20  # the process with PyTorch and the weights, before it sees an image
_BYTES_PER_GRID_VOXEL = 8  # intensities before and after scaling
_BYTES_PER_SCORE = 3  # float16, and as much again for the task that is being cleaned up


def neededMemory(volumeNode, model: Manifest | None) -> int:
    """Estimate the bytes that segmenting a volume takes, in the worker and for masks here.

    Args:
        volumeNode: a scalar volume node.
        model: the manifest of the model; None leaves out the network's grid. Features that are kept to speed
            up the next task come on top, up to the budget that the user sets for them.
    """
    needed = _WORKER_BYTES + imageBytes(volumeNode) + 2 * volumeNode.GetImageData().GetNumberOfPoints()
    if model is not None:
        gridVoxels = volumeInMl(volumeNode) * 1000 / np.prod(model.preprocessing.spacing)
        channels = sum(max(task.structures.values()) + 1 for task in model.tasks)
        needed += int(gridVoxels * (_BYTES_PER_GRID_VOXEL + _BYTES_PER_SCORE * channels))
    return needed


def imageBytes(volumeNode) -> int:
    """Return the bytes of a volume's voxels."""
    image = volumeNode.GetImageData()
    return image.GetNumberOfPoints() * image.GetScalarSize() * image.GetNumberOfScalarComponents()


def gigabytes(count: int) -> str:
    """Return a number of bytes in gigabytes for people, such as "1.5"."""
    return f"{count / (1 << 30):.1f}"


def availableMemory() -> int | None:
    """Return the bytes of memory that programs can still take, None where the system does not say.

    Windows and Linux tell what is available, caches that can be given up included; macOS only tells what the
    computer has in all.
    """
    try:
        if sys.platform == "win32":
            return _ofWindows()
        if sys.platform == "darwin":
            return _ofMacOS()
        return _ofLinux(Path("/proc/meminfo").read_text(encoding="ascii"))
    except (AttributeError, OSError, ValueError):
        return None


def _ofLinux(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("totalPhysical", ctypes.c_ulonglong),
        ("availablePhysical", ctypes.c_ulonglong),
        ("others", ctypes.c_ulonglong * 5),
    ]


def _ofWindows() -> int | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    succeeded = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.availablePhysical) if succeeded else None


def _ofMacOS() -> int | None:
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    value, size = ctypes.c_uint64(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_uint64))
    failed = library.sysctlbyname(b"hw.memsize", ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed else int(value.value)
