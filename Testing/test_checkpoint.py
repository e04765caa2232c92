"""Checkpoints from strangers: nothing they contain is run, and whatever is not understood leaves no trace."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.importers.checkpoint import read_checkpoint
from PartialSegLib.training import checkpoint_file


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.evidence}",)


class HostileBuiltin(Hostile):
    """The same through a builtin."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.evidence)!r}, 'w')",)


def as_plain_pickle(contents: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(contents))


def as_legacy_file(contents: Any, path: Path) -> None:
    torch.save(contents, path, _use_new_zipfile_serialization=False)


def as_protocol_4(contents: Any, path: Path) -> None:
    torch.save(contents, path, pickle_protocol=4)


@pytest.mark.parametrize("hostile", [Hostile, HostileBuiltin])
@pytest.mark.parametrize(
    "place",
    [
        lambda evil: evil,
        lambda evil: {"conv1.weight": evil},
        lambda evil: {
            "model": {"conv1.weight": torch.ones(1)},
            "optimizer": {"state": {0: {"momentum": evil}}},
        },
        lambda evil: {"model": {"conv1.weight": torch.ones(1)}, "optimizer": {}, "amp": [evil]},
    ],
    ids=["alone", "among the weights", "in the optimiser's state", "in the loss scaler"],
)
@pytest.mark.parametrize("save", [lambda contents, path: torch.save(contents, path), as_legacy_file])
def test_a_checkpoint_that_wants_to_run_code_is_refused(
    tmp_path: Path, hostile: type[Hostile], place: Callable[[Any], Any], save: Callable[[Any, Path], None]
):
    evidence = tmp_path / "evidence"
    save(place(hostile(evidence)), tmp_path / "evil.pth")

    with pytest.raises(InputError) as raised:
        import_checkpoint("dodnet", tmp_path / "evil.pth", tmp_path / "package")

    forbidden = "eval" if hostile is HostileBuiltin else f"{os.system.__module__}.system"
    assert f"is refused because loading it would call {forbidden};" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("save", [as_plain_pickle, as_protocol_4])
def test_other_pickles_run_nothing_either(tmp_path: Path, save: Callable[[Any, Path], None]):
    save(Hostile(tmp_path / "evidence"), tmp_path / "evil.pth")
    with pytest.raises(InputError):
        import_checkpoint("dodnet", tmp_path / "evil.pth", tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


def test_an_environment_variable_does_not_open_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"conv1.weight": Hostile(tmp_path / "evidence")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="is refused because loading it would call"):
        import_checkpoint("dodnet", tmp_path / "evil.pth", tmp_path / "package")
    assert not (tmp_path / "evidence").exists()


def zip_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return buffer.getvalue()


def truncated_checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(1000)}, buffer)
    return buffer.getvalue()[:-500]


@pytest.mark.parametrize(
    "contents",
    [b"", b"text", b"\x80\x02", zip_archive(), truncated_checkpoint()],
    ids=["empty", "text", "cut", "zip", "short"],
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, contents: bytes):
    (tmp_path / "file.pth").write_bytes(contents)
    with pytest.raises(InputError, match="PyTorch checkpoint; ") as raised:
        import_checkpoint("dodnet", tmp_path / "file.pth", tmp_path / "package")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


@pytest.mark.parametrize("read", [read_checkpoint, checkpoint_file.read_checkpoint])
def test_nothing_is_read_by_a_pytorch_that_can_be_made_to_run_code(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")
    assert read(tmp_path / "checkpoint.pt") == {"step": 1}
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"PyTorch 2.5.1\+cpu cannot read checkpoints safely; install 2.6"):
        read(tmp_path / "checkpoint.pt")
