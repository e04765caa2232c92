"""Official checkpoints become model packages, once; at run time nobody knows their key names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded
from ..manifest import Manifest, is_model_name, read_manifest
from ..model import save_model
from ..packages.installed import BUNDLED_MODELS, manifests_in, model_folders
from ..packages.nnunet_files import Choice
from ..sentences import suggestion
from .checkpoint import ImportedModel
from .dodnet import import_dodnet
from .multitalent import import_multitalent
from .nnunet import import_nnunet
from .nnunet_archive import found_checkpoints
from .recognition import recognize_checkpoint
from .stunet import import_stunet
from .transdodnet import import_transdodnet

__all__ = ["IMPORTERS", "ImportedModel", "import_checkpoint"]

IMPORTERS: dict[str, Callable[..., ImportedModel]] = {
    "dodnet": import_dodnet,
    "transdodnet": import_transdodnet,
    "multitalent": import_multitalent,
    "stunet": import_stunet,
    "nnunet": import_nnunet,
}


MODEL_FOLDERS = ("nnunet", "stunet")
"""Importers of models in a folder with several folds, which may come in a .zip."""


def import_checkpoint(
    name: str,
    checkpoint: str | Path,
    output_folder: str | Path,
    folds: Sequence[str] = (),
    configuration: str | None = None,
) -> Manifest:
    """Turn an official training checkpoint into a model package.

    Nothing is written unless every key of the checkpoint is understood. Several folds become an ensemble,
    whose arithmetic and size grow with their number.

    Args:
        name: a key of `IMPORTERS`, or "auto" to find out.
        checkpoint: the file as the official training code saved it; for nnU-Net and STU-Net also the folder
            of a fold, a model or a data set, or the .zip of nnUNetv2_export_model_to_zip.
        output_folder: the package's folder; among the installed ones its name becomes that of the model.
        folds: of nnU-Net or STU-Net the numbers of folds to take, or "all" for the network trained on all
            cases; by default those that nnU-Net takes, see `Choice`.
        configuration: of nnU-Net or STU-Net, where several were trained, such as "3d_fullres".

    Returns:
        The manifest of the package.

    Raises:
        InputError: unknown importer, a file that is no checkpoint of this network or asks for code to be run,
            an archive that means harm, a choice that is not there, or a place that cannot be written to.
    """
    path = Path(os.path.abspath(expanded(checkpoint)))  # the folders above it describe the model
    output = Path(os.path.abspath(expanded(output_folder)))
    _check_name(output)
    if name not in ("auto", *IMPORTERS):
        raise InputError(f"Unknown importer {name!r}; {suggestion(name, ['auto', *IMPORTERS])}.")
    choice = Choice(tuple(fold.removeprefix("fold_") for fold in folds), configuration)
    with _checkpoints(name, path, choice) as checkpoints:
        if name == "auto":
            name = recognize_checkpoint(checkpoints[0])
        if name not in MODEL_FOLDERS and len(checkpoints) > 1:
            raise InputError(f"{path} holds several folds, but {name} has none; give one checkpoint.")
        imported = IMPORTERS[name](*checkpoints)
        manifest = _named_after(output, imported.manifest)
        return save_model(output, manifest, imported.state_dict, imported.license_text)


def _check_name(folder: Path) -> None:
    """Refuse a folder whose name can be that of no installed model, before anything is read.

    Raises:
        InputError: it lies among the installed models, where its name becomes that of the model.
    """
    if not _is_among_installed(folder):
        return
    if not is_model_name(folder.name):
        raise InputError(
            f"Among installed models the folder's name becomes that of the model, and {folder.name!r} has "
            "more than letters, digits, '.', '_' and '-', ends with '.', or is the name of a device on "
            "Windows; choose another one."
        )
    if folder.name in {read_manifest(path.parent).name for path in manifests_in(BUNDLED_MODELS)}:
        raise InputError(f"{folder.name} is the name of a model that is part of PartialSeg; choose another.")


def _named_after(folder: Path, manifest: Manifest) -> Manifest:
    """An installed model goes by the name of its folder, so that a checkpoint can be there several times."""
    return replace(manifest, name=folder.name) if _is_among_installed(folder) else manifest


def _is_among_installed(folder: Path) -> bool:
    return folder.resolve().parent in {place.resolve() for place in model_folders()}


def _checkpoints(name: str, path: Path, choice: Choice) -> AbstractContextManager[tuple[Path, ...]]:
    """The files that an importer reads; only models of nnU-Net are looked for in folders and archives."""
    if name == "auto" or name in MODEL_FOLDERS:
        return found_checkpoints(path, choice)
    if choice.is_made:
        raise InputError(
            f"Checkpoints of {name} have no folds and configurations to choose; leave --fold and "
            "--configuration out."
        )
    return nullcontext((path,))
