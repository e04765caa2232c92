"""What works here, tried out: `python -m PartialSegLib.worker.probe` prints it in lines of JSON.

Slicer runs it in a child process: a broken torch may take the process down, and Windows could not replace a
torch that Slicer has loaded. The versions are printed before anything is tried: they are known in any case.

Lines: {"versions": {package: version or null}, "openvino": whether this optional package is there}, then
either {"broken": package, "error": text} or {"automatic": device, "cards": [{"device", "title",
"memory_bytes"}]}.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from typing import Any

PACKAGES = ("torch", "safetensors")


def main() -> None:
    """Print versions, and then what is broken or where can be computed."""
    versions = {name: _version(name) for name in PACKAGES}
    _print(versions=versions, openvino=importlib.util.find_spec("openvino") is not None)
    broken = "torch"
    try:
        from ..pytorch.devices import choose_device, graphics_cards

        automatic = choose_device("auto")
        broken = "safetensors"
        importlib.import_module("safetensors.torch")
    except Exception as error:
        _print(broken=broken, error=f"{type(error).__name__}: {error}")
    else:
        cards = [dataclasses.asdict(card) for card in graphics_cards()]
        _print(automatic=str(automatic), cards=cards)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print(**answer: Any) -> None:
    sys.stdout.write(f"\n{json.dumps(answer)}\n")  # a library may have begun a line
    sys.stdout.flush()


if __name__ == "__main__":
    main()
