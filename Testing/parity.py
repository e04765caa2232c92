"""`make parity`: our networks against stored outputs of the official implementations, as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import parity_rules
import torch
from torch import Tensor

from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.dodnet import MOTS_NETWORK, OFFICIAL_NAMES
from PartialSegLib.model import build_network
from PartialSegLib.networks import DoDNet
from PartialSegLib.networks.dodnet import DoDNetFeatures

DATA = Path(__file__).parent / "data"
DODNET_VECTORS = "dodnet_seed11.npz"


def official_dodnet_weights() -> dict[str, Tensor]:
    """The reference weights under their official names, as the official `state_dict` holds them.

    Raises:
        ValueError: the generator does not give the numbers the reference vectors were made with.
    """
    layout = json.loads((DATA / "dodnet_state_dict.json").read_text())["state_dict"]
    weights = {name: parity_rules.reference_weight(name, shape) for name, shape, _ in layout}
    expected = json.loads((DATA / "dodnet_weights_sha256.json").read_text())["sha256"]
    if parity_rules.weights_digest(weights) != expected:
        raise ValueError(
            "The reference weights differ from those behind the vectors; check NumPy's generator."
        )
    return {name: torch.from_numpy(values) for name, values in weights.items()}


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


def main() -> int:
    """Print the table; 0 when every output agrees."""
    network = reference_dodnet()
    rows = [row for dtype in (torch.float32, torch.float64) for row in dodnet_comparisons(network, dtype)]
    line = "{:<18} {:<30} {:<8} {:>13} {:>10}  {}\n"
    sys.stdout.write(line.format("vector", "output", "dtype", "largest error", "tolerance", "ok"))
    for row in rows:
        figures = f"{row.largest_error:.2e}", f"{row.tolerance:.2e}", "yes" if row.agrees else "NO"
        sys.stdout.write(line.format(DODNET_VECTORS, row.output, row.dtype, *figures))
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
