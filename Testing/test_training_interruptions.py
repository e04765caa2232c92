"""Runs that are killed, share their work, or run into trouble: real processes, real files."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import losses_of, tiny_config, tiny_values

from PartialSegLib.errors import InputError
from PartialSegLib.model import load_model
from PartialSegLib.training import train
from PartialSegLib.training.exit_codes import exit_code_of
from PartialSegLib.training.run import Run

TISSUE = {"weight": 0.5, "iterations": 2, "voxels": 200}


def weights_of(output: Path) -> bytes:
    return (output / "package" / "weights.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that tests start; sums of other numbers of threads are rounded differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(
    config: Path, *options: str, processes: int = 1, environment: dict[str, str] | None = None, **popen: Any
) -> subprocess.Popen[str]:
    """A training run in processes of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "PartialSegLib.training"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **(environment or {})}
    return subprocess.Popen(
        [*command, str(config), *options], text=True, stderr=subprocess.PIPE, env=variables, **popen
    )


def start_pair(config: Path, folders: tuple[Path, Path]) -> list[subprocess.Popen[str]]:
    """Two processes of one run, which no torchrun watches, each in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [
        start(config, cwd=folder, start_new_session=True, environment={**places, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    ]


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that is to succeed."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def written(folder: Path, name: str, **changes: object) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(tiny_values(folder / name, **changes)))
    return path


def wait_for_step(output: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (output / "checkpoint.pt").exists() and len(losses_of(output)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {output}")


def wait_for_events(output: Path) -> None:
    """Until a run is about to take its first step."""
    deadline = time.monotonic() + 120
    while not list(output.glob("tensorboard/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)


def test_a_killed_run_continues_to_the_bit(tmp_path: Path) -> None:
    phases = [{"iterations": 4}, {"iterations": 7, "optimizer": "adamw", "only": ["controller", "stem"]}]
    changes = {"tissue": TISSUE, "phases": phases, "checkpoint_every": 2, "workers": 1}
    train(tiny_config(tmp_path / "whole", **changes))
    killed = written(tmp_path, "killed", **changes)
    process = start(killed)
    wait_for_step(tmp_path / "killed", 5)
    process.kill()
    process.communicate()
    assert len(losses_of(tmp_path / "killed")) < 11
    train(tiny_config(tmp_path / "killed", **changes))
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


@pytest.mark.parametrize("loss", ["dice and cross-entropy", "class-adaptive"])
def test_two_processes_train_as_one_with_twice_the_images(tmp_path: Path, loss: str) -> None:
    phases = [{"iterations": 3, "learning_rate": 0.001, "momentum": 0.5}]
    changes = {
        "batch_size": 4, "accumulate": 1, "phases": phases, "loss": {"kind": loss}, "store_float16": False,
        "ema_decay": 0.0,
    }  # fmt: skip
    for process in start_pair(written(tmp_path, "two", **changes), (tmp_path, tmp_path)):
        finish(process)
    train(tiny_config(tmp_path / "one", **changes))
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    one, two = (load_model(tmp_path / name / "package").network.state_dict() for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5)


def test_a_run_stops_when_one_of_its_processes_is_killed_and_goes_on_later(tmp_path: Path) -> None:
    changes = {"batch_size": 2, "checkpoint_every": 2, "ema_decay": 0.0}
    config = written(tmp_path, "pair", phases=[{"iterations": 40}], **changes)
    process = start(config, processes=2)
    wait_for_step(tmp_path / "pair", 4)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" in errors or "Another process of the run has stopped" in errors
    assert not (tmp_path / "pair" / "package").exists()
    train(tiny_config(tmp_path / "pair", phases=[{"iterations": 8}], **changes))  # as many as are left
    assert (tmp_path / "pair" / "package").exists()


@pytest.mark.parametrize("kind", ["dice and cross-entropy", "class-adaptive"])
def test_gradients_are_the_same_in_parts(tmp_path: Path, kind: str) -> None:
    loss, tissue = {"kind": kind, "joint_dice": False}, {**TISSUE, "iterations": 0}
    changes = {"batch_size": 4, "phases": [{"iterations": 2, "learning_rate": 0.001}]}
    for parts in (1, 4):
        config = tiny_config(tmp_path / str(parts), accumulate=parts, loss=loss, tissue=tissue, **changes)
        train(config)
    assert losses_of(tmp_path / "4") == pytest.approx(losses_of(tmp_path / "1"), rel=1e-5)


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    steady = [{"iterations": 6, "learning_rate": 0.001}]
    config = tiny_config(tmp_path, phases=steady)
    train(config)
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    wild = [*steady, {"iterations": 20, "learning_rate": 1e30}]
    with pytest.raises(InputError, match=r"no longer finite at step .*lower the learning rate"):
        train(tiny_config(tmp_path, phases=wild, checkpoint_every=100))
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config(tmp_path))
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"checkpoint of step 9 cannot be written .*free space"):
        train(tiny_config(tmp_path, phases=[{"iterations": 12}]))
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "time; choose a smaller"),
        ({"batch_size": 2}, "raise `accumulate` or choose"),
        ({"batch_size": 2, "loss": {"kind": "class-adaptive"}}, "start more processes or choose"),
    ],
)
def test_out_of_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], advice: str
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Run, "add_gradient", exhausted)
    with pytest.raises(InputError, match=f"Out of memory on cpu with patches of .*{advice}"):
        train(tiny_config(tmp_path, **changes))


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path) -> None:
    train(tiny_config(tmp_path))
    for changes, sentence in [
        ({"seed": 777, "batch_size": 4}, "run with batch_size 1, not 4; choose another output folder"),
        ({"loss": {"kind": "class-adaptive"}}, 'loss.kind "dice and cross-entropy", not "class-adaptive"'),
        ({"phases": [{"iterations": 9, "momentum": 0.5}]}, r"phases\[0\].momentum 0.99, not 0.5"),
        ({"tissue": TISSUE}, "tissue none, not "),
    ]:
        with pytest.raises(InputError, match=sentence):
            train(tiny_config(tmp_path, **changes))


def test_a_run_is_continued_for_longer(tmp_path: Path) -> None:
    train(tiny_config(tmp_path))
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del checkpoint["config"]  # as in early versions
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    for iterations in (7, 8):
        phases = [{"iterations": iterations, "learning_rate": 0.001}, {"iterations": 1, "optimizer": "adamw"}]
        train(tiny_config(tmp_path, phases=phases[: iterations - 6], checkpoint_every=1, validate_every=9))
    assert len(losses_of(tmp_path)) == 9


class Sigterm(logging.Handler):
    """Asks the run to end when step 2 is validated."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("step 2, Dice"):
            assert callable(signal.getsignal(signal.SIGTERM))  # it would end the tests
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_asked_to_end_finishes_its_step(tmp_path: Path) -> None:
    logger, handler, before = logging.getLogger("PartialSegLib"), Sigterm(), signal.getsignal(signal.SIGTERM)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        config = tiny_config(tmp_path, validate_every=2, checkpoint_every=100)
        assert exit_code_of(lambda: train(config)) == 143
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == len(losses_of(tmp_path)) == 3
    assert not (tmp_path / "package").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_processes_end_together_and_go_on_from_files_that_all_see(tmp_path: Path) -> None:
    """Of two that no torchrun watches, SLURM's signal reaches one, and what prepares data for it."""
    changes = {"batch_size": 2, "workers": 1, "phases": [{"iterations": 9999}], "checkpoint_every": 9999}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny_values("run", **changes)))
    (tmp_path / "elsewhere").mkdir()

    def finish_both(processes: list[subprocess.Popen[str]], code: int, sentence: str) -> None:
        try:
            messages = [process.communicate(timeout=120)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        for process, errors in zip(processes, messages, strict=True):
            assert (process.returncode, sentence in errors, "Traceback" in errors) == (code, True, False), (
                errors
            )

    processes = start_pair(config, (tmp_path, tmp_path))
    wait_for_events(tmp_path / "run")
    os.killpg(processes[1].pid, signal.SIGTERM)
    finish_both(processes, 143, "start the same command again to go on")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] >= 1
    apart = start_pair(config, (tmp_path, tmp_path / "elsewhere"))
    finish_both(apart, 2, "must lie on a file system that all nodes see")


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path: Path) -> None:
    assert (train(tiny_config(tmp_path, workers=1), "cuda") / "model.json").exists()


@pytest.mark.parametrize("damage", ["cut", "other network"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    train(tiny_config(tmp_path))
    changes = {}
    if damage == "cut":
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:5000])
    else:
        changes["network_arguments"] = {"widths": [16, 8, 8, 8, 8]}
    with pytest.raises(InputError, match="choose another output folder"):
        train(tiny_config(tmp_path, **changes))
