"""The models that can be chosen on this computer, and what lists call them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import qt

from PartialSegLib.manifest import Manifest
from PartialSegLib.packages.installed import MODEL_DIR_VARIABLE, installed_packages

FOLDER_SETTING = "PartialSeg/modelFolder"

Models = Mapping[str, tuple[Path, Manifest]]
"""Folder and manifest of packages, by name."""


def useStoredFolder() -> None:
    """Look for models in the folder that the user chose in an earlier session.

    It goes into the environment of Slicer as a whole: library, worker and imports all look there.
    """
    folder = qt.QSettings().value(FOLDER_SETTING)
    if folder:
        os.environ[MODEL_DIR_VARIABLE] = str(folder)


def installedModels() -> Models:
    """Return all packages that can be read now."""
    return {manifest.name: (folder, manifest) for folder, manifest in installed_packages()}


def titlesOf(models: Models) -> dict[str, str]:
    """Return what to call models, by name."""
    return {name: f"{one.title} ({name} {one.version})" for name, (_folder, one) in models.items()}
