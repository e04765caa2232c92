"""Med-DANet's official checkpoints, the official names of their weights, and how version 2 runs over slices.

https://github.com/Rubics-Xuan/Med-DANet, whose code is under Apache-2.0; it holds version 2 and its decision
network, nothing of version 1. Its networks segment slices of MR images with four modalities (BraTS), which
sessions do not read. A checkpoint tells neither what its classes are nor how images were prepared, so
`import_meddanet_v2` has to be told, and is not in `IMPORTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files.json_fields import from_json, to_json
from ..manifest import Inference, Manifest
from ..networks.decision_network import DecisionNetwork
from ..networks.meddanet_v2 import SIZE, MedDANetV2
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

Network = TypeVar("Network", bound=nn.Module)

SOURCE_URL = "https://github.com/Rubics-Xuan/Med-DANet"

LICENSE_TEXT = converted_license("Med-DANet version 2", SOURCE_URL, "Apache License, version 2.0")

STRIDE = 42  # pixels between windows

V2_INFERENCE = Inference(
    patch_size=(1, SIZE, SIZE),
    overlap=1 - STRIDE / SIZE,
    activation="softmax",
    mirror_axes=(1, 2),
    weighting="constant",
    mirroring="images",
    second_softmax=True,
)
"""How the official test script runs version 2 over a slice, if mirroring is asked for, as it always does.

It takes a window of 128 x 128 pixels every 42 pixels, the last one at the border, and the plain mean of their
scores; then a second softmax, and the mean over the slice and its three mirror images; the highest channel
wins. What differs here: a slice smaller than a window is surrounded with air, where the script fails; scores
are rounded to float16; classes become structures by name, where the script writes class 3 as BraTS's label 4;
dropout is off, where the script leaves it on.
"""

CONTAINER_KEYS = {"epoch", "state_dict", "optim_dict"}

UNIT_NAMES = {
    r"\.stem\.": ".first_conv.",
    r"\.units\.": ".features.",
    r"\.main\.": ".branch_main.",
    r"\.projection\.": ".branch_proj.",
    r"\.last\.": ".conv_last.",
    r"\.classifier\.": ".classifier.0.",
}

DECISION_NAMES = {r"^": "decision_network.", **UNIT_NAMES}

DEPTHS = {2: 2, 3: 2, 4: 4}
STEPS = (3, 2, 1)

V2_NAMES = {
    r"^action_network\.": "actions_network.",
    r"^unet\.encoder\.stem\.": "CNN.InitConv.conv.",
    r"^unet\.encoder\.stages\.0\.0\.": "CNN.EnBlock1.",
    **{
        rf"^unet\.encoder\.stages\.{stage - 1}\.{block}\.": f"CNN.EnBlock{stage}_{block + 1}."
        for stage, depth in DEPTHS.items()
        for block in range(depth)
    },
    **{rf"^unet\.encoder\.downsampling\.{step}\.": f"CNN.EnDown{step + 1}.conv." for step in range(3)},
    **{rf"^unet\.selectors\.{stage}\.": f"CNN.select{stage + 1}.net_small.0." for stage in range(4)},
    **{rf"^unet\.decoder\.steps\.{number}\.": f"CNN.DeUp{step}." for number, step in enumerate(STEPS)},
    **{rf"^unet\.decoder\.blocks\.{number}\.": f"CNN.DeBlock{step}." for number, step in enumerate(STEPS)},
    r"\.reduction\.": ".conv1.",
    r"\.upsampling\.": ".conv2.",
    r"\.fusion\.": ".conv3.",
    r"^unet\.head\.": "CNN.",
    r"^crop_head\.": "conv1.",
    r"^whole_head\.": "conv2.",
    r"^(CNN|conv1|conv2)\.0\.": r"\1.DeBlock1.",
    r"^(CNN|conv1|conv2)\.1\.": r"\1.EndConv.conv.",
    r"\.unit([12])\.0\.": r".bn\1.",
    r"\.unit([12])\.2\.": r".conv\1.",
    **UNIT_NAMES,
}


def read_decision_network(path: Path, input_size: int) -> DecisionNetwork:
    """Read a checkpoint of the decision network alone.

    Args:
        path: the file as the official training code saves it.
        input_size: height and width of the slices it was trained on, at least 32; no weight tells it.

    Returns:
        The network, ready for inference; the shapes of the weights tell its channels and choices.

    Raises:
        InputError: not such a checkpoint; the message names the file and the key at fault.
    """
    contents = read_checkpoint(path)
    try:
        weights = _weights_of(contents)
        in_channels = _size(weights, "decision_network.first_conv.0.weight", 1)
        num_choices = _size(weights, "decision_network.classifier.0.weight", 0)
        with torch.device("meta"):
            network = DecisionNetwork(in_channels, num_choices, input_size)
        return with_official_weights(network, weights, DECISION_NAMES)
    except InputError as error:
        raise InputError(
            f"{path} is not an official checkpoint of Med-DANet's decision network: {error}"
        ) from None


def read_meddanet_v2(path: Path) -> MedDANetV2:
    """Read a checkpoint of the whole version 2.

    Args:
        path: the file as the official training code saves it.

    Returns:
        The network, ready for inference; the shapes of the weights tell its channels and classes.

    Raises:
        InputError: not such a checkpoint; the message names the file and the key at fault.
    """
    contents = read_checkpoint(path)
    try:
        weights = _weights_of(contents)
        base_width, in_channels = (_size(weights, "CNN.InitConv.conv.weight", axis) for axis in (0, 1))
        num_classes = _size(weights, "CNN.EndConv.conv.weight", 0)
        with torch.device("meta"):
            network = MedDANetV2(in_channels, num_classes, base_width)
        return with_official_weights(network, weights, V2_NAMES)
    except InputError as error:
        raise InputError(f"{path} is not an official checkpoint of Med-DANet version 2: {error}") from None


def import_meddanet_v2(path: Path, description: Mapping[str, Any]) -> ImportedModel:
    """Read a checkpoint of version 2 for a model package that runs as the official test script does.

    Args:
        path: the file as the official training code saves it.
        description: fields of the manifest that no checkpoint tells: name, version, title, license,
            preprocessing and tasks; one task, whose channel 0 is background. Networks for BraTS have four
            `preprocessing.channels`; sessions refuse their packages, because they read one CT.

    Raises:
        InputError: not such a checkpoint, or a field of the description is missing or wrong.
    """
    network = read_meddanet_v2(path)
    stem = network.unet.encoder.stem
    arguments = {
        "in_channels": stem.in_channels,
        "num_classes": network.num_classes,
        "base_width": stem.out_channels,
    }
    fields = {
        "source": {"url": SOURCE_URL, "checkpoint": path.name, "sha256": file_sha256(path)},
        **description,
        "network": {"architecture": "MedDANetV2", "arguments": arguments},
        "inference": to_json(V2_INFERENCE),
    }
    return ImportedModel(from_json(Manifest, fields), network.state_dict(), LICENSE_TEXT)


def with_official_weights(network: Network, weights: Mapping[str, Any], names: Mapping[str, str]) -> Network:
    """Give a network official weights, consuming every key, and make it ready for inference.

    Args:
        network: ours, with or without storage.
        weights: official name to tensor.
        names: rules from our names to the official ones, see `official_name`.

    Raises:
        InputError: a key is unknown, missing, or not the tensor this network expects; it is named.
    """
    network.load_state_dict(renamed_weights(weights, network, names), assign=True)
    return network.eval()


def _weights_of(contents: Any) -> dict[str, Any]:
    """The weights; the optimiser and the epoch are known and left behind."""
    inside = contents.get("state_dict") if isinstance(contents, dict) else None
    weights = named_weights(inside, " under 'state_dict'")
    refuse_unknown_keys(contents, "state_dict", CONTAINER_KEYS)
    return without_parallel_prefix(weights)


def _size(weights: Mapping[str, Any], name: str, axis: int) -> int:
    """Length of an axis, the first or the second, of a kernel whose numbers are all in the file."""
    value = weights.get(name)
    if (
        not isinstance(value, Tensor)
        or value.ndim < 2
        or not 0 < value.nbytes <= value.untyped_storage().nbytes()
    ):
        raise InputError(
            f"the key {name!r} is missing or incomplete; check which network the checkpoint is of."
        )
    return value.shape[axis]
