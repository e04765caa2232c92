"""Med-DANet's official checkpoints and the official names of their weights.

https://github.com/Rubics-Xuan/Med-DANet, whose code is under Apache-2.0; it holds version 2 and its decision
network, nothing of version 1. The networks segment slices of MR images with four modalities (BraTS). Model
packages are for CT, so these readers give networks rather than packages, and are not in `IMPORTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..networks.decision_network import DecisionNetwork
from ..networks.meddanet_v2 import MedDANetV2
from .checkpoint import (
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    renamed_weights,
    without_parallel_prefix,
)

Network = TypeVar("Network", bound=nn.Module)

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
