"""Reference weights and vectors of the official networks, by the name of the files in `data`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import parity_rules
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
PRECISIONS = (torch.float32, torch.float64)


def official_weights(name: str) -> dict[str, Tensor]:
    """The reference weights under their official names, as the official `state_dict` holds them.

    A tensor with several names has the values of the first.

    Raises:
        ValueError: the generator does not give the numbers the reference vectors were made with.
    """
    layout = json.loads((DATA / f"{name}_state_dict.json").read_text())
    first_names = layout["aliases_same_storage"]
    weights = {
        key: parity_rules.reference_weight(first_names.get(key, key), shape, dtype)
        for key, shape, dtype in layout["state_dict"]
    }
    expected = json.loads((DATA / f"{name}_weights_sha256.json").read_text())["sha256"]
    if parity_rules.weights_digest(weights) != expected:
        raise ValueError(
            "The reference weights differ from those behind the vectors; check NumPy's generator."
        )
    return {key: torch.from_numpy(values) for key, values in weights.items()}


def vector_file(name: str) -> str:
    """The file with the stored outputs of a network."""
    return f"{name}_seed11.npz"


def reference_vectors(name: str) -> tuple[dict[str, np.ndarray], Tensor]:
    """The stored outputs of a network, and the input they were computed from, float32."""
    vectors = dict(np.load(DATA / vector_file(name)))
    shape = vectors["input_shape"].tolist()
    return vectors, torch.from_numpy(parity_rules.reference_input(int(vectors["seed"]), shape))
