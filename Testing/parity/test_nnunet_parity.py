"""U-Net, residual-encoder U-Net and STU-Net equal the official implementations; no weight is lost on the way.

The networks of official size need minutes in float64 and are held to it by `make parity` only.
"""

from __future__ import annotations

import parity_nnunet
import pytest
import torch
from parity_data import DATA, official_weights, reference_vectors, vector_file
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers.checkpoint import renamed_weights
from PartialSegLib.importers.nnunet import UNET_NAMES
from PartialSegLib.importers.nnunet_checkpoint import without_duplicates
from PartialSegLib.model import build_network

QUICK = ("nnunet_v2_plain", "nnunet_v2_resenc", "stunet_small")
LARGE = tuple(name for name in parity_nnunet.NETWORKS if name not in QUICK)
ALL = [
    *((name, dtype) for name in QUICK for dtype in (torch.float32, torch.float64)),
    *((name, torch.float32) for name in LARGE),
]


@pytest.mark.parametrize(("name", "dtype"), ALL, ids=str)
def test_all_outputs_match_the_official_ones(name: str, dtype: torch.dtype) -> None:
    rows = parity_nnunet.comparisons(name, parity_nnunet.reference_network(name), dtype)

    assert [row.output for row in rows] == reference_vectors(name)[0]["names"].tolist()
    assert [row for row in rows if not row.agrees] == []


@pytest.mark.parametrize("name", parity_nnunet.NETWORKS)
def test_the_reference_files_are_small(name: str) -> None:
    assert (DATA / vector_file(name)).stat().st_size < 300_000


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return official_weights("nnunet_v2_plain")


def test_weights_with_several_names_are_read_once(plain: dict[str, Tensor]) -> None:
    network = build_network(parity_nnunet.NETWORKS["nnunet_v2_plain"][0])
    single = without_duplicates(plain)
    assert len(plain) == 204
    assert len(renamed_weights(single, network, UNET_NAMES)) == len(single)


def test_one_of_several_names_is_enough(plain: dict[str, Tensor]) -> None:
    single = without_duplicates(plain)
    duplicates = {key: value for key, value in plain.items() if ".conv." not in key and ".norm." not in key}
    assert without_duplicates(duplicates).keys() == single.keys()


@pytest.mark.parametrize(
    "change", [lambda x: x + 1, lambda x: x[:1], lambda x: 0], ids=["value", "shape", "type"]
)
def test_names_of_one_weight_must_agree(plain: dict[str, Tensor], change) -> None:
    key = "decoder.encoder.stages.1.0.convs.0.all_modules.1.weight"
    with pytest.raises(
        InputError, match=r"'encoder.stages.1.0.convs.0.norm.weight' and 'decoder.encoder.*differ"
    ):
        without_duplicates({**plain, key: change(plain[key])})


def test_an_unknown_weight_is_not_ignored(plain: dict[str, Tensor]) -> None:
    network = build_network(parity_nnunet.NETWORKS["nnunet_v2_plain"][0])
    weights = without_duplicates({**plain, "decoder.extra.weight": torch.ones(2)})
    with pytest.raises(InputError, match=r"decoder\.extra\.weight"):
        renamed_weights(weights, network, UNET_NAMES)
