"""Finding model packages: in the user's model folder, among the bundled ones, or by path."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded
from ..manifest import MANIFEST_FILE, Manifest, read_manifest
from ..sentences import suggestion

MODEL_DIR_VARIABLE = "PARTIALSEG_MODEL_DIR"
BUNDLED_MODELS = Path(__file__).parents[1] / "models"

logger = logging.getLogger(__name__)


def model_folders() -> list[Path]:
    """Folders whose sub-folders are packages: the user's first, then the bundled one.

    The user's is $PARTIALSEG_MODEL_DIR, or ~/.partialseg/models when the variable is not set; without a home
    folder there is none.
    """
    user = os.environ.get(MODEL_DIR_VARIABLE)
    try:
        return [Path(user).expanduser() if user else Path.home() / ".partialseg" / "models", BUNDLED_MODELS]
    except RuntimeError:  # no home folder
        return [BUNDLED_MODELS]


def manifests_in(folder: Path) -> list[Path]:
    """Paths of the manifests of all packages in a folder, sorted; none where there is no such folder.

    Hidden folders, which an import or installation that was killed may leave, are passed over.

    Raises:
        OSError: the folder cannot be read: it is locked away, or its drive does not answer.
    """
    try:
        packages = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path / MANIFEST_FILE for path in packages if os.path.exists(path / MANIFEST_FILE)]


def installed_packages() -> list[tuple[Path, Manifest]]:
    """Folder and manifest of every readable package, the user's first, each name once.

    A broken package, and a folder of models that cannot be read, is left out with a warning in the log, so
    that it does not hide the others.
    """
    packages: dict[str, tuple[Path, Manifest]] = {}
    for manifest_path in (path for folder in model_folders() for path in _readable_manifests_in(folder)):
        try:
            manifest = read_manifest(manifest_path.parent)
        except InputError as error:
            logger.warning("Model package left out: %s", error)
        else:
            packages.setdefault(manifest.name, (manifest_path.parent, manifest))
    return list(packages.values())


def _readable_manifests_in(folder: Path) -> list[Path]:
    try:
        return manifests_in(folder)
    except OSError as error:
        logger.warning(
            "The models in %s are left out: the folder cannot be read (%s); check its permissions, and that "
            "its drive is connected.",
            folder,
            error.strerror or error,
        )
        return []


def find_package(name_or_path: str | Path) -> Path:
    """Folder of a package, given by the name of an installed one or by its path.

    An installed name wins over a folder of that name in the working directory. A package that is installed
    but broken is found by its folder's name, so that loading it says what is wrong with it.

    Raises:
        InputError: neither; the message names the closest installed package.
    """
    path = expanded(name_or_path)
    if isinstance(name_or_path, str) and path.name == name_or_path:
        installed = {manifest.name: folder for folder, manifest in installed_packages()}
        if name_or_path in installed:
            return installed[name_or_path]
        for folder in model_folders():
            if os.path.exists(folder / name_or_path / MANIFEST_FILE):
                return folder / name_or_path
        if not os.path.exists(path):
            raise InputError(
                f"Unknown model {name_or_path!r}: {suggestion(name_or_path, installed)}, "
                "or give the path of a package folder."
            )
    if not os.path.exists(path):  # unlike the method it takes a drive that does not answer for none
        raise InputError(f"There is no model package at {path}; check the path.")
    if path.is_file():
        raise InputError(
            f"{path} is a file, not the folder of a model package; install it with 'partialseg install' "
            "and give the name of the model."
        )
    return path
