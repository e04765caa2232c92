"""Trained models of nnU-Net version 2: a model folder, with plans.json, dataset.json and checkpoints.

Isensee et al.: nnU-Net, Nature Methods 2021; https://github.com/MIC-DKFZ/nnUNet and
https://github.com/MIC-DKFZ/dynamic-network-architectures. Several folds become an ensemble.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..manifest import Manifest, NetworkSpec
from ..model import build_network
from ..packages.package_files import file_sha256
from .checkpoint import ImportedModel, renamed_weights
from .converted_license import converted_license
from .nnunet_checkpoint import TrainedModel, read_trained_model
from .nnunet_postprocessing import chosen_postprocessing

SOURCE_URL = "https://github.com/MIC-DKFZ/nnUNet"

logger = logging.getLogger(__name__)

CITATION = (
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 2021, 18, 203-211."
)

LICENSE_TEXT = converted_license("nnU-Net", SOURCE_URL, None, f"the authors of the model, and: {CITATION}")

UNIT_NAMES = {
    r"^((?:stem|encoder|decoder)\..*?)0\.(weight|bias)$": r"\1conv.\2",
    r"^((?:stem|encoder|decoder)\..*?)1\.(weight|bias)$": r"\1norm.\2",
}

DECODER_NAMES = {
    r"^decoder\.(\d+)\.(\d+)\.": r"decoder.stages.\1.convs.\2.",
    r"^upsampling\.": "decoder.transpconvs.",
    r"^heads\.": "decoder.seg_layers.",
}

UNET_NAMES = {
    **UNIT_NAMES,
    **DECODER_NAMES,
    r"^encoder\.(\d+)\.(\d+)\.": r"encoder.stages.\1.0.convs.\2.",
}

RESIDUAL_ENCODER_UNET_NAMES = {
    **UNIT_NAMES,
    **DECODER_NAMES,
    r"^stem\.": "encoder.stem.convs.0.",
    r"^encoder\.(\d+)\.(\d+)\.": r"encoder.stages.\1.blocks.\2.",
    r"\.unit([12])\.": r".conv\1.",
    r"\.shortcut\.": ".skip.",
}


def import_nnunet(*checkpoints: Path) -> ImportedModel:
    """Read a model of nnU-Net version 2: any CT model with a PlainConvUNet or ResidualEncoderUNet.

    Args:
        checkpoints: of one fold, or of several folds of one model, which become an ensemble.

    Raises:
        InputError: not such a model, or one that asks for what is not supported; the message says what.
    """
    found = read_trained_model(*checkpoints)
    try:
        network = found.plan.network()
        names = UNET_NAMES if network.architecture == "UNet" else RESIDUAL_ENCODER_UNET_NAMES
        return imported_folds(
            found, planned_manifest(found, network, CITATION, SOURCE_URL), names, LICENSE_TEXT
        )
    except InputError as error:
        raise InputError(f"{found.place} cannot be imported from nnU-Net: {error}") from None


def planned_manifest(found: TrainedModel, network: NetworkSpec, citation: str, url: str) -> Manifest:
    """The manifest that plans.json and dataset.json give, with the clean-up that nnU-Net chose, if any.

    Args:
        found: the model.
        network: of one fold.
        citation: of the model's system.
        url: of the code that trained.

    Raises:
        InputError: they ask for what is not supported.
    """
    plan = found.plan
    task, uncoded = plan.task()
    task = dataclasses.replace(task, postprocessing=chosen_postprocessing(found.checkpoints, plan, task))
    folds = [checkpoint.parent.name for checkpoint in found.checkpoints]
    name = re.sub("[^a-z0-9._-]+", "-", f"{plan.name}-{plan.configuration}".lower()).strip("-._")
    checksums = {
        "sha256" if len(folds) == 1 else f"sha256 of {fold}": file_sha256(checkpoint)
        for fold, checkpoint in zip(folds, found.checkpoints, strict=True)
    }
    several = f"folds {', '.join(fold.removeprefix('fold_') for fold in folds)}"
    taken = folds[0] if len(folds) == 1 else several
    preprocessing = plan.preprocessing()
    if set(found.mirror_axes) != {0, 1, 2} and not plan.reorients:
        logger.warning(
            "orientation assumed: %s (z, y, x); check left and right in the first result.",
            preprocessing.orientation,
        )
    return Manifest(
        name=name or "nnunet",
        version="1.0.0",
        title=f"{found.trainer} {network.architecture}, {plan.name}, {plan.configuration}, {taken}",
        license="as given by the authors of the model",
        citation=citation,
        source={"url": url, "checkpoint": found.checkpoints[0].name, **checksums},
        network=network,
        training={"data": f"{plan.name} (as its plans call it)"},
        preprocessing=preprocessing,
        inference=plan.inference(found.mirror_axes),
        tasks=(task,),
        uncoded=uncoded,
    )


def imported_folds(
    found: TrainedModel, manifest: Manifest, names: Mapping[str, str], license_text: str
) -> ImportedModel:
    """The network of one fold with its weights, or the ensemble of several.

    Args:
        found: the model.
        manifest: with the network of one fold.
        names: rules from our names of its weights to the official ones.
        license_text: for the package.

    Raises:
        InputError: the weights of a fold do not fit; the fold is named.
    """
    network = build_network(manifest.network)
    folds = []
    for checkpoint, weights in zip(found.checkpoints, found.weights, strict=True):
        try:
            folds.append(renamed_weights(weights, network, names))
        except InputError as error:
            place = f"{checkpoint.parent.name}: " if len(found.checkpoints) > 1 else ""
            raise InputError(f"{place}{error}") from None
    if len(folds) == 1:
        return ImportedModel(manifest, folds[0], license_text)
    arguments = {
        "architecture": manifest.network.architecture,
        "members": len(folds),
        **manifest.network.arguments,
    }
    return ImportedModel(
        dataclasses.replace(manifest, network=NetworkSpec("Ensemble", arguments)),
        {
            f"members.{number}.{name}": value
            for number, fold in enumerate(folds)
            for name, value in fold.items()
        },
        license_text,
    )
