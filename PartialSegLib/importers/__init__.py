"""Official checkpoints become model packages, once; at run time nobody knows their key names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..json_fields import suggestion
from ..manifest import Manifest
from ..model import save_model
from .checkpoint import ImportedModel
from .dodnet import import_dodnet
from .multitalent import import_multitalent
from .nnunet import import_nnunet
from .recognition import recognize_checkpoint
from .stunet import import_stunet
from .transdodnet import import_transdodnet

__all__ = ["IMPORTERS", "ImportedModel", "import_checkpoint"]

IMPORTERS: dict[str, Callable[[Path], ImportedModel]] = {
    "dodnet": import_dodnet,
    "transdodnet": import_transdodnet,
    "multitalent": import_multitalent,
    "stunet": import_stunet,
    "nnunet": import_nnunet,
}


def import_checkpoint(name: str, checkpoint: str | Path, output_folder: str | Path) -> Manifest:
    """Turn an official training checkpoint into a model package.

    Nothing is written unless every key of the checkpoint is understood.

    Args:
        name: a key of `IMPORTERS`, or "auto" to find out.
        checkpoint: the file, or for nnU-Net and STU-Net the folder, as the official training code saved it.
        output_folder: the package's folder.

    Returns:
        The manifest of the package.

    Raises:
        InputError: unknown importer, a file that is no checkpoint of this network or asks for code to be run,
            or a place that cannot be written to.
    """
    path = Path(checkpoint).expanduser()
    if name == "auto":
        name = recognize_checkpoint(path)
    if name not in IMPORTERS:
        raise InputError(f"Unknown importer {name!r}; {suggestion(name, ['auto', *IMPORTERS])}.")
    imported = IMPORTERS[name](path)
    return save_model(output_folder, imported.manifest, imported.state_dict, imported.license_text)
