"""PartialSeg: CT segmentation with networks trained on partially labelled data.

The names below are the public interface. Each is loaded on first use, so that `import PartialSegLib` costs
nothing and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import Cancelled, DeviceError, InputError
    from .inference.region_selection import CoarsePass
    from .model import load_model
    from .one_call import segment
    from .segmentation import Segmentation
    from .segmentation_files.formats import read_segmentation, write_segmentation
    from .session import InferenceSession
    from .volume import Volume, check_hounsfield, read_volume, write_volume

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "CoarsePass",
    "DeviceError",
    "InferenceSession",
    "InputError",
    "Segmentation",
    "Volume",
    "check_hounsfield",
    "load_model",
    "read_segmentation",
    "read_volume",
    "segment",
    "write_segmentation",
    "write_volume",
]

_MODULES = {
    "errors": ("Cancelled", "DeviceError", "InputError"),
    "inference.region_selection": ("CoarsePass",),
    "model": ("load_model",),
    "one_call": ("segment",),
    "segmentation": ("Segmentation",),
    "segmentation_files.formats": ("read_segmentation", "write_segmentation"),
    "session": ("InferenceSession",),
    "volume": ("Volume", "check_hounsfield", "read_volume", "write_volume"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, and nothing else, for completion."""
    return __all__
