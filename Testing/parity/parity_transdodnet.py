"""TransDoDNet against stored outputs of the official implementation.

Beside the network as trained there are its two variants: the activation of the official test script, and the
offset scales of a second copy of the attention in the official repository. All three have the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import parity_rules
import torch
from parity_data import PRECISIONS, official_weights, reference_vectors, vector_file
from torch import Tensor

from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.transdodnet import OFFICIAL_NAMES
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network
from PartialSegLib.networks import TransDoDNet
from PartialSegLib.networks.layers.position_encoding import volume_position_encoding

NETWORKS: Mapping[str, NetworkSpec] = {
    "transdodnet": NetworkSpec("TransDoDNet"),
    "transdodnet_leakyrelu": NetworkSpec("TransDoDNet", {"negative_slope": 0.01}),
    "transdodnet_altattn": NetworkSpec("TransDoDNet", {"offset_scale": "level"}),
}


def reference_weights() -> dict[str, Tensor]:
    """The weights of all three under their official names."""
    return official_weights("transdodnet")


def reference_network(name: str, weights: Mapping[str, Tensor]) -> TransDoDNet:
    """Our network with the reference weights, by the name of its vectors."""
    network = build_network(NETWORKS[name])
    network.load_state_dict(renamed_weights(weights, network, OFFICIAL_NAMES), assign=True)
    return cast(TransDoDNet, network.eval())


@torch.inference_mode()
def network_outputs(network: TransDoDNet, patch: Tensor) -> dict[str, Tensor]:
    """All stored outputs, by our network: levels, their position encodings, memory, queries, logits."""
    seen: dict[str, Any] = {}
    hook = network.transformer.register_forward_hook(
        lambda _, inputs, output: seen.update(levels=inputs[0], output=output)
    )
    features = network.forward_features(patch)
    hook.remove()
    levels, output, tasks = seen["levels"], seen["output"], range(network.num_tasks)
    outputs = {
        "logits": torch.stack([network.forward_head(features, task) for task in tasks], dim=1),
        "params": torch.cat([network.head_parameters(features, task) for task in tasks]),
        "decoder_out": output.decoded,
        "init_reference": output.reference,
        "src_l2": levels[2],
    }
    for number, (level, memory) in enumerate(zip(levels, output.memory, strict=True)):
        encoding = volume_position_encoding(level.shape[2:], level.shape[1]).to(patch.dtype)
        outputs[f"pos_l{number}"] = encoding.permute(3, 0, 1, 2)[None]
        outputs[f"memory_l{number}"] = memory
    return outputs


def comparisons(name: str, network: TransDoDNet, dtype: torch.dtype) -> list[parity_rules.Comparison]:
    """Every output of the vector file, compared in one precision."""
    vectors, patch = reference_vectors(name)
    outputs = network_outputs(network.to(dtype), patch.to(dtype))
    return [parity_rules.compare(vectors, key, outputs[key].numpy()) for key in vectors["names"].tolist()]


def all_comparisons() -> Iterator[tuple[str, parity_rules.Comparison]]:
    """File and result for every output of the three networks in both precisions."""
    weights = reference_weights()
    for name in NETWORKS:
        network = reference_network(name, weights)
        for dtype in PRECISIONS:
            yield from ((vector_file(name), row) for row in comparisons(name, network, dtype))
