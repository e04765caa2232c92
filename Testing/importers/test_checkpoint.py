"""Checkpoints from strangers: nothing they contain is run, and whatever is not understood leaves no trace."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint, restricted_pickle
from PartialSegLib.importers.checkpoint import read_checkpoint, renamed_weights
from PartialSegLib.importers.restricted_pickle import read_plain_pickle
from PartialSegLib.training.loop import checkpoint_file
from PartialSegLib.training.loop.checkpoint_file import check_collection, check_settings, write_config


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


class Forged:
    """Is written as a call of a function of NumPy's, and what it makes gets a state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


RECONSTRUCT, SCALAR = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
OBJECTS = Forged(np.dtype, ("O8", False, True))
FIELDS = Forged(
    np.dtype,
    ("V8", False, True),
    (3, "|", None, ("a",), {"a": (OBJECTS, 0)}, 8, 1, 0),  # claims no objects
)
SUBTYPE = Forged(np.dtype, ("f8", False, True), (3, "<", (OBJECTS, (1,)), None, None, -1, -1, 0))
NUMBER = Forged(np.dtype, ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
TEXT = Forged(np.dtype, ("U1", False, True), (3, "<", None, None, None, 4, 4, 8))


def array_of(kind: Any, data: Any = b"A" * 8, shape: Any = (1,)) -> Forged:
    return Forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, data))


def test_addresses_in_numpys_values_end_in_a_sentence_not_in_a_crash(tmp_path: Path):
    """In a process of its own, which a crash would end."""
    plans, checkpoint = tmp_path / "sound.model", tmp_path / "evil.pth"
    torch.save({"state_dict": {"weight": torch.ones(1)}}, plans)
    plans.with_name("sound.model.pkl").write_bytes(pickle.dumps({"plans": array_of(FIELDS)}))
    named = Forged(SCALAR, (Forged(np.dtype, ([("x", SUBTYPE)],)), b"A" * 8))
    torch.save({"network_weights": {"a": 1}, "trainer_name": named}, checkpoint)
    program = (
        "import sys; from PartialSegLib.__main__ import main;"
        "print(*[main(['import', *pair.split('|'), '-o', 'package']) for pair in sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"multitalent|{plans}", f"nnunet|{checkpoint}"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2"]), done.stderr
    assert [line.partition(" is refused: ")[2][:40] for line in done.stderr.splitlines()] == [
        "it asks for values of NumPy's type 'V8';",
        "it asks for values of NumPy's type 'O8';",
    ]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (array_of(OBJECTS, [1]), "values of NumPy's type 'O8'"),
        (array_of(SUBTYPE), "NumPy's type 'O8'"),
        (
            array_of(Forged(np.dtype, ("f8",), (3, "<", None, ("a",), {}, 8, 1, 0))),
            "a NumPy type with a forged",
        ),
        (
            array_of(Forged(np.dtype, ("f8",), (3, "I", None, None, None, 8, 1, 0))),
            "a NumPy type with a forged",
        ),
        (array_of(NUMBER, shape=(2,)), "an array of another size than its bytes"),
        (array_of(NUMBER, shape=(-1, -1)), "is damaged or no pickle"),
        (array_of(NUMBER, data="A" * 8), "an array without plain values"),
        (array_of(np.ndarray), "an array without plain values"),
        (Forged(SCALAR, (NUMBER, b"A")), "an array of another size than its bytes"),
        (Forged(SCALAR, (TEXT, b"\xff" * 4)), "is damaged or no pickle"),
        (Forged(np.ndarray, ((), "f8"), {"a": 1}), "is damaged or no pickle"),
    ],
)
def test_forged_values_of_numpy_are_refused(tmp_path: Path, value: Any, sentence: str):
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps([value]))
    with pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$"):
        read_plain_pickle(tmp_path / "plans.pkl")


def test_pickles_that_cannot_be_read_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "plans.pkl"
    with pytest.raises(InputError, match=r"plans.pkl; keep the files of a fold together\.$"):
        read_plain_pickle(path)
    path.write_bytes(pickle.dumps(list(range(1000))))
    monkeypatch.setattr(restricted_pickle, "LARGEST_BYTES", 100)
    with pytest.raises(InputError, match=r"plans.pkl is refused: it is too large for a file of plain values"):
        read_plain_pickle(path)
    path.unlink()
    path.mkdir()
    monkeypatch.setattr(restricted_pickle, "LARGEST_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"plans.pkl cannot be read \(.*\); check its permissions\.$"):
        read_plain_pickle(path)


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values_of_numpy_are_read_as_they_were(tmp_path: Path, protocol: int):
    values = [
        *(np.array([[1, 2, 3], [4, 5, 6]], kind) for kind in ("<i2", ">f8", "c8", "?", "u1", "S2", "<U2")),
        *(np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3)), np.array(7)),
        *(np.float32(0.5), np.bool_(True), np.str_("CT"), np.int64(-1)),
    ]
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps(values, protocol))
    read = read_plain_pickle(tmp_path / "plans.pkl")
    assert [value.dtype for value in read] == [value.dtype.newbyteorder("=") for value in values]
    for value, original in zip(read, values, strict=True):
        np.testing.assert_array_equal(value, original)
    torch.save(values[-4:], tmp_path / "numbers.pth")
    assert read_checkpoint(tmp_path / "numbers.pth") == values[-4:]


def test_too_little_memory_is_not_told_as_a_damaged_file(tmp_path: Path):
    resource = pytest.importorskip("resource")
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("only Linux tells and limits what a process uses")
    torch.save([torch.zeros(16 << 20)], tmp_path / "file.pth")
    used = int(pages.read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), limits[1]))
    try:
        with pytest.raises(MemoryError):
            read_checkpoint(tmp_path / "file.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


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


def saved_weights(path: Path) -> bytes:
    torch.save({"conv1.weight": torch.arange(5000.0)}, path)
    return path.read_bytes()


def test_a_bit_that_has_changed_on_the_way_is_noticed(tmp_path: Path):
    contents = bytearray(saved_weights(tmp_path / "file.pth"))
    contents[len(contents) // 2] ^= 64
    (tmp_path / "file.pth").write_bytes(contents)
    with pytest.raises(InputError, match=r"file\.pth is damaged, its checksums do not fit; copy or download"):
        read_checkpoint(tmp_path / "file.pth")


def test_checkpoints_without_checksums_are_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        saved_weights(tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "file.pth")["conv1.weight"][-1] == 4999


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_values_of_their_own_are_no_weights(kind: str):
    network = nn.Conv3d(1, 1, 1)
    given = {name: value.detach() for name, value in network.state_dict().items()}
    weights = {name: one.to_sparse() if kind == "sparse" else one.to(kind) for name, one in given.items()}
    with pytest.raises(InputError, match="the key 'weight' is not a tensor of weights"):
        renamed_weights(weights, network, {})


@pytest.mark.parametrize("read", [read_checkpoint, checkpoint_file.read_checkpoint])
def test_nothing_is_read_by_a_pytorch_that_can_be_made_to_run_code(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")
    assert read(tmp_path / "checkpoint.pt") == {"step": 1}
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"PyTorch 2.5.1\+cpu cannot read checkpoints safely; install 2.6"):
        read(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("held", "wanted", "name"),
    [
        ({"seed": 0}, {"seed": 1}, "seed 0"),
        ({"batch_size": 2}, {"batch_size": 4}, "batch_size 2"),
        ({"patch_size": [8, 8]}, {"patch_size": [8, 4]}, r"patch_size\[1\] 8"),
        ({"loss": {"kind": "a"}}, {"loss": {"kind": "b"}}, 'loss.kind "a"'),
        ({"augmentation": "none"}, {"augmentation": "dodnet"}, 'augmentation "none"'),
        ({}, {"tissue": 1}, "tissue none"),
        ({"tissue": 1}, {}, "tissue 1"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(tmp_path, held, wanted, name):
    with pytest.raises(InputError, match=f"holds a run with {name}, not"):
        check_settings(tmp_path, held, wanted)


def test_a_run_may_become_longer_in_any_of_its_phases(tmp_path):
    held, wanted = ({"phases": [{"iterations": 5}, {"iterations": number}]} for number in (5, 9))
    check_settings(tmp_path, held, wanted)


def test_a_run_with_a_collection_does_not_go_on_without_one(tmp_path):
    check_collection(tmp_path, None, "ab")
    with pytest.raises(InputError, match="begun when its collection had other cases"):
        check_collection(tmp_path, "ab", None)


def test_settings_written_again_do_not_replace_the_previous_ones(tmp_path):
    for number in (1, 2, 2):
        write_config(tmp_path, {"seed": number})
    assert '"seed": 1' in (tmp_path / "config-previous.json").read_text()
