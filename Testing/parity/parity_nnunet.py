"""The networks of the nnU-Net family against stored outputs of the official implementations.

MultiTalent and STU-Net have their official sizes. nnU-Net version 2 has none: its vectors are those of small
networks with all that its plans may vary (kernels, strides, units of each stage).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import parity_rules
import torch
from parity_data import PRECISIONS, official_weights, reference_vectors, vector_file

from PartialSegLib.importers import multitalent, nnunet, stunet
from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.nnunet_checkpoint import without_duplicates
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network
from PartialSegLib.networks.encoder_decoder import DecoderFeatures, EncoderDecoder
from PartialSegLib.networks.stunet import STUNET_SIZES

SMALL_PLANS = {
    "task_channels": [3],
    "widths": [8, 12, 16, 16],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
}
PLAIN_PLANS = {
    **SMALL_PLANS,
    "depths": [2, 2, 3, 2],
    "decoder_depths": [1, 2, 3],
    "upsampling_bias": True,
    "head_bias": True,
}
RESIDUAL_PLANS = {
    **SMALL_PLANS,
    "depths": [1, 2, 3, 2],
    "decoder_depths": [1, 2, 1],
    "stem_kernel_size": [1, 3, 3],
    "bias": True,
    "pooled_shortcuts": True,
}

NETWORKS: Mapping[str, tuple[NetworkSpec, Mapping[str, str]]] = {
    "nnunet_v2_plain": (NetworkSpec("UNet", PLAIN_PLANS), nnunet.UNET_NAMES),
    "nnunet_v2_resenc": (
        NetworkSpec("ResidualEncoderUNet", RESIDUAL_PLANS),
        nnunet.RESIDUAL_ENCODER_UNET_NAMES,
    ),
    "stunet_small": (NetworkSpec("STUNet", STUNET_SIZES["small"]), stunet.OFFICIAL_NAMES),
    "multitalent_unet": (multitalent.UNET, multitalent.UNET_NAMES),
    "multitalent_resenc": (multitalent.RESIDUAL_ENCODER_UNET, multitalent.RESIDUAL_ENCODER_UNET_NAMES),
}


def reference_network(name: str) -> EncoderDecoder:
    """Our network with the reference weights, by the name of its vectors."""
    spec, names = NETWORKS[name]
    network = build_network(spec)
    weights = without_duplicates(official_weights(name))
    network.load_state_dict(renamed_weights(weights, network, names), assign=True)
    return cast(EncoderDecoder, network.eval())


@torch.inference_mode()
def comparisons(name: str, network: EncoderDecoder, dtype: torch.dtype) -> list[parity_rules.Comparison]:
    """Every output of the vector file, compared in one precision: logits, then those of coarser steps."""
    vectors, patch = reference_vectors(name)
    *coarse, finest = network.to(dtype).decoder_maps(patch.to(dtype))
    features = DecoderFeatures(finest)
    logits = [network.forward_head(features, task) for task in range(network.num_tasks)]
    outputs = {"logits": torch.cat(logits, dim=1)}
    for number, (head, x) in enumerate(zip(network.heads, coarse, strict=False)):
        outputs[f"ds{len(coarse) - number}"] = head(x)
    return [parity_rules.compare(vectors, key, outputs[key].numpy()) for key in vectors["names"].tolist()]


def all_comparisons() -> Iterator[tuple[str, parity_rules.Comparison]]:
    """File and result for every output of every network in both precisions."""
    for name in NETWORKS:
        network = reference_network(name)
        for dtype in PRECISIONS:
            yield from ((vector_file(name), row) for row in comparisons(name, network, dtype))
