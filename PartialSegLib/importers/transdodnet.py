"""TransDoDNet's official checkpoints (checkpoint.pth) and the manifest of the benchmark they were trained on.

Xie, Zhang, Xia, Shen: Learning from partially labeled data for multi-organ and tumor segmentation, IEEE TPAMI
2023. Figures are those of the official code, https://github.com/jianpengz/DoDNet, else of the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..manifest import Inference, Manifest, NetworkSpec, PostprocessingStep, Preprocessing, Task
from ..model import build_network
from ..packages.package_files import file_sha256
from ..task import Connectivity
from .checkpoint import (
    ImportedModel,
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    renamed_weights,
    without_parallel_prefix,
)
from .clean_up import keep_largest, tumor_in_organ
from .converted_license import converted_license

SOURCE_URL = "https://github.com/jianpengz/DoDNet"

CITATION = (
    "Xie Y, Zhang J, Xia Y, Shen C. Learning from partially labeled data for multi-organ and tumor "
    "segmentation. IEEE TPAMI 2023, 45(12) (arXiv:2211.06894)."
)

LICENSE_TEXT = converted_license("TransDoDNet", SOURCE_URL, "GNU General Public License, version 3", CITATION)

CONTAINER_KEYS = {"state_dict", "optimizer", "epoch", "amp"}
PREFIX = "ResCNN_DeformTR."

NEIGHBORS: Connectivity = 18

OFFICIAL_NAMES = {
    r"^encoder\.stem\.0\.": "backbone.conv1.",
    r"^encoder\.stem\.1\.": "backbone.norm1.",
    r"^encoder\.stem\.3\.": "backbone.conv2.",
    r"^encoder\.stem\.4\.": "backbone.norm2.",
    **{rf"^encoder\.stages\.{stage}\.": f"backbone.layer{stage + 1}." for stage in range(4)},
    r"\.unit([123])\.0\.": r".conv\1.",
    r"\.unit([123])\.1\.": r".norm\1.",
    r"\.shortcut\.": ".downsample.",
    r"^level_projections\.": "input_proj.",
    r"^transformer\.query_embedding$": "query_embed.weight",
    r"^transformer\.query_reference\.": "transformer.reference_points.",
    r"^transformer\.level_embedding$": "transformer.level_embed",
    r"^transformer\.encoder\.(\d+)\.attention\.": r"transformer.encoder.layers.\1.self_attn.",
    r"^transformer\.encoder\.(\d+)\.attention_norm\.": r"transformer.encoder.layers.\1.norm1.",
    r"^transformer\.encoder\.(\d+)\.feedforward_norm\.": r"transformer.encoder.layers.\1.norm2.",
    r"^transformer\.decoder\.(\d+)\.attention\.": r"transformer.decoder.layers.\1.cross_attn.",
    r"^transformer\.decoder\.(\d+)\.attention_norm\.": r"transformer.decoder.layers.\1.norm1.",
    r"^transformer\.decoder\.(\d+)\.self_attention\.": r"transformer.decoder.layers.\1.self_attn.",
    r"^transformer\.decoder\.(\d+)\.self_attention_norm\.": r"transformer.decoder.layers.\1.norm2.",
    r"^transformer\.decoder\.(\d+)\.feedforward_norm\.": r"transformer.decoder.layers.\1.norm3.",
    r"^transformer\.(encoder|decoder)\.(\d+)\.feedforward\.0\.": r"transformer.\1.layers.\2.linear1.",
    r"^transformer\.(encoder|decoder)\.(\d+)\.feedforward\.2\.": r"transformer.\1.layers.\2.linear2.",
    r"_attn\.offsets\.": "_attn.sampling_offsets.",
    r"_attn\.weights\.": "_attn.attention_weights.",
    r"_attn\.(value|output)_projection\.": r"_attn.\1_proj.",
    r"^sources\.convolutional\.": "cnn_bottle.",
    r"^sources\.memory\.": "memory_conv3_l0.",
    **{
        pattern: replacement
        for step in range(4)
        for pattern, replacement in (
            (rf"^decoder\.{step}\.upsampling\.", f"transposeconv_stage{3 - step}."),
            (rf"^decoder\.{step}\.skip\.", f"shortcut_conv{3 - step}."),
            (rf"^decoder\.{step}\.block\.0\.", f"stage{3 - step}_de.conv1."),
            (rf"^decoder\.{step}\.block\.1\.", f"stage{3 - step}_de.norm1."),
            (rf"^decoder\.{step}\.block\.3\.", f"stage{3 - step}_de.conv2."),
            (rf"^decoder\.{step}\.block\.4\.", f"stage{3 - step}_de.norm2."),
        )
    },
    r"^projection\.": "precls_conv.",
    r"^": PREFIX,
}


def import_transdodnet(path: Path) -> ImportedModel:
    """Read an official TransDoDNet checkpoint; its sizes are told by the shapes of its weights.

    What no shape tells is as the official training script has it: 8 heads, ReLU, constant offset scales.

    Raises:
        InputError: not such a checkpoint; the message names the file and the key at fault.
    """
    contents = read_checkpoint(path)
    try:
        weights = without_parallel_prefix(_weights_of(contents))
        network = network_of(weights)
        state_dict = renamed_weights(weights, build_network(network), OFFICIAL_NAMES)
        source = {"url": SOURCE_URL, "checkpoint": path.name, "sha256": file_sha256(path)}
        return ImportedModel(mots_manifest(source, network), state_dict, LICENSE_TEXT)
    except InputError as error:
        raise InputError(f"{path} is not an official TransDoDNet checkpoint: {error}") from None


def _weights_of(contents: Any) -> dict[str, Any]:
    """The weights; the optimiser, the epoch and apex's state are known and left behind."""
    inside = contents.get("state_dict") if isinstance(contents, dict) else None
    weights = named_weights(inside, " under 'state_dict'")
    refuse_unknown_keys(contents, "state_dict", CONTAINER_KEYS)
    return weights


def network_of(weights: Mapping[str, Any]) -> NetworkSpec:
    """The network these official weights are of: Transformer, tasks, depth and feature mode.

    Raises:
        InputError: a weight that tells one of these is missing or no matrix.
    """
    num_levels, width = _matrix_shape(weights, "transformer.level_embed")
    arguments = {
        "num_tasks": _matrix_shape(weights, "query_embed.weight")[0],
        "num_levels": num_levels,
        "width": width,
        "encoder_layers": _count(weights, r"transformer\.encoder\.layers\.\d+\.norm1\.weight"),
        "decoder_layers": _count(weights, r"transformer\.decoder\.layers\.\d+\.norm1\.weight"),
        "depths": [_count(weights, rf"backbone\.layer{stage}\.\d+\.norm1\.weight") for stage in range(1, 5)],
    }
    if f"{PREFIX}memory_conv3_l0.0.weight" not in weights:
        arguments["feature_mode"] = "B"
    elif f"{PREFIX}cnn_bottle.0.weight" not in weights:
        arguments["feature_mode"] = "C"
    return NetworkSpec("TransDoDNet", arguments)


def _matrix_shape(weights: Mapping[str, Any], name: str) -> tuple[int, int]:
    value = weights.get(PREFIX + name)
    if not isinstance(value, Tensor) or value.ndim != 2:
        raise InputError(f"the key {PREFIX + name!r} is missing; check which network the checkpoint is of.")
    return value.shape[0], value.shape[1]


def _count(weights: Mapping[str, Any], pattern: str) -> int:
    return sum(re.fullmatch(re.escape(PREFIX) + pattern, key) is not None for key in weights)


def mots_manifest(source: dict[str, str], network: NetworkSpec) -> Manifest:
    """The network on MOTS: seven tasks, preprocessing, sliding window and post-processing.

    The official repository does not hold the plans its images were preprocessed with; spacing and intensities
    are the paper's (section 4.1), so they must be checked on a known case. Training mirrored every axis at
    random, so the three directions of the orientation carry no information.

    Args:
        source: where the checkpoint comes from.
        network: what it is of.
    """
    return Manifest(
        name="transdodnet-mots",
        version="1.0.0",
        title="TransDoDNet, seven abdominal tasks (MOTS)",
        license="as given by the authors of the checkpoint; the official repository is under GPL-3.0",
        citation=CITATION,
        source=source,
        network=network,
        training={"data": "MOTS (seven partially labelled data sets), if it is the published checkpoint"},
        preprocessing=Preprocessing(
            orientation="IPL",
            spacing=(1.5, 0.8, 0.8),
            clip=(-325.0, 325.0),
            divide=325.0,
            resampling="cubic",
            grid="truncated",
            pad_value=-325.0,
        ),
        inference=Inference(patch_size=(64, 192, 192), overlap=0.5, mirror_axes=(0, 1, 2)),
        tasks=MOTS_TASKS,
    )


# Not reproduced, because they reach beyond a task or its anatomy: tumours of the hepatic vessels are cut off
# at the liver that the first query finds, and the columns of the spleen from 250 on are erased.
MOTS_TASKS = (
    Task(
        "liver",
        {"liver": 0, "liver_tumor": 1},
        "Liver and tumour",
        (
            *tumor_in_organ("liver", "liver_tumor", 1, NEIGHBORS),
            PostprocessingStep("drop_small", "liver_tumor", voxels=50, connectivity=18),
        ),
    ),
    Task(
        "kidney",
        {"kidney": 0, "kidney_tumor": 1},
        "Kidneys and tumour",
        (*tumor_in_organ("kidney", "kidney_tumor", 2, NEIGHBORS), keep_largest("kidney_tumor", 1, NEIGHBORS)),
    ),
    Task("hepatic vessel", {"hepatic_vessel": 0, "liver_tumor": 1}, "Hepatic vessels and tumour"),
    Task(
        "pancreas",
        {"pancreas": 0, "pancreas_tumor": 1},
        "Pancreas and tumour",
        tumor_in_organ("pancreas", "pancreas_tumor", 1, NEIGHBORS),
    ),
    Task("colon", {"colon_tumor": 1}, "Colon tumour", (keep_largest("colon_tumor", 1, NEIGHBORS),)),
    Task("lung", {"lung_tumor": 1}, "Lung tumour", (keep_largest("lung_tumor", 1, NEIGHBORS),)),
    Task("spleen", {"spleen": 0}, "Spleen", (keep_largest("spleen", 1, NEIGHBORS),)),
)
