"""STU-Net as in FLARE23: its models are models of nnU-Net version 2 with a network of their own.

Huang et al.: STU-Net, arXiv 2304.06716; Huang et al.: FLARE 2023, https://github.com/Ziyan-Huang/FLARE23.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..manifest import Manifest, NetworkSpec
from .checkpoint import ImportedModel
from .converted_license import converted_license
from .nnunet import imported_folds, planned_manifest
from .nnunet_checkpoint import read_trained_model
from .nnunet_plans import Plan
from .plan_fields import member

SOURCE_URL = "https://github.com/Ziyan-Huang/FLARE23"

CITATION = (
    "Huang Z, Ye J, Wang H, et al. Exploiting Pseudo-Labeling and nnU-Netv2 Inference Acceleration for "
    "Abdominal Multi-Organ and Pan-Cancer Segmentation, FLARE 2023; Huang Z, Wang H, Deng Z, et al. STU-Net, "
    "arXiv:2304.06716."
)

LICENSE_TEXT = converted_license("STU-Net", SOURCE_URL, "Apache License, version 2.0", CITATION)

OFFICIAL_NAMES = {
    r"^encoder\.": "conv_blocks_context.",
    r"^decoder\.": "conv_blocks_localization.",
    r"^upsampling\.(\d)\.0\.": r"upsample_layers.\1.conv.",
    r"^heads\.": "seg_outputs.",
    r"\.unit([12])\.0\.": r".conv\1.",
    r"\.unit([12])\.1\.": r".norm\1.",
    r"\.shortcut\.": ".conv3.",
}

STEPS = 5  # down-samplings of every size


def import_stunet(*checkpoints: Path) -> ImportedModel:
    """Read a model of STU-Net, of any size and data set.

    The official inference of FLARE23 differs from nnU-Net's: intensities are scaled before a trilinear
    resampling, patches overlap by a fifth, nothing is mirrored. The package says so where the plan's data set
    is FLARE's. Its shortcuts, which look at the centre of the slices only, are not part of the model.

    Args:
        checkpoints: of one fold, or of several folds of one model, which become an ensemble.

    Raises:
        InputError: not such a model; the message says what is wrong.
    """
    found = read_trained_model(*checkpoints)
    try:
        network = network_of(found.weights[0], found.plan)
        manifest = planned_manifest(found, network, CITATION, SOURCE_URL)
        if _is_flare(found.plan):
            manifest = flare23_manifest(manifest)
        return imported_folds(found, manifest, OFFICIAL_NAMES, LICENSE_TEXT)
    except InputError as error:
        raise InputError(f"{found.place} cannot be imported from STU-Net: {error}") from None


def network_of(weights: Mapping[str, Any], plan: Plan) -> NetworkSpec:
    """The network of these weights: sizes from their shapes, strides from the plan.

    Raises:
        InputError: a weight that tells a size is missing, or the plan has no strides.
    """
    first, head = weights.get("conv_blocks_context.0.0.conv1.weight"), weights.get("seg_outputs.0.weight")
    if not isinstance(first, Tensor) or not isinstance(head, Tensor) or first.ndim != 5:
        raise InputError("the weights of STU-Net are missing; choose the checkpoint that training saved.")
    depth = sum(
        re.fullmatch(r"conv_blocks_context\.0\.\d+\.conv1\.weight", name) is not None for name in weights
    )
    if len(head) != plan.num_channels:
        raise InputError(f"the network has {len(head)} classes, but dataset.json has {plan.num_channels}.")
    arguments: dict[str, Any] = {
        "task_channels": [len(head)],
        "in_channels": first.shape[1],
        "base_width": first.shape[0],
        "depth": depth,
        "strides": [[1, 1, 1], *_strides(plan)],
    }
    return NetworkSpec("STUNet", arguments)


def flare23_manifest(manifest: Manifest) -> Manifest:
    """The manifest with the preprocessing and the patches of FLARE23's official inference."""
    preprocessing = dataclasses.replace(
        manifest.preprocessing, resampling="trilinear", separate_above=None, clip_first=True
    )
    inference = dataclasses.replace(manifest.inference, overlap=0.2, mirror_axes=())
    return dataclasses.replace(manifest, preprocessing=preprocessing, inference=inference)


def _is_flare(plan: Plan) -> bool:
    return re.search("flare(20)?23", plan.name.lower()) is not None


def _strides(plan: Plan) -> list[Sequence[int]]:
    """The plan's, without that of the first stage, cut or filled with ones."""
    settings = plan.settings
    arguments = member(member(settings, "architecture", dict, {}), "arch_kwargs", dict, {})
    strides = settings.get("pool_op_kernel_sizes") or arguments.get("strides")
    if not isinstance(strides, list):
        raise InputError("the plan has no pool_op_kernel_sizes.")
    return [*strides[1 : STEPS + 1], *[[1, 1, 1]] * (STEPS + 1 - len(strides))]
