"""MultiTalent's checkpoints of nnU-Net version 1, and the manifest of its 13 data sets with 47 classes.

Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein: MultiTalent: A Multi-Dataset Approach to Medical Image
Segmentation, MICCAI 2023; https://github.com/MIC-DKFZ/MultiTalent.

Its Swin UNETR is MONAI's class with a feature size of 48, 47 output channels and no other layer, trained with
the U-Net's plans; its authors gave away no such checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from ..model import build_network
from ..networks.encoder_decoder import EncoderDecoder
from ..packages.package_files import file_sha256
from .checkpoint import (
    ImportedModel,
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    renamed_weights,
    without_parallel_prefix,
)
from .converted_license import converted_license
from .nnunet_checkpoint import without_duplicates
from .nnunet_plans import AXES, intensity_range
from .nnunet_resampling import SEPARATE_ABOVE
from .restricted_pickle import read_plain_pickle

SOURCE_URL = "https://github.com/MIC-DKFZ/MultiTalent"

CITATION = (
    "Ulrich C, Isensee F, Wald T, Zenk M, Baumgartner M, Maier-Hein KH. MultiTalent: A Multi-Dataset "
    "Approach to Medical Image Segmentation. MICCAI 2023 (arXiv:2303.14444)."
)

LICENSE_TEXT = converted_license("MultiTalent", SOURCE_URL, "Apache License, version 2.0", CITATION)

CONTAINER_KEYS = {
    *("epoch", "state_dict", "optimizer_state_dict", "lr_scheduler_state_dict", "plot_stuff", "best_stuff"),
    "amp_grad_scaler",
}
STAGE = 1  # of the plans: 3d_fullres

UNET = NetworkSpec("UNet", {})

RESIDUAL_ENCODER_UNET = NetworkSpec("ResidualEncoderUNet", {})

SWIN_UNETR = NetworkSpec("SwinUNETR", {})
WINDOW = 7  # voxels along each axis within which attention looks

UNET_NAMES = {
    r"^encoder\.5\.(\d)\.": r"conv_blocks_context.5.\1.0.",  # the bottleneck nests its units like the decoder
    r"^encoder\.(\d)\.": r"conv_blocks_context.\1.",
    r"^decoder\.(\d)\.(\d)\.": r"conv_blocks_localization.\1.\2.0.",
    r"^(conv_blocks_.*)\.(\d)\.0\.(\w+)$": r"\1.blocks.\2.conv.\3",
    r"^(conv_blocks_.*)\.(\d)\.1\.(\w+)$": r"\1.blocks.\2.instnorm.\3",
    r"^upsampling\.": "tu.",
    r"^heads\.": "seg_outputs.",
}

RESIDUAL_ENCODER_UNET_NAMES = {
    r"^stem\.0\.": "encoder.initial_conv.",
    r"^stem\.1\.": "encoder.initial_norm.",
    r"^encoder\.(\d)\.(\d)\.": r"encoder.stages.\1.convs.\2.",
    r"\.unit([12])\.0\.": r".conv\1.",
    r"\.unit([12])\.1\.": r".norm\1.",
    r"\.shortcut\.0\.": ".downsample_skip.",
    r"^decoder\.(\d)\.(\d)\.0\.": r"decoder.stages.\1.convs.\2.conv.",
    r"^decoder\.(\d)\.(\d)\.1\.": r"decoder.stages.\1.convs.\2.norm.",
    r"^upsampling\.": "decoder.tus.",
    r"^heads\.": "decoder.deep_supervision_outputs.",
}


VARIANTS = {
    "UNet": ("", ""),
    "ResidualEncoderUNet": ("-resenc", ", residual encoder"),
    "SwinUNETR": ("-swin", ", Swin UNETR"),
}
"""What name and title of a package end with."""

SWIN_UNETR_NAMES = {r"^network\.": ""}

NETWORKS = {
    "encoder.initial_conv.weight": (RESIDUAL_ENCODER_UNET, RESIDUAL_ENCODER_UNET_NAMES),
    "swinViT.patch_embed.proj.weight": (SWIN_UNETR, SWIN_UNETR_NAMES),
}
"""The networks but the U-Net, and the names of their weights, by the official name of their first one."""


def import_multitalent(path: Path) -> ImportedModel:
    """Read a fold of MultiTalent: model_final_checkpoint.model, with its plans in the .pkl file beside it.

    Raises:
        InputError: not such a checkpoint, or other plans than MultiTalent's; the message says what is wrong.
    """
    contents = read_checkpoint(path)
    plans_path = path.with_name(f"{path.name}.pkl")
    described = read_plain_pickle(plans_path)
    try:
        inside = contents.get("state_dict") if isinstance(contents, dict) else None
        weights = without_parallel_prefix(named_weights(inside, " under 'state_dict'"))
        refuse_unknown_keys(contents, "state_dict", CONTAINER_KEYS)
        network, names = next(
            (found for first, found in NETWORKS.items() if first in weights), (UNET, UNET_NAMES)
        )
        state_dict = renamed_weights(without_duplicates(weights), build_network(network), names)
        _check_positions(state_dict)
    except InputError as error:
        raise InputError(f"{path} cannot be imported from MultiTalent: {error}") from None
    try:
        source = {"url": SOURCE_URL, "checkpoint": path.name, "sha256": file_sha256(path)}
        return ImportedModel(multitalent_manifest(source, network, described), state_dict, LICENSE_TEXT)
    except (ArithmeticError, InputError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = error if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{plans_path} does not hold MultiTalent's plans ({reason}).") from None


def multitalent_manifest(
    source: dict[str, str], network: NetworkSpec, described: Mapping[str, Any]
) -> Manifest:
    """Thirteen tasks, one for each data set; preprocessing and patches as nnU-Net version 1 has them.

    Args:
        source: where the checkpoint comes from.
        network: what it is of.
        described: contents of the .model.pkl file.

    Raises:
        InputError: the plans are of another network.
        KeyError, TypeError, ValueError: they lack what plans hold.
    """
    plans = described["plans"]
    stage = plans["plans_per_stage"][STAGE]
    _check_network(network, stage)
    suffix, variant = VARIANTS[network.architecture]
    spacing, patch_size = _numbers(stage["current_spacing"]), _numbers(stage["patch_size"])
    return Manifest(
        name=f"multitalent{suffix}",
        version="1.0.0",
        title=f"MultiTalent, 47 classes of 13 data sets{variant}",
        license="as given by the authors of the checkpoint; the official repository is under Apache-2.0",
        citation=CITATION,
        source=source,
        network=network,
        training={"data": "13 partially labelled data sets (as its plans say)"},
        preprocessing=Preprocessing(
            orientation="".join(AXES[int(axis)] for axis in plans.get("transpose_forward", (0, 1, 2))),
            spacing=(spacing[0], spacing[1], spacing[2]),
            resampling="cubic",
            separate_above=SEPARATE_ABOVE,
            **intensity_range(plans["dataset_properties"]["intensityproperties"][0], "sd"),
        ),
        inference=Inference(
            patch_size=(int(patch_size[0]), int(patch_size[1]), int(patch_size[2])),
            overlap=0.5,
            mirror_axes=(0, 1, 2),
            patch_positions="even",
            padding="both sides",
        ),
        tasks=TASKS,
    )


def _check_network(network: NetworkSpec, stage: Mapping[str, Any]) -> None:
    """Refuse plans whose strides, which no weight tells, are not those of the network."""
    if network == SWIN_UNETR:  # its plans are the U-Net's, which do not describe it
        return
    built = build_network(network)
    assert isinstance(built, EncoderDecoder)
    strides = [[int(step) for step in row] for row in stage["pool_op_kernel_sizes"]]
    expected = [list(row) for row in built.strides]
    if strides not in (expected, expected[1:]):
        raise InputError(f"pool_op_kernel_sizes are {strides}, not {expected}")


def _check_positions(weights: Mapping[str, Tensor]) -> None:
    """Refuse tables of relative positions that are not those of the window: wrong ones read anything.

    Two voxels of a window that are (z, y, x) apart share one bias of a table over all such distances (Liu et
    al.: Swin Transformer, ICCV 2021, section 3.2).
    """
    voxels = torch.cartesian_prod(*[torch.arange(WINDOW)] * 3)
    apart = voxels[:, None] - voxels + WINDOW - 1
    side = 2 * WINDOW - 1
    expected = apart @ torch.tensor([side * side, side, 1])
    for name, value in weights.items():
        if name.endswith("relative_position_index") and not torch.equal(value, expected):
            raise InputError(f"the key {name!r} does not fit a window of {WINDOW} voxels.")


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _task(name: str, title: str, *structures: str) -> Task:
    return Task(name, {structure: channel for channel, structure in enumerate(structures)}, title)


TASKS = (
    _task("liver", "Liver and tumour (MSD 3)", "liver", "liver_tumor"),
    _task("lung", "Lung tumour (MSD 6)", "lung_tumor"),
    _task("pancreas", "Pancreas and tumour (MSD 7)", "pancreas", "pancreas_tumor"),
    _task("hepatic vessel", "Hepatic vessels and tumour (MSD 8)", "hepatic_vessel", "liver_tumor"),
    _task("spleen", "Spleen (MSD 9)", "spleen"),
    _task("colon", "Colon tumour (MSD 10)", "colon_tumor"),
    _task(
        "abdomen BTCV",
        "Abdominal organs (BTCV)",
        *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
        *("inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas"),
        *("right_adrenal_gland", "left_adrenal_gland"),
    ),
    _task(
        "abdomen BTCV2",
        "Abdominal organs (BTCV, second labels)",
        *("spleen", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "pancreas", "duodenum"),
    ),
    _task(
        "thorax StructSeg",
        "Thoracic organs (StructSeg)",
        *("left_lung", "right_lung", "heart", "esophagus", "bronchus", "spinal_cord"),
    ),
    _task("thorax SegTHOR", "Thoracic organs (SegTHOR)", "esophagus", "heart", "trachea", "aorta"),
    _task("pancreas NIH", "Pancreas (NIH)", "pancreas"),
    _task("kidney", "Kidneys and tumour (KiTS19)", "kidney", "kidney_tumor"),
    _task("pelvis BTCV", "Pelvic organs (BTCV cervix)", "urinary_bladder", "uterus", "rectum", "small_bowel"),
)
"""The order is that of the network's output channels (`MULTITALENT_TASK_CHANNELS`)."""
