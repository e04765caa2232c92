"""Reading Med-DANet's checkpoints: sizes from shapes, every key consumed, clear failures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from PartialSegLib.errors import InputError
from PartialSegLib.importers import IMPORTERS
from PartialSegLib.importers.checkpoint import official_name
from PartialSegLib.importers.meddanet import (
    DECISION_NAMES,
    V2_NAMES,
    read_decision_network,
    read_meddanet_v2,
)
from PartialSegLib.networks.decision_network import DecisionNetwork
from PartialSegLib.networks.meddanet_v2 import MedDANetV2


def read_decision(path: Path) -> DecisionNetwork:
    return read_decision_network(path, input_size=64)


def decision() -> tuple[DecisionNetwork, dict[str, str]]:
    return DecisionNetwork(in_channels=2, num_choices=3, input_size=64), DECISION_NAMES


def version_2() -> tuple[MedDANetV2, dict[str, str]]:
    return MedDANetV2(in_channels=2, num_classes=3, base_width=2), V2_NAMES


SYSTEMS = [
    pytest.param(decision, read_decision, "Med-DANet's decision network", id="decision"),
    pytest.param(version_2, read_meddanet_v2, "Med-DANet version 2", id="version 2"),
]


@functools.cache
def official_checkpoint(build: Callable[[], Any], prefix: str = "module.") -> dict[str, Any]:
    torch.manual_seed(0)
    network, names = build()
    for number, buffer in enumerate(network.buffers()):
        buffer.add_(number)
    weights = {prefix + official_name(key, names): value for key, value in network.state_dict().items()}
    return {"epoch": 3, "state_dict": weights, "optim_dict": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize(("build", "read", "title"), SYSTEMS)
def test_all_weights_arrive(
    tmp_path: Path, build: Callable[[], Any], read: Callable[[Path], Any], title: str, prefix: str
) -> None:
    contents = official_checkpoint(build, prefix)
    torch.save(contents, tmp_path / "model.pth")

    network = read(tmp_path / "model.pth")

    names = build()[1]
    ours = network.state_dict()
    assert len(ours) == len(contents["state_dict"])
    for key, value in ours.items():
        official = contents["state_dict"][prefix + official_name(key, names)]
        assert value.dtype == official.dtype
        assert torch.equal(value, official), key
    assert not network.training


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: contents | changes


def with_weights(change: Callable[[dict[str, Tensor]], dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: {**contents, "state_dict": change(contents["state_dict"])}


def last_of(weights: dict[str, Tensor]) -> str:
    return next(key for key in weights if key.endswith("conv_last.1.num_batches_tracked"))


@pytest.mark.parametrize(("build", "read", "title"), SYSTEMS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda contents: contents["state_dict"], "it holds no named weights under 'state_dict'"),
        (lambda contents: [1, 2], "it holds no named weights under 'state_dict'"),
        (changed(scaler={}), "the key 'scaler' beside 'state_dict' is unknown"),
        (changed(state_dict={"conv1.weight": torch.ones(1)}), "weight' is missing"),
        (with_weights(lambda w: {**w, "module.more": torch.ones(1)}), "the key 'more' is not part of"),
        (with_weights(lambda w: dict(list(w.items())[:-1])), "is missing"),
        (
            with_weights(lambda w: {k: v for k, v in w.items() if k != last_of(w)}),
            "num_batches_tracked' is mis",
        ),
        (
            with_weights(lambda w: {**w, last_of(w): torch.ones(2).long()}),
            r"num_batches_tracked' has shape \(2,\)",
        ),
        (with_weights(lambda w: {**w, last_of(w): "none"}), "num_batches_tracked' is not a tensor"),
        (with_weights(lambda w: {k: v.int() for k, v in w.items()}), "is not a tensor of weights"),
    ],
)
def test_a_checkpoint_that_is_not_understood_wholly_is_refused(
    tmp_path: Path,
    build: Callable[[], Any],
    read: Callable[[Path], Any],
    title: str,
    change: Callable[[Any], Any],
    sentence: str,
) -> None:
    path = tmp_path / "model.pth"
    torch.save(change(official_checkpoint(build)), path)
    with pytest.raises(InputError, match=f"is not an official checkpoint of {title}: .*{sentence}") as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_the_checkpoint_of_the_other_network_is_refused(tmp_path: Path) -> None:
    torch.save(official_checkpoint(decision), tmp_path / "decision.pth")
    torch.save(official_checkpoint(version_2), tmp_path / "version2.pth")
    with pytest.raises(InputError, match=r"'CNN.InitConv.conv.weight' is missing or incomplete"):
        read_meddanet_v2(tmp_path / "decision.pth")
    with pytest.raises(InputError, match="is not part of this network"):
        read_decision(tmp_path / "version2.pth")


@pytest.mark.parametrize(
    ("key", "huge", "sentence"),
    [
        ("classifier.0.weight", torch.ones(1).half().expand(10**9, 256), "is missing or incomplete"),
        ("classifier.0.weight", torch.ones(3, 0), "is missing or incomplete"),
        ("conv_last.1.num_batches_tracked", torch.ones(1).long().expand(10**12), "has shape"),
    ],
)
def test_sizes_that_would_fill_the_memory_are_refused(
    tmp_path: Path, key: str, huge: Tensor, sentence: str
) -> None:
    """Each is a few bytes in the file."""
    contents = official_checkpoint(decision)
    weights = contents["state_dict"] | {f"module.decision_network.{key}": huge}
    torch.save({**contents, "state_dict": weights}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=f"{key}' {sentence}"):
        read_decision(tmp_path / "model.pth")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.evidence}",)


@pytest.mark.parametrize("read", [read_decision, read_meddanet_v2])
def test_hostile_truncated_and_missing_files_are_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    evil, short = tmp_path / "evil.pth", tmp_path / "short.pth"
    torch.save(official_checkpoint(decision) | {"optim_dict": Hostile(tmp_path / "evidence")}, evil)
    short.write_bytes(evil.read_bytes()[:-500])
    for path, sentence in (
        (evil, "is refused because loading it would call"),
        (short, "is damaged or not a PyTorch checkpoint"),
        (tmp_path / "nothing.pth", "There is no checkpoint"),
    ):
        with pytest.raises(InputError, match=sentence) as raised:
            read(path)
        assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth", "short.pth"]


def test_it_is_no_importer_of_packages() -> None:
    assert not [name for name in IMPORTERS if "dan" in name]
