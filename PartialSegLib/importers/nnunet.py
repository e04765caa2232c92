"""Trained models of nnU-Net version 2: a model folder, with plans.json, dataset.json and checkpoints.

Isensee et al.: nnU-Net, Nature Methods 2021; https://github.com/MIC-DKFZ/nnUNet and
https://github.com/MIC-DKFZ/dynamic-network-architectures. A package holds one fold; nnU-Net can average
several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..manifest import Manifest, NetworkSpec
from ..model import build_network
from ..package_files import file_sha256
from .checkpoint import (
    ImportedModel,
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    renamed_weights,
    without_parallel_prefix,
)
from .nnunet_plans import Plan

SOURCE_URL = "https://github.com/MIC-DKFZ/nnUNet"

CITATION = (
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 2021, 18, 203-211."
)

LICENSE_TEXT = f"""\
The weights in this package were converted from a model trained with nnU-Net ({SOURCE_URL}).
The conversion changes names and container only. The terms under which the authors of the model gave it away
still hold. Cite the authors of the model, and: {CITATION}
"""

CONTAINER_KEYS = {
    *("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch"),
    *("init_args", "trainer_name", "inference_allowed_mirroring_axes"),
}
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
COMPILED_PREFIX = "_orig_mod."

FIRST_NAMES = {
    r"^decoder\.encoder\.": "encoder.",  # the decoder holds the encoder
    r"\.all_modules\.0\.": ".conv.",  # version 2 keeps each layer of a unit twice
    r"\.all_modules\.1\.": ".norm.",
    r"\.all\.0\.": ".conv.",  # so does version 1, with a dropout between the two
    r"\.all\.2\.": ".norm.",
}

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


@dataclass(frozen=True)
class TrainedModel:
    """What a model folder of nnU-Net holds.

    Attributes:
        plan: plans.json and dataset.json, and the configuration that was trained.
        weights: official name to tensor, one name for each.
        trainer: class that trained, such as nnUNetTrainer.
        mirror_axes: along which training mirrored.
        checkpoint: the file with the weights.
    """

    plan: Plan
    weights: dict[str, Any]
    trainer: str
    mirror_axes: tuple[int, ...]
    checkpoint: Path


def import_nnunet(path: Path) -> ImportedModel:
    """Read a model of nnU-Net version 2: any CT model with a PlainConvUNet or ResidualEncoderUNet.

    Args:
        path: checkpoint of a fold, folder of a fold, or model folder with one fold (or fold_all).

    Raises:
        InputError: not such a model, or one that asks for what is not supported; the message says what.
    """
    found = read_trained_model(path)
    try:
        network = found.plan.network()
        names = UNET_NAMES if network.architecture == "UNet" else RESIDUAL_ENCODER_UNET_NAMES
        return ImportedModel(
            planned_manifest(found, network, CITATION, SOURCE_URL),
            renamed_weights(found.weights, build_network(network), names),
            LICENSE_TEXT,
        )
    except InputError as error:
        raise InputError(f"{found.checkpoint} cannot be imported from nnU-Net: {error}") from None


def planned_manifest(found: TrainedModel, network: NetworkSpec, citation: str, url: str) -> Manifest:
    """The manifest that plans.json and dataset.json give.

    Raises:
        InputError: they ask for what is not supported.
    """
    plan = found.plan
    task, uncoded = plan.task()
    fold = found.checkpoint.parent.name
    name = re.sub("[^a-z0-9._-]+", "-", f"{plan.name}-{plan.configuration}".lower()).strip("-._")
    return Manifest(
        name=name or "nnunet",
        version="1.0.0",
        title=f"{found.trainer} {network.architecture}, {plan.name}, {plan.configuration}, {fold}",
        license="as given by the authors of the model",
        citation=citation,
        source={"url": url, "checkpoint": found.checkpoint.name, "sha256": file_sha256(found.checkpoint)},
        network=network,
        preprocessing=plan.preprocessing(),
        inference=plan.inference(found.mirror_axes),
        tasks=(task,),
        uncoded=uncoded,
    )


def read_trained_model(path: Path) -> TrainedModel:
    """Read checkpoint, plans.json and dataset.json; nothing of the plan is checked yet.

    plans.json and dataset.json lie two folders above the checkpoint, or are in it.

    Raises:
        InputError: a file is missing or damaged, or is no model of nnU-Net version 2.
    """
    checkpoint = find_checkpoint(path)
    contents = read_checkpoint(checkpoint)
    try:
        if not isinstance(contents, dict) or "network_weights" not in contents:
            raise InputError("it holds no 'network_weights'; choose the checkpoint that training saved.")
        refuse_unknown_keys(contents, "network_weights", CONTAINER_KEYS)
        arguments = contents.get("init_args") or {}
        folder = checkpoint.parent.parent
        plans = _json_beside(folder / "plans.json", arguments.get("plans"))
        dataset = _json_beside(folder / "dataset.json", arguments.get("dataset_json"))
        configuration = str(arguments.get("configuration", "3d_fullres"))
        weights = without_parallel_prefix(
            named_weights(contents["network_weights"], " under 'network_weights'")
        )
        return TrainedModel(
            Plan(plans, dataset, configuration),
            without_duplicates({key.removeprefix(COMPILED_PREFIX): value for key, value in weights.items()}),
            str(contents.get("trainer_name", "nnUNetTrainer")),
            tuple(contents.get("inference_allowed_mirroring_axes") or ()),
            checkpoint,
        )
    except InputError as error:
        raise InputError(f"{checkpoint} is not a model of nnU-Net version 2: {error}") from None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself, that of a fold's folder, or that of the only fold of a model folder.

    Raises:
        InputError: a folder with several folds, or with no checkpoint.
    """
    if not path.is_dir():
        return path
    folds = sorted(path.glob("fold_*")) or [path]
    folds = [fold for fold in folds if fold.name == "fold_all"] or folds
    if len(folds) > 1:
        names = ", ".join(fold.name for fold in folds)
        raise InputError(f"{path} holds several folds ({names}); give the folder of one.")
    for name in CHECKPOINTS:
        if (folds[0] / name).is_file():
            return folds[0] / name
    raise InputError(f"{folds[0]} holds no {CHECKPOINTS[0]}; give a trained model of nnU-Net version 2.")


def _json_beside(path: Path, stored: Any) -> dict[str, Any]:
    """The contents of a file of the model folder, or what the checkpoint stored of it."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else stored
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} cannot be read ({error}).") from None
    if not isinstance(contents, dict):
        raise InputError(f"there is no {path.name} in {path.parent}; keep the model folder together.")
    return contents


def without_duplicates(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Keep one of the names that nnU-Net gives to the same weights, after checking that they are the same.

    Args:
        weights: official name to tensor.

    Raises:
        InputError: two names of one tensor hold different values; both are named.
    """
    result: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value in weights.items():
        first = key
        for pattern, replacement in FIRST_NAMES.items():
            first = re.sub(pattern, replacement, first)
        if first in result and not _equal(result[first], value):
            raise InputError(
                f"the keys {names[first]!r} and {key!r} should hold the same weights but differ; "
                "choose the file that training saved."
            )
        result.setdefault(first, value)
        names.setdefault(first, key)
    return result


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.equal(other)
