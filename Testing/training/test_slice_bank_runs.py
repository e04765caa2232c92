"""Runs of Med-DANet that share their work, run in other precisions, or run into trouble."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import full_disk
from slice_bank_config import VALUES, tiny_config
from torch import nn

from PartialSegLib.errors import DeviceError, InputError
from PartialSegLib.training.loop.checkpoint_file import read_checkpoint
from PartialSegLib.training.loop.phased_run import StepResult
from PartialSegLib.training.loop.run_log import read_rows
from PartialSegLib.training.loop.shared_batch_norm import SharedBatchNorm2d, share_batch_norm
from PartialSegLib.training.loop.steps import check_batch
from PartialSegLib.training.loop.workers import ALONE, Workers
from PartialSegLib.training.med_danet.config import slice_bank_manifest
from PartialSegLib.training.med_danet.run import SliceBankRun
from PartialSegLib.training.med_danet.slices import Slice, load_batches
from PartialSegLib.training.med_danet.training import train_slice_bank

SHORT: dict[str, Any] = {
    "candidates": [
        {
            "name": name,
            "architecture": "UNet2d",
            "arguments": {"base_width": width, "dropout": 0},
            "epochs": epochs,
        }
        for name, width, epochs in (("A", 2, 1), ("B", 3, 2))
    ],
    "decision_epochs": 1,
    "weight_decay": 0.01,  # else rounding decides on weights without effect: biases before normalisation
    "validation_slices": 0,
}  # four steps of the bank, B alone in the last two, and two of the decision network; no dropout


def column(output: Path, name: str) -> list[float]:
    return [float(row[name]) for row in read_rows(output / "log.csv") if row[name]]


def test_two_processes_train_as_one_with_all_of_the_batch(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps({**VALUES, **SHORT, "output": str(tmp_path / "two")}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "PartialSegLib.training.med_danet", str(tmp_path / "two.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, env=environment)
    train_slice_bank(tiny_config(tmp_path / "one", **SHORT))
    assert process.wait() == 0
    for name in ("loss", "loss/A", "loss/B", "right", "choice/skip", "choice/B"):
        assert column(tmp_path / "two", name) == pytest.approx(column(tmp_path / "one", name), rel=1e-5)
    one, two = (read_checkpoint(tmp_path / name / "checkpoint.pt")["network"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "two" / "package" / "weights.safetensors").exists()


def test_processes_read_parts_of_one_batch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    slices = [Slice(torch.full((1, 32, 32), float(i)), torch.full((32, 32), i)) for i in range(16)]
    (whole,) = load_batches(slices, config, 3, 4)  # type: ignore[arg-type] # a list is a source
    parts = [next(load_batches(slices, config, 3, 4, Workers(rank, 2))) for rank in range(2)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    with pytest.raises(InputError, match=r"7 slices cannot be shared by 2 processes .* multiple of 2"):
        check_batch(7, "slices", Workers(0, 2))


def test_batch_normalisation_of_one_process_is_pytorch_s() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.BatchNorm2d(3)), nn.ReLU()).double()
    network[1][0].weight.data.uniform_()
    shared = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.BatchNorm2d(3)), nn.ReLU())
    share_batch_norm(shared, ALONE)
    shared.double().load_state_dict(network.state_dict())
    assert isinstance(shared[1][0], SharedBatchNorm2d)
    for _ in range(2):
        x = torch.randn(4, 1, 6, 5, dtype=torch.float64)
        outputs = [part(x) for part in (network, shared)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().sum().backward()
    for expected, found in zip(network.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    torch.testing.assert_close(shared.eval()(x), network.eval()(x))


class Stopping(SliceBankRun):
    """Stops after the step whose number is `last`, as a killed run would."""

    last = 5

    def take_step(self, batch: Any) -> StepResult:
        if self.step == self.last:
            raise InputError("stop here")
        return super().take_step(batch)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_train_and_continue_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str
) -> None:
    def configured(name: str) -> Any:
        return tiny_config(tmp_path / name, precision=precision, **SHORT)

    train_slice_bank(configured("whole"))
    with monkeypatch.context() as patch:
        patch.setattr("PartialSegLib.training.med_danet.training.SliceBankRun", Stopping)
        with pytest.raises(InputError, match="stop here"):
            train_slice_bank(configured("stopped"))
    with caplog.at_level(logging.INFO, "PartialSegLib"):
        train_slice_bank(configured("stopped"))
    assert "resumed at step 3" in caplog.messages
    states = [read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped")]
    assert column(tmp_path / "stopped", "loss") == column(tmp_path / "whole", "loss")
    for name, weight in states[0]["network"].items():
        assert torch.equal(states[1]["network"][name], weight)
    assert states[0]["scaler"] == states[1]["scaler"]
    assert ("scale" in states[0]["scaler"]) == (precision == "float16")


def test_the_precision_is_that_of_the_candidates(tmp_path: Path) -> None:
    """The first losses come close to those of float32, and are not the same."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(tmp_path, precision=precision)
        run = SliceBankRun(config, slice_bank_manifest(config), 16, 2, ALONE)
        torch.manual_seed(0)
        batch = Slice(torch.randn(8, 1, 32, 32), torch.randint(3, (8, 32, 32)))
        losses[precision] = run.take_step(batch).loss
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_a_run_goes_on_with_the_cases_it_was_begun_with(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    old, new = (SliceBankRun(config, slice_bank_manifest(config), 16, 2, ALONE, cases) for cases in "ab")
    with pytest.raises(InputError, match="begun when its collection had other cases"):
        new.load_state(old.state())
    new.load_state({**old.state(), "cases": None})  # of an early version


def test_a_loss_that_is_no_longer_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no longer finite at step .*lower the learning rate"):
        train_slice_bank(tiny_config(tmp_path, bank_learning_rate=1e30, validation_slices=0))
    assert not (tmp_path / "package").exists()


def test_a_full_disk_and_exhausted_memory_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    sentence = r"checkpoint of step 1 cannot be written .*free space"
    with full_disk(20_000), pytest.raises(InputError, match=sentence):
        train_slice_bank(tiny_config(tmp_path, checkpoint_every=1))
    monkeypatch.setattr(SliceBankRun, "take_step", exhausted)
    sentence = r"Out of memory on cpu with 8 slices of 32 x 32 pixels; choose a smaller `batch_size`"
    with pytest.raises(DeviceError, match=sentence):
        train_slice_bank(tiny_config(tmp_path))
