"""Runs that are killed, share their work, or run into trouble: real processes, real files."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import full_disk
from training_runs import losses_of, tiny_config, tiny_values

from PartialSegLib.errors import DeviceError, InputError
from PartialSegLib.model import load_model
from PartialSegLib.training import train
from PartialSegLib.training.loop import run_log
from PartialSegLib.training.loop import steps as loop
from PartialSegLib.training.loop.checkpoint_file import write_config
from PartialSegLib.training.loop.exit_codes import exit_code_of
from PartialSegLib.training.loop.optimization import Phase
from PartialSegLib.training.loop.phased_run import PhasedRun, StepResult
from PartialSegLib.training.loop.run_log import RunLog
from PartialSegLib.training.loop.workers import ALONE
from PartialSegLib.training.losses import LOSSES
from PartialSegLib.training.run import Run
from PartialSegLib.training.train import make_manifest

Process = subprocess.Popen[str]
STARTED: list[Process] = []

TISSUE = {"weight": 0.5, "iterations": 2, "voxels": 200}
ENDLESS = {"iterations": 9999, "decay": "constant"}  # so that a test may say later where it ends
IN_TURN = """
import os, sys
from PartialSegLib.training.__main__ import main
for config, os.environ["MASTER_PORT"] in zip(sys.argv[1::2], sys.argv[2::2]):
    code = main([config])
    sys.stderr.write(f"exit code {code}\\n")
sys.exit(code)
"""


def weights_of(output: Path) -> bytes:
    return (output / "package" / "weights.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that tests start; sums of other numbers of threads are rounded differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Also where a test fails: some runs have no end of their own."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def start(*arguments: str | Path, environment: dict[str, str] | None = None, **popen: Any) -> Process:
    """Python in a process of its own."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **(environment or {})}
    how = {"text": True, "stderr": subprocess.PIPE, "env": variables, "start_new_session": True, **popen}
    STARTED.append(subprocess.Popen([sys.executable, *arguments], **how))
    return STARTED[-1]


def start_pair(folders: tuple[Path, Path], *configs: Path) -> list[Process]:
    """Two processes of one run, which no torchrun watches, each in a folder; several runs come in turn."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in configs]
        ports = [str(server.getsockname()[1]) for server in free]
    runs = [argument for run in zip(map(str, configs), ports, strict=True) for argument in run]
    place = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    return [
        start("-c", IN_TURN, *runs, cwd=folder, environment={**place, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    ]


def messages_of(processes: list[Process], code: int) -> list[str]:
    """What processes of a run have written by their end, when each has this exit code."""
    messages = [process.communicate(timeout=240)[1] for process in processes]
    for process, errors in zip(processes, messages, strict=True):
        assert (process.returncode, "Traceback" in errors) == (code, False), errors
    return messages


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


def step_of(output: Path) -> int:
    """Of the checkpoint."""
    step: int = torch.load(output / "checkpoint.pt", weights_only=True)["step"]
    return step


def wait_for_events(output: Path) -> None:
    """Until a run is about to take its first step."""
    deadline = time.monotonic() + 120
    while not list(output.glob("tensorboard/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)


def test_a_run_that_is_killed_and_interrupted_continues_to_the_bit(tmp_path: Path) -> None:
    """Ctrl+C reaches the process that prepares data, too, which outlives a run that is killed."""
    phases = [{"iterations": 4}, {**ENDLESS, "optimizer": "adamw", "only": ["controller", "stem"]}]
    changes = {"tissue": TISSUE, "checkpoint_every": 5, "workers": 1}
    stopped, config = tmp_path / "stopped", written(tmp_path, "stopped", phases=phases, **changes)
    process = start("-m", "PartialSegLib.training", config)
    wait_for_step(stopped, 5)
    process.kill()
    process.communicate()
    process = start("-m", "PartialSegLib.training", config)
    wait_for_step(stopped, step_of(stopped) + 5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    assert "start the same command again to go on" in errors
    step = step_of(stopped)
    assert step == len(losses_of(stopped))
    phases[1]["iterations"] = step - 2  # and 4 before: two steps are left
    for output in (stopped, tmp_path / "whole"):
        train(tiny_config(output, phases=phases, **changes))
    assert losses_of(stopped) == losses_of(tmp_path / "whole")
    assert weights_of(stopped) == weights_of(tmp_path / "whole")


def test_two_processes_train_as_one_with_twice_the_images(tmp_path: Path) -> None:
    """But for rounding, which a group normalisation of nearly even images enlarges from step to step."""
    phases = [{"iterations": 3, "learning_rate": 0.001, "momentum": 0.5}]
    changes = {
        "batch_size": 4, "accumulate": 1, "phases": phases, "store_float16": False, "ema_decay": 0.0,
    }  # fmt: skip
    configs = [written(tmp_path, f"two, {kind}", loss={"kind": kind}, **changes) for kind in LOSSES]
    for errors in messages_of(start_pair((tmp_path, tmp_path), *configs), 0):
        assert errors.count("exit code 0") == len(configs)
    for kind in LOSSES:
        one, two = (tmp_path / f"{name}, {kind}" for name in ("one", "two"))
        config = tiny_config(one, loss={"kind": kind}, **changes)
        start = Run(config, make_manifest(config).network.arguments, ALONE).network.state_dict()
        train(config)
        assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4), kind
        ends = [load_model(run / "package").network.state_dict() for run in (one, two)]
        first, second = (torch.cat([(end[name] - start[name]).flatten() for name in start]) for end in ends)
        assert (first - second).norm() < 0.02 * first.norm(), kind


def test_a_run_stops_when_one_of_its_processes_is_killed_and_goes_on_later(tmp_path: Path) -> None:
    changes = {"batch_size": 2, "checkpoint_every": 2, "ema_decay": 0.0}
    processes = start_pair((tmp_path, tmp_path), written(tmp_path, "pair", phases=[ENDLESS], **changes))
    wait_for_step(tmp_path / "pair", 4)
    processes[1].kill()
    _, errors = processes[0].communicate(timeout=120)
    processes[1].communicate()
    assert (processes[0].returncode, "Traceback" in errors) == (2, False), errors
    assert "Another process of the run has stopped" in errors
    assert not (tmp_path / "pair" / "package").exists()
    phases = [{**ENDLESS, "iterations": step_of(tmp_path / "pair") + 2}]
    train(tiny_config(tmp_path / "pair", phases=phases, **changes))  # as many as are left
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


def test_a_float16_run_whose_gradient_never_becomes_finite_stops() -> None:
    weight = torch.nn.Linear(2, 1)

    class BrokenRun(PhasedRun):
        def take_step(self, batch: object) -> StepResult:
            rate = self.begin_step()
            value = weight(torch.zeros(1, 2)).sum()
            loss = torch.sqrt((value - value) ** 2) + 1  # 1, and its gradient is no number
            self.scaler.scale(loss).backward()
            return StepResult(*self.finish_step(loss)[:1], rate, float("nan"))

    run = BrokenRun([weight], [Phase(iterations=400)], "float16", 0, ALONE)
    for _ in range(32):
        loop._check_finite(run.take_step(None), run)
    result = run.take_step(None)
    with pytest.raises(InputError, match=r"gradient \(nan\) is no longer finite at step 33;"):
        loop._check_finite(result, run)


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train(tiny_config(tmp_path))
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    longer = tiny_config(tmp_path, phases=[{"iterations": 12}])
    sentence = r"checkpoint of step 9 cannot be written .*free space"
    with full_disk(len(checkpoint) // 2), pytest.raises(InputError, match=sentence):
        train(longer)
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("name", ["log.csv", "validation.csv"])
@pytest.mark.parametrize("content", [b"step;loss\n1;2\n", b"step,loss\nsix,2\n", b"step,loss\n\xff,2\n"])
def test_a_log_that_another_program_has_saved_is_one_sentence(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is not as a run has written it .*; rename it and start"):
        RunLog(tmp_path, 3, 6, True)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("state", [[1, 2], {"step": "six"}])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint.pt cannot be read \(it is no checkpoint of a run\);"):
        train(tiny_config(tmp_path))


def test_a_checkpoint_with_other_weights_is_one_sentence(tmp_path: Path) -> None:
    train(tiny_config(tmp_path))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["network"]["stem.weight"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint.pt belongs to another configuration \(.*\); choose an"):
        train(tiny_config(tmp_path))


def test_a_config_in_another_encoding_is_kept_as_the_previous_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"title": "M\xfcnchen"}')
    write_config(tmp_path, {"output": "a"})
    assert (tmp_path / "config-previous.json").read_bytes() == b'{"title": "M\xfcnchen"}'


def write_forty_rows(folder: Path, at_end: Callable[[RunLog], object]) -> None:
    with RunLog(folder, 0, 40, True) as log:
        for step in range(1, 41):
            log.add_step(step, 1.0, 0.1, 1.0, 0.0)
        at_end(log)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's thread
@pytest.mark.parametrize("has_tensorboard", [True, False])
@pytest.mark.parametrize("at_end", [RunLog.flush, str])
def test_a_log_that_a_full_disk_cannot_take_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_tensorboard: bool,
    at_end: Callable[[RunLog], object],
) -> None:
    if not has_tensorboard:
        monkeypatch.setattr(run_log, "_tensorboard", lambda folder, step: None)
    sentence = r"The log cannot be written to .*; free space and start again: .* last checkpoint\.$"
    with full_disk(), pytest.raises(InputError, match=sentence):
        write_forty_rows(tmp_path, at_end)


def test_a_log_that_cannot_be_closed_hides_no_earlier_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "_tensorboard", lambda folder, step: None)
    with full_disk(), pytest.raises(ZeroDivisionError):
        write_forty_rows(tmp_path, lambda log: 1 / 0)


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
    with pytest.raises(DeviceError, match=f"Out of memory on cpu with patches of .*{advice}"):
        train(tiny_config(tmp_path, **changes))


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    train(config)
    before = weights_of(tmp_path)
    with pytest.raises(InputError, match=r"is of step \d+, but only 3 steps are asked for; ask for more"):
        train(tiny_config(tmp_path, phases=[{"iterations": 3}]))
    assert weights_of(tmp_path) == before


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


class Asked(logging.Handler):
    """Asks the run to end when step 2 is validated."""

    def __init__(self, signals: list[signal.Signals]) -> None:
        super().__init__()
        self.signals = signals

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("step 2, Dice"):
            for sent in self.signals:
                assert callable(signal.getsignal(sent))  # it would end the tests
                os.kill(os.getpid(), sent)


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], 143), ([signal.SIGINT], 130), ([signal.SIGINT, signal.SIGINT], 130)],
    ids=["SIGTERM", "Ctrl+C", "Ctrl+C twice"],
)
def test_a_run_that_is_asked_to_end_finishes_its_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, signals: list[signal.Signals], code: int
) -> None:
    """Unless it is asked by Ctrl+C twice; it does not begin to validate again."""
    logger, handler = logging.getLogger("PartialSegLib"), Asked(signals)
    before = [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        config = tiny_config(tmp_path, validate_every=1, checkpoint_every=100)
        assert exit_code_of(lambda: train(config)) == code
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    if len(signals) == 1:
        assert step_of(tmp_path) == len(losses_of(tmp_path)) == 3
    else:
        assert step_of(tmp_path) == 2
    assert not [text for text in caplog.messages if text.startswith("step 3, Dice")]
    assert not (tmp_path / "package").exists()
    assert [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)] == before


CTRL_BREAK = """
import signal, sys
signal.SIGBREAK = signal.SIGUSR1
from PartialSegLib.training.loop.exit_codes import exit_code_of
from PartialSegLib.training.loop.stop_signals import heed_parent_only, noted_signals, stop

def run():
    with noted_signals() as noted:
        signal.raise_signal(signal.SIGBREAK)
        print("finished its step")
    stop(noted)

code = exit_code_of(run)
heed_parent_only()
signal.raise_signal(signal.SIGBREAK)
print("the data worker lives")
sys.exit(code)
"""


@pytest.mark.skipif(os.name == "nt", reason="another signal stands in for that of Windows")
def test_ctrl_break_on_windows_ends_a_run_after_its_step_as_ctrl_c_does() -> None:
    done = subprocess.run([sys.executable, "-c", CTRL_BREAK], capture_output=True, text=True, check=False)
    assert done.stdout == "finished its step\nthe data worker lives\n"
    assert "start the same command again to go on" in done.stderr
    assert done.returncode == 130


def test_processes_end_together_and_go_on_from_files_that_all_see(tmp_path: Path) -> None:
    """Of two that no torchrun watches, SLURM's signal reaches one, and what prepares data for it."""
    changes = {"batch_size": 2, "workers": 1, "checkpoint_every": 9999}
    (tmp_path / "elsewhere").mkdir()

    def config(name: str, output: Path | str, iterations: int) -> Path:
        path = tmp_path / name
        phases = [{**ENDLESS, "iterations": iterations}]
        path.write_text(json.dumps(tiny_values(output, phases=phases, **changes)))
        return path

    endless = config("endless.json", "run", 9999)
    processes = start_pair((tmp_path, tmp_path), endless)
    wait_for_events(tmp_path / "run")
    os.killpg(processes[1].pid, signal.SIGTERM)
    for errors in messages_of(processes, 143):
        assert "start the same command again to go on" in errors
    run, whole = tmp_path / "run", tmp_path / "whole"
    step = step_of(run)
    assert step >= 1
    both = [config(f"{output.name}.json", output, step + 2) for output in (run, whole)]
    for errors in messages_of(start_pair((tmp_path, tmp_path / "elsewhere"), endless, *both), 0):
        assert "must lie on a file system that all nodes see" in errors
        assert re.findall(r"exit code (\d)", errors) == ["2", "0", "0"]
        assert errors.count(f"resumed at step {step}\n") == 1
    assert losses_of(run) == losses_of(whole)
    assert weights_of(run) == weights_of(whole)


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
