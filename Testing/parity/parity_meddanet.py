"""Med-DANet's decision network and its whole version 2 against stored outputs of the official implementation.

Of what follows a crop there are no official outputs in float64, because part of the official code is float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import parity_rules
import torch
from parity_data import PRECISIONS, official_weights, reference_vectors, vector_file
from torch import Tensor

from PartialSegLib.importers.meddanet import DECISION_NAMES, V2_NAMES, with_official_weights
from PartialSegLib.networks.decision_network import DecisionNetwork
from PartialSegLib.networks.meddanet_v2 import MedDANetV2, cut

DECISION_WEIGHTS = "meddanet_decision5_240"
DECISION_SIZES = {"meddanet_decision5_128": 128, "meddanet_decision5_240": 240}
V2 = "meddanet_v2"


def reference_decision_network(input_size: int) -> DecisionNetwork:
    """Our decision network of five choices with the reference weights."""
    network = DecisionNetwork(num_choices=5, input_size=input_size)
    return with_official_weights(network, official_weights(DECISION_WEIGHTS), DECISION_NAMES)


def reference_v2() -> MedDANetV2:
    """Our version 2 with the reference weights."""
    return with_official_weights(MedDANetV2(in_channels=4), official_weights(V2), V2_NAMES)


def v2_outputs(network: MedDANetV2, slices: Tensor) -> dict[str, Tensor]:
    """All stored outputs, by our network: decision, crop and both ways to segment."""
    position = network.action_network(slices)
    outputs = {
        "decision_logits": network.decision_network(slices),
        "action_raw": position,
        "unet_features_whole": network.unet.features(slices).decoder,
        "bits_whole": network.segment_whole(slices).bits[0].to(slices.dtype),
        "crop_patch": cut(slices, position.sigmoid()),
    }
    for name, segment in (("crop", network.segment_crop), ("whole", network.segment_whole)):
        result = segment(slices)
        outputs[f"presoftmax_{name}"] = result.logits
        outputs[f"prob_{name}"] = result.logits.softmax(dim=1)
        outputs[f"gflops_{name}"] = result.gflops
    return outputs


@torch.inference_mode()
def comparisons(
    name: str, network: DecisionNetwork | MedDANetV2, dtype: torch.dtype
) -> list[parity_rules.Comparison]:
    """Every output of the vector file, compared in one precision."""
    vectors, slices = reference_vectors(name)
    network, slices = network.to(dtype), slices.to(dtype)
    is_whole = isinstance(network, MedDANetV2)
    outputs = v2_outputs(network, slices) if is_whole else {"logits": network(slices)}
    return [parity_rules.compare(vectors, key, outputs[key].numpy()) for key in vectors["names"].tolist()]


def all_comparisons() -> Iterator[tuple[str, parity_rules.Comparison]]:
    """File and result for every output of every network in both precisions."""
    networks = {name: reference_decision_network(size) for name, size in DECISION_SIZES.items()}
    for name, network in {**networks, V2: reference_v2()}.items():
        for dtype in PRECISIONS:
            yield from ((vector_file(name), row) for row in comparisons(name, network, dtype))
