"""DoDNet equals the official implementation, through the door users take: checkpoint, import, load_model."""

from pathlib import Path

import numpy as np
import parity
import parity_rules
import pytest
import torch

from PartialSegLib.importers import import_checkpoint
from PartialSegLib.model import load_model


@pytest.fixture(scope="module")
def imported_network(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp("parity")
    torch.save(parity.official_dodnet_weights(), folder / "MOTS_DynConv.pth")
    import_checkpoint("dodnet", folder / "MOTS_DynConv.pth", folder / "package")
    return load_model(folder / "package").network


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    return dict(np.load(parity.DATA / parity.DODNET_VECTORS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_outputs_match_the_official_ones(imported_network: torch.nn.Module, dtype: torch.dtype):
    rows = parity.dodnet_comparisons(imported_network, dtype)

    assert len(rows) == 17  # logits and 162 parameters of seven tasks, two features, a batch of two tasks
    assert [row for row in rows if not row.agrees] == []


def test_every_precision_is_held_to_its_own_tolerance(vectors: dict[str, np.ndarray]):
    """An error of 1e-6, as a wrong epsilon makes, passes in float32 and is seen in float64."""
    for reference, agrees in (("full", True), ("full64", False)):
        output = vectors[f"params_task0/{reference}"].copy()
        assert parity_rules.compare(vectors, "params_task0", output).agrees
        output[5] += 1e-6
        row = parity_rules.compare(vectors, "params_task0", output)
        assert row.agrees is agrees
        assert row.largest_error == pytest.approx(1e-6, rel=0.2)


def test_a_wrong_shape_does_not_match(vectors: dict[str, np.ndarray]):
    assert not parity_rules.compare(vectors, "params_task0", np.zeros(161, np.float32)).agrees


def test_an_error_outside_the_stored_samples_is_seen_in_the_statistics(vectors: dict[str, np.ndarray]):
    shape = tuple(vectors["head_inputs/shape"])
    output = np.zeros(shape)
    doctored = {**vectors, "head_inputs/stats64": np.zeros(3)}
    for key in ("sub64", "corner64", "hicorner64"):
        doctored[f"head_inputs/{key}"] = np.zeros_like(vectors[f"head_inputs/{key}"])
    assert parity_rules.compare(doctored, "head_inputs", output).agrees
    output[0, 0, 20, 20, 20] = 1.0
    assert not parity_rules.compare(doctored, "head_inputs", output).agrees


def test_the_reference_data_are_those_of_the_official_layout():
    assert sum(weight.numel() for weight in parity.official_dodnet_weights().values()) == 17_329_528
    assert Path(parity.DATA / parity.DODNET_VECTORS).stat().st_size < 1_000_000
