"""Small model packages for tests, as folders and as archives, and what is true of installed ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import FileEntry, manifest_to_json, read_manifest
from PartialSegLib.packages.installation import install_package
from PartialSegLib.packages.package_files import check_file

WEIGHTS = random.Random(0).randbytes(3_000_000)


def write_package(folder: Path, version: str = "1.0.0", **changes: Any) -> Path:
    """A package named tiny; nobody looks into its weights before they are loaded."""
    contents = {"weights.safetensors": WEIGHTS, "LICENSE": b"A licence.\n", "extra/notes.txt": b""}
    files = {name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}
    manifest = dataclasses.replace(mots_manifest({}), name="tiny", version=version, files=files)
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "model.json").write_text(json.dumps({**manifest_to_json(manifest), **changes}))
    return folder


def zip_package(package: Path, archive: Path, top: str = "") -> Path:
    """The package as a .zip, with files that other programs add."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for path in sorted(package.rglob("*")):
            file.write(path, f"{top}{path.relative_to(package).as_posix()}")
        file.writestr("__MACOSX/tiny/._model.json", b"resource fork")
    return archive


def assert_sound(installed: Path, version: str = "1.0.0") -> None:
    manifest = read_manifest(installed)
    assert manifest.version == version
    for name, entry in manifest.files.items():
        check_file(installed, name, entry)
    files = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert files == {"model.json", *manifest.files}
    assert_nothing_else(installed)


def assert_nothing_else(installed: Path) -> None:
    """No temporary folder is left beside the packages."""
    assert [path.name for path in installed.parent.iterdir() if path.name.startswith(".")] == []


def assert_refused(source: Path, models: Path, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        install_package(source)
    assert str(refusal.value).count("\n") == 0
    assert not models.exists() or list(models.iterdir()) == []
