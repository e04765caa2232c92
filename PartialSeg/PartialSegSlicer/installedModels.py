"""The models that can be chosen on this computer, and what lists call them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PartialSegLib.manifest import Manifest
from PartialSegLib.packages import installed_packages

Models = Mapping[str, tuple[Path, Manifest]]
"""Folder and manifest of packages, by name."""


def installedModels() -> Models:
    """Return all packages that can be read now."""
    return {manifest.name: (folder, manifest) for folder, manifest in installed_packages()}


def titlesOf(models: Models) -> dict[str, str]:
    """Return what to call models, by name."""
    return {name: f"{one.title} ({name} {one.version})" for name, (_folder, one) in models.items()}
