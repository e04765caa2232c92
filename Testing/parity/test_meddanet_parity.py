"""Med-DANet's decision network and version 2, read from official checkpoints, equal the official code."""

from __future__ import annotations

from pathlib import Path

import parity_meddanet
import pytest
import torch
from parity_data import DATA, PRECISIONS, official_weights, reference_vectors, vector_file

from PartialSegLib.importers.meddanet import read_decision_network, read_meddanet_v2
from PartialSegLib.networks.decision_network import DecisionNetwork
from PartialSegLib.networks.meddanet_v2 import MedDANetV2, cut, paste

VECTORS = (*parity_meddanet.DECISION_SIZES, parity_meddanet.V2)


def imported(name: str, folder: Path) -> DecisionNetwork | MedDANetV2:
    """The network of a vector file through the door users take."""
    layout = parity_meddanet.V2 if name == parity_meddanet.V2 else parity_meddanet.DECISION_WEIGHTS
    weights = {f"module.{key}": value for key, value in official_weights(layout).items()}
    torch.save({"epoch": 349, "state_dict": weights, "optim_dict": {}}, folder / "model.pth")
    if name == parity_meddanet.V2:
        return read_meddanet_v2(folder / "model.pth")
    return read_decision_network(folder / "model.pth", parity_meddanet.DECISION_SIZES[name])


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", VECTORS)
def test_all_outputs_match_the_official_ones(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    rows = parity_meddanet.comparisons(name, imported(name, tmp_path), dtype)

    assert [row.output for row in rows] == reference_vectors(name)[0]["names"].tolist()
    assert [row for row in rows if not row.agrees] == []


def test_the_whole_system_does_what_its_decision_says() -> None:
    """The reference slice is to be cropped."""
    network = parity_meddanet.reference_v2()
    slices = reference_vectors(parity_meddanet.V2)[1]
    with torch.inference_mode():
        result = network.segment(slices)
        crop = network.segment_crop(slices)
    assert result.choices.tolist() == [1]
    assert torch.equal(result.scores, crop.logits.softmax(dim=1))
    assert torch.equal(result.gflops, crop.gflops)


def test_without_the_swap_of_axes_a_crop_would_not_match(monkeypatch: pytest.MonkeyPatch) -> None:
    network = parity_meddanet.reference_v2()
    monkeypatch.setattr(
        "PartialSegLib.networks.meddanet_v2.paste",
        lambda features, positions: paste(features, positions.flip(1)),
    )
    rows = parity_meddanet.comparisons(parity_meddanet.V2, network, torch.float32)
    assert {row.output for row in rows if not row.agrees} == {"prob_crop", "presoftmax_crop"}


def test_what_is_cut_at_y_x_is_pasted_at_x_y() -> None:
    slices = torch.arange(128.0 * 128).view(1, 1, 128, 128)
    positions = torch.tensor([[0.25, 0.75]])  # of 32 pixels
    part = cut(slices, positions)
    assert torch.allclose(part, slices[..., 8:104, 24:120], atol=0.1)

    pasted = paste(part, positions)
    assert torch.allclose(pasted[..., 24:120, 8:104], part, atol=0.1)
    assert pasted.count_nonzero() == 96 * 96


@pytest.mark.parametrize("name", VECTORS)
def test_the_reference_files_are_small(name: str) -> None:
    assert (DATA / vector_file(name)).stat().st_size < 300_000
