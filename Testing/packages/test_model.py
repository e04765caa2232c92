"""Model packages: saved and loaded unchanged, and refused with one sentence when anything is wrong."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.errors import InputError
from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task, read_manifest
from PartialSegLib.model import load_model, save_model
from PartialSegLib.networks import DoDNet
from PartialSegLib.packages.package_files import file_sha256
from PartialSegLib.task_request import request_tasks, tasks_named

ARGUMENTS = {"num_tasks": 7, "widths": [4, 4], "depths": [1, 1], "head_widths": [2], "groups": 2}


def tiny_manifest(**changes: Any) -> Manifest:
    """The MOTS tasks on a network of a few hundred weights."""
    tiny = {"name": "tiny", "network": NetworkSpec("DoDNet", ARGUMENTS), "inference": Inference((4, 4, 4))}
    return dataclasses.replace(mots_manifest({}), **{**tiny, **changes})


def tiny_weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DoDNet(**ARGUMENTS).state_dict()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    save_model(tmp_path / "tiny", tiny_manifest(), tiny_weights(), "A licence.\n")
    return tmp_path / "tiny"


def rewrite_manifest(package: Path, **fields: Any) -> None:
    path = package / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rewrite_weights(package: Path, contents: bytes) -> None:
    """Other weights with a matching checksum, as a careless exporter would write them."""
    path = package / "weights.safetensors"
    path.write_bytes(contents)
    rewrite_manifest(package, files={path.name: {"sha256": file_sha256(path), "bytes": len(contents)}})


def test_a_saved_model_is_loaded_unchanged(package: Path):
    model = load_model(package)

    weights = tiny_weights()
    loaded = model.network.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert not model.network.training
    assert repr(model).startswith("Model(tiny 1.0.0: liver, kidney")
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.sha256 == model.manifest.files["weights.safetensors"].sha256
    assert (package / "LICENSE").read_text() == "A licence.\n"
    assert sorted(path.name for path in package.iterdir()) == ["LICENSE", "model.json", "weights.safetensors"]


def test_saving_twice_gives_identical_files(package: Path, tmp_path: Path):
    save_model(tmp_path / "again", tiny_manifest(), tiny_weights(), "A licence.\n")
    for path in package.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_loading_leaves_the_random_numbers_alone(package: Path):
    before = torch.random.get_rng_state()
    load_model(package)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_precision_packages_are_half_the_size_and_run_in_single(tmp_path: Path):
    save_model(tmp_path / "half", tiny_manifest(), tiny_weights(), "", torch.float16)

    stored = safetensors.torch.load_file(tmp_path / "half" / "weights.safetensors")
    loaded = load_model(tmp_path / "half").network.state_dict()
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    for name, tensor in tiny_weights().items():
        assert torch.equal(loaded[name], tensor.half().float())


def test_a_package_replaces_an_older_one(package: Path):
    save_model(package, tiny_manifest(version="2.0.0"), tiny_weights(), "Another licence.\n")
    assert load_model(package).manifest.version == "2.0.0"
    assert [path.name for path in package.parent.iterdir()] == ["tiny"]


def test_an_installed_model_is_loaded_by_its_name(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(package.parent))
    assert load_model("tiny").folder == package
    with pytest.raises(InputError, match="Unknown model 'tinny': perhaps you meant tiny"):
        load_model("tinny")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("name", ["weights.safetensors", "LICENSE"])
def test_a_changed_file_is_refused(package: Path, damage: Any, name: str):
    damage(package / name)
    with pytest.raises(InputError, match=f"{name} is not the file of its manifest .* import the package"):
        load_model(package)


@pytest.mark.parametrize("name", ["weights.safetensors", "LICENSE"])
def test_a_missing_file_is_refused(package: Path, name: str):
    (package / name).unlink()
    with pytest.raises(InputError, match=f"lacks its file {name}; copy or import the package again"):
        load_model(package)


def test_a_link_that_leads_outside_the_package_is_refused(package: Path):
    shutil.move(package / "weights.safetensors", package.parent / "elsewhere")
    (package / "weights.safetensors").symlink_to(package.parent / "elsewhere")
    with pytest.raises(InputError, match="is a link that leads outside the package"):
        load_model(package)


def test_weights_in_another_format_are_refused(package: Path):
    rewrite_weights(package, b"not safetensors at all")
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_model(package)


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("stem.weight", None, "stem.weight is missing"),
        ("extra.weight", torch.zeros(1), "extra.weight is not part of the network"),
        ("stem.weight", torch.zeros(4, 1), r"stem.weight has shape \(4, 1\), the network expects \(4, 1, 3"),
    ],
)
def test_weights_that_do_not_fit_the_network_are_refused(
    package: Path, name: str, tensor: torch.Tensor | None, sentence: str
):
    weights = tiny_weights()
    weights.pop(name, None)
    weights.update({} if tensor is None else {name: tensor})
    rewrite_weights(package, safetensors.torch.save(weights))
    with pytest.raises(InputError, match=f"the weights do not fit DoDNet: {sentence}"):
        load_model(package)


@pytest.mark.parametrize(
    ("architecture", "arguments", "sentence"),
    [
        ("DodNet", {}, "network.architecture: unknown network 'DodNet'; perhaps you meant DoDNet"),
        ("DoDNet", {"depth": 1}, "network.arguments: DoDNet cannot be built"),
        ("DoDNet", {"groups": 5}, "network.arguments: DoDNet cannot be built"),
        ("DoDNet", {"depths": [10**9, 1]}, "network.arguments: 1000000000 is more than any network has"),
        ("UNet", {"strides": [["a", 1, 1]]}, "network.arguments: UNet cannot be built"),
        ("DoDNet", {"widths": []}, "network.arguments: DoDNet cannot be built"),
        pytest.param(
            "UNet",
            {"strides": [[1, 1, 1], *[[0, 2, 2]] * 5]},
            r"patches in multiples of \[0, 32, 32\] voxels",
            marks=pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    package: Path, architecture: str, arguments: dict[str, Any], sentence: str
):
    rewrite_manifest(package, network={"architecture": architecture, "arguments": arguments})
    with pytest.raises(InputError, match=sentence):
        load_model(package)


@pytest.mark.parametrize(
    ("patch_size", "head", "sentence"),
    [
        ((4, 5, 4), {}, "patch_size: .* are no multiples of"),
        ((4, 4, 4), {"num_tasks": 6}, "tasks: 7 named, but the network has 6"),
        ((4, 4, 4), {"num_structures": 1}, r"structures\.liver_tumor: channel 1 .* the head has 1 channels"),
    ],
)
def test_a_network_that_cannot_serve_its_manifest_is_not_saved(
    tmp_path: Path, patch_size: Any, head: dict[str, int], sentence: str
):
    arguments = {**ARGUMENTS, **head}
    manifest = tiny_manifest(network=NetworkSpec("DoDNet", arguments), inference=Inference(patch_size))
    with pytest.raises(InputError, match=sentence):
        save_model(tmp_path / "tiny", manifest, DoDNet(**arguments).state_dict(), "")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_not_saved(tmp_path: Path):
    with pytest.raises(InputError, match=r"the weights do not fit DoDNet: stem\.bias is not part of"):
        save_model(tmp_path / "tiny", tiny_manifest(), {**tiny_weights(), "stem.bias": torch.zeros(4)}, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, None), (1e6, torch.float16)])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float, dtype: torch.dtype | None):
    weights = tiny_weights()
    weights["controller.bias"][0] = value
    with pytest.raises(InputError, match=r"The weights controller\.bias are not finite"):
        save_model(tmp_path / "tiny", tiny_manifest(), weights, "", dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["precious", "precious/notes"])
def test_what_is_no_package_is_not_overwritten(tmp_path: Path, place: str):
    (tmp_path / "precious" / "notes").mkdir(parents=True)
    (tmp_path / "precious" / "notes" / "text").touch()
    with pytest.raises(InputError, match="exists and is not a model package; choose another"):
        save_model(tmp_path / place, tiny_manifest(), tiny_weights(), "")


def test_a_full_disk_leaves_the_old_package_alone(package: Path, monkeypatch: pytest.MonkeyPatch):
    write_bytes = Path.write_bytes

    def full_disk(self: Path, data: bytes) -> int:
        if self.name == "LICENSE":
            raise OSError(28, "No space left on device")
        return write_bytes(self, data)

    before = load_model(package).manifest
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        save_model(package, tiny_manifest(version="2.0.0"), tiny_weights(), "Another licence.\n")
    assert load_model(package).manifest == before
    assert [path.name for path in package.parent.iterdir()] == ["tiny"]


def test_a_file_in_use_leaves_the_old_package_alone(package: Path, monkeypatch: pytest.MonkeyPatch):
    before, files = load_model(package).manifest, sorted(path.name for path in package.iterdir())
    replace, calls = os.replace, []

    def refuse_once(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 3:  # the new LICENSE and manifest are there
            raise PermissionError(13, "The file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    with pytest.raises(InputError, match="The file is in use"):
        save_model(package, tiny_manifest(version="2.0.0"), tiny_weights(), "Another licence.\n")
    assert load_model(package).manifest == before
    assert sorted(path.name for path in package.iterdir()) == files


def test_tasks_are_found_by_name_in_the_order_asked_for(package: Path):
    manifest = load_model(package).manifest

    assert [index for index, _ in tasks_named(manifest)] == list(range(7))
    assert [index for index, _ in tasks_named(manifest, "kidney")] == [1]
    named = tasks_named(manifest, ["spleen", "liver", "spleen"])
    assert [(index, task.name) for index, task in named] == [(6, "spleen"), (0, "liver")]
    with pytest.raises(InputError, match="Unknown task 'livre' of model tiny; perhaps you meant liver"):
        tasks_named(manifest, ["livre"])
    with pytest.raises(InputError, match="choose from liver, kidney, hepatic vessel"):
        tasks_named(manifest, "brain")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Liver", ["liver"]),
        (["hepatic_vessel", "Hepatic-Vessel", "LUNG"], ["hepatic vessel", "lung"]),
        ("spleen, LIVER,spleen", ["spleen", "liver"]),
    ],
)
def test_capitals_underscores_and_commas_do_not_matter(given, meant):
    assert [task.name for _, task in tasks_named(tiny_manifest(), given)] == meant
    found = request_tasks(tiny_manifest(), None, "Lung tumor, liver/LIVER,kidney")
    assert [request.structures for request in found] == [["liver"], ["kidney"], ["lung_tumor"]]


def test_the_exact_name_wins_and_two_that_are_alike_need_it():
    tasks = tuple(Task(name, {"liver": 0}) for name in ("Liver", "liver", "a,b", "a", "c", "d", "e"))
    manifest = tiny_manifest(tasks=tasks)
    assert [task.name for _, task in tasks_named(manifest, ["liver", "A,B", "a"])] == ["liver", "a,b", "a"]
    with pytest.raises(InputError, match="Unknown task 'LIVER'"):
        tasks_named(manifest, "LIVER")


def test_the_manifest_returned_is_the_one_on_disk(tmp_path: Path):
    written = save_model(tmp_path / "tiny", tiny_manifest(), tiny_weights(), "")
    assert written == read_manifest(tmp_path / "tiny")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_file_of_the_weights_is_not_held(tmp_path):
    preprocessing = Preprocessing("SPL", (4, 4, 4), (-325, 325), divide=325)
    package = write_tiny_model(tmp_path / "tiny", TASKS, preprocessing)
    model = load_model(package)
    assert next(iter(model.network.parameters())).dtype == torch.float32
    assert str(package) not in Path("/proc/self/maps").read_text()


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    manifest = tiny_manifest()
    wrong = dataclasses.replace(manifest.preprocessing, pad_value=float("nan"))
    with pytest.raises(InputError, match=r"preprocessing\.pad_value: expected a number, got NaN"):
        save_model(tmp_path / "tiny", dataclasses.replace(manifest, preprocessing=wrong), tiny_weights(), "")
    assert not (tmp_path / "tiny").exists()


def test_weights_that_share_memory_are_written_whole(tmp_path):
    weights = {name: value.expand(2, *value.shape)[0] for name, value in tiny_weights().items()}
    first = next(name for name, value in weights.items() if value.ndim == 1)
    for name, value in weights.items():
        if value.shape == weights[first].shape:
            weights[name] = weights[first]
    save_model(tmp_path / "tiny", tiny_manifest(), weights, "")
    written = load_model(tmp_path / "tiny").network.state_dict()
    assert all(torch.equal(written[name], value.float()) for name, value in weights.items())
