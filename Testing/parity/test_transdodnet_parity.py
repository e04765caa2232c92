"""TransDoDNet equals the official implementation, through the door users take, and in its stored variants."""

from __future__ import annotations

from pathlib import Path

import parity_data
import parity_transdodnet
import pytest
import torch
from torch import Tensor

from PartialSegLib.importers import import_checkpoint
from PartialSegLib.model import load_model


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return parity_transdodnet.reference_weights()


@pytest.fixture(scope="module")
def imported_network(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp("parity")
    state_dict = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": state_dict, "optimizer": {}, "epoch": 991}, folder / "checkpoint.pth")
    import_checkpoint("transdodnet", folder / "checkpoint.pth", folder / "package")
    return load_model(folder / "package").network


@pytest.mark.slow
@pytest.mark.parametrize("dtype", parity_data.PRECISIONS, ids=str)
def test_all_outputs_match_the_official_ones(imported_network: torch.nn.Module, dtype: torch.dtype) -> None:
    rows = parity_transdodnet.comparisons("transdodnet", imported_network, dtype)

    assert len(rows) == 10  # logits, parameters, queries, their references, memory of three levels, inputs
    assert [row for row in rows if not row.agrees] == []


@pytest.mark.parametrize("name", ["transdodnet_leakyrelu", "transdodnet_altattn"])
def test_variants_match_too(weights: dict[str, Tensor], name: str) -> None:
    """In float32, which shows another activation or scale; `make parity` has float64, which takes longer."""
    network = parity_transdodnet.reference_network(name, weights)
    rows = parity_transdodnet.comparisons(name, network, torch.float32)
    assert [row for row in rows if not row.agrees] == []


def test_the_reference_data_are_those_of_the_official_layout(weights: dict[str, Tensor]) -> None:
    assert sum(weight.numel() for weight in weights.values()) == 39_049_941
    for name in parity_transdodnet.NETWORKS:
        assert Path(parity_data.DATA / parity_data.vector_file(name)).stat().st_size < 300_000
