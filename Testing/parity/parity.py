"""`make parity`: our networks against stored outputs of the official implementations, as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import parity_meddanet
import parity_nnunet
import parity_rules
import parity_transdodnet
import torch
from parity_data import DATA, PRECISIONS, official_weights
from torch import Tensor

from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.dodnet import MOTS_NETWORK, OFFICIAL_NAMES
from PartialSegLib.model import build_network
from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.dodnet import DoDNetFeatures

DODNET_VECTORS = "dodnet_seed11.npz"


def official_dodnet_weights() -> dict[str, Tensor]:
    """The reference weights under their official names, as the official `state_dict` holds them.

    Raises:
        ValueError: the generator does not give the numbers the reference vectors were made with.
    """
    return official_weights("dodnet")


def reference_dodnet() -> DoDNet:
    """Our official-size DoDNet with the reference weights."""
    network = build_network(MOTS_NETWORK)
    weights = renamed_weights(official_dodnet_weights(), network, OFFICIAL_NAMES)
    network.load_state_dict(weights, assign=True)
    return cast(DoDNet, network.eval())


@torch.inference_mode()
def dodnet_outputs(
    network: DoDNet, vectors: Mapping[str, np.ndarray], dtype: torch.dtype
) -> dict[str, Tensor]:
    """All stored outputs, by our network: features, parameters and logits of each task, a mixed batch.

    The batch holds the input under task 3 and the input flipped along W under task 5.
    """
    network = network.to(dtype)
    shape = vectors["input_shape"].tolist()
    patch = torch.from_numpy(parity_rules.reference_input(int(vectors["seed"]), shape)).to(dtype)
    batch = network.forward_features(torch.cat([patch, patch.flip(-1)]))
    features = DoDNetFeatures(batch.decoder[:1], batch.pooled[:1])
    outputs = {"gap_feature": features.pooled.flatten(), "head_inputs": features.decoder}
    for task in range(network.num_tasks):
        outputs[f"params_task{task}"] = network.head_parameters(features, task)[0]
        outputs[f"logits_task{task}"] = network.forward_head(features, task)
    mixed = [network.forward_head(batch, task)[i] for i, task in enumerate((3, 5))]
    return {**outputs, "logits_batch_task3_task5flipW": torch.stack(mixed)}


def dodnet_comparisons(network: DoDNet, dtype: torch.dtype) -> list[parity_rules.Comparison]:
    """Every output of the vector file, compared in one precision."""
    vectors = dict(np.load(DATA / DODNET_VECTORS))
    outputs = dodnet_outputs(network, vectors, dtype)
    return [parity_rules.compare(vectors, name, outputs[name].numpy()) for name in vectors["names"].tolist()]


def all_comparisons() -> Iterator[tuple[str, parity_rules.Comparison]]:
    """File and result for every output of every network in both precisions."""
    network = reference_dodnet()
    for dtype in PRECISIONS:
        yield from ((DODNET_VECTORS, row) for row in dodnet_comparisons(network, dtype))
    yield from parity_transdodnet.all_comparisons()
    yield from parity_nnunet.all_comparisons()
    yield from parity_meddanet.all_comparisons()


def main() -> int:
    """Print the table, errors and tolerances also relative to the largest value; 0 when all outputs agree."""
    line = "{:<32} {:<30} {:<8} {:>13} {:>10} {:>10} {:>10}  {}\n"
    titles = "largest error", "tolerance", "relative", "tolerance", "ok"
    sys.stdout.write(line.format("vector", "output", "dtype", *titles))
    agree = True
    for vector, row in all_comparisons():
        absolute = row.largest_error, row.tolerance
        figures = [f"{figure:.2e}" for figure in (*absolute, *(value / row.scale for value in absolute))]
        sys.stdout.write(line.format(vector, row.output, row.dtype, *figures, "yes" if row.agrees else "NO"))
        agree = agree and row.agrees
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
