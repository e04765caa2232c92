"""Manifests: the way to JSON and back, and a sentence of its own for every fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import (
    FileEntry,
    Manifest,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
)
from PartialSegLib.task import PostprocessingStep, Task

MISSING = object()


def document() -> dict[str, Any]:
    """A valid manifest as JSON values, the official DoDNet's."""
    value = manifest_to_json(mots_manifest({"url": "https://example.org"}))
    value["files"] = {"weights.safetensors": {"sha256": "0" * 64, "bytes": 12}}
    return value


def edited(place: str, value: Any) -> dict[str, Any]:
    """The valid document with one place, such as "tasks.0.name", set or (MISSING) removed."""
    result = document()
    *parents, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    target: Any = result
    for key in parents:
        target = target[key]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return result


def write_package(folder: Path, value: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(
        value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
    )
    return folder


def test_a_manifest_survives_json():
    manifest = manifest_from_json(document())

    assert manifest_from_json(json.loads(json.dumps(manifest_to_json(manifest)))) == manifest
    assert manifest_to_json(manifest) == document()
    assert isinstance(manifest.tasks[0].postprocessing[1], PostprocessingStep)
    assert manifest.files["weights.safetensors"] == FileEntry("0" * 64, 12)


NO_FOLDER_ON_WINDOWS = (
    "name: expected letters, digits, '.', '_' and '-' only, no '.' at the end, and not the name of a device"
)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("format", "zip", 'format: expected "partialseg-model"'),
        (
            "format_version",
            2,
            "format_version: made by a newer PartialSeg (format 2, this one reads 1); update",
        ),
        ("format_version", 0, "format_version: expected 1, got 0"),
        ("format_version", True, "format_version: expected 1, got true"),
        ("colour", "red", "colour: unknown field; known fields are format"),
        ("titel", "DoDNet", "titel: unknown field; perhaps you meant title"),
        ("license", MISSING, "license: missing; add this field"),
        ("name", "../dodnet", "name: expected letters, digits"),
        ("name", "liver.", NO_FOLDER_ON_WINDOWS),
        ("name", "Con", NO_FOLDER_ON_WINDOWS),
        ("name", "lpt1.v2", NO_FOLDER_ON_WINDOWS),
        ("name", 7, "name: expected a text, got 7"),
        ("modality", "PET", "modality: expected 'CT' or 'MR', got \"PET\""),
        ("preprocessing/channels", [], "preprocessing.channels: expected at least one, each with a name"),
        ("preprocessing/channels", [{"name": " "}], "preprocessing.channels[0].name: expected the name"),
        ("preprocessing/channels", [{"name": "t1"}] * 2, "preprocessing.channels: expected at least one"),
        (
            "preprocessing/channels",
            [{"name": "t1"}, {"name": "t2"}],
            "preprocessing.channels: expected one for each of the network's 1 image channels "
            "(network.arguments.in_channels), got 2",
        ),
        ("network", "DoDNet", 'network: expected an object, got "DoDNet"'),
        ("preprocessing/orientation", "LRS", "preprocessing.orientation: expected one letter each of L/R"),
        ("preprocessing/spacing", [1.5, 0, 1], "preprocessing.spacing: expected three distances above 0 mm"),
        ("preprocessing/spacing", [1.5, 1], "preprocessing.spacing: expected 3 values"),
        ("preprocessing/spacing/1", "1", 'preprocessing.spacing[1]: expected a number, got "1"'),
        ("preprocessing/spacing/1", float("nan"), "preprocessing.spacing[1]: expected a number, got NaN"),
        ("preprocessing/clip", [325, -325], "preprocessing.clip: expected [lowest, highest] in HU"),
        ("preprocessing/divide", 0, "preprocessing.divide: expected a number above 0"),
        ("preprocessing/separate_above", 0.5, "preprocessing.separate_above: expected a ratio of 1 or more"),
        ("inference/padding", "left", "inference.padding: expected 'end' or 'both sides'"),
        ("uncoded", ["../evil"], "uncoded: expected names of lower-case letters"),
        (
            "preprocessing/resampling",
            "nearest",
            "preprocessing.resampling: expected 'linear' or 'trilinear' or 'cubic'",
        ),
        ("inference/patch_size", [64, 192, 0], "inference.patch_size: expected voxels above 0"),
        ("inference/patch_size/0", 64.5, "inference.patch_size[0]: expected a whole number, got 64.5"),
        ("inference/overlap", 1.0, "inference.overlap: expected a fraction in [0, 1), got 1.0"),
        ("inference/mirror_axes", [0, 3], "inference.mirror_axes: expected some of 0 (z), 1 (y), 2 (x)"),
        ("inference/mirror_axes", 2, "inference.mirror_axes: expected a list, got 2"),
        ("inference/mirroring", "slices", "inference.mirroring: expected 'patches' or 'images'"),
        (
            "inference/mirroring",
            "images",
            "inference.mirroring: images are mirrored with the weighting constant",
        ),
        ("inference/second_softmax", True, "inference.second_softmax: expected false, unless probabilities"),
        ("tasks", [], "tasks: expected at least one task"),
        ("tasks/1/name", "liver", "tasks: every task needs its own name"),
        ("tasks/1/name", " ", "tasks[1].name: expected the name of the task"),
        ("tasks/1/name", "a|b", "tasks[1].name: 'a|b' holds '|' or a control character"),
        ("tasks/1/name", "a\nb", "tasks[1].name: 'a\\nb' holds"),
        ("tasks/1/name", "=1+1", "tasks[1].name: '=1+1' begins like a formula"),
        ("tasks/2/structures", {"a|b": 0}, "tasks[2].structures: 'a|b' holds"),
        ("tasks/2/structures", {}, "tasks[2].structures: expected at least one structure"),
        (
            "tasks/4/structures",
            {"colon_tumour": 1},
            "tasks[4].structures.colon_tumour: unknown structure; perhaps you meant colon_tumor",
        ),
        ("tasks/6/structures/spleen", -1, "tasks[6].structures.spleen: expected an output channel from 0 on"),
        ("tasks/6/structures/spleen", "0", 'tasks[6].structures.spleen: expected a whole number, got "0"'),
        ("tasks/6/structures", {"spleen": 0, "liver": 0}, "tasks[6].structures: two structures share"),
        ("tasks/6/postprocessing/0/step", "erode", "tasks[6].postprocessing[0].step: expected 'include' or"),
        (
            "tasks/6/postprocessing/0/structure",
            "liver",
            "tasks[6].postprocessing[0].structure: liver is no struc",
        ),
        ("tasks/6/postprocessing/0/count", 0, "tasks[6].postprocessing[0].count: expected 1 or more"),
        (
            "tasks/6/postprocessing/0/count",
            MISSING,
            "tasks[6].postprocessing[0].count: missing; the step keep_l",
        ),
        (
            "tasks/6/postprocessing/0/voxels",
            5,
            "tasks[6].postprocessing[0].voxels: the step keep_largest does",
        ),
        (
            "tasks/6/postprocessing/0/connectivity",
            4,
            "tasks[6].postprocessing[0].connectivity: expected 6 or 18",
        ),
        (
            "files/weights.safetensors/sha256",
            "abc",
            "files.weights.safetensors.sha256: expected 64 hexadecimal",
        ),
        ("files/weights.safetensors/bytes", -1, "files.weights.safetensors.bytes: expected a size"),
        ("files/weights.safetensors", MISSING, "files: no entry for weights.safetensors"),
        ("files/model.json", {"sha256": "0" * 64, "bytes": 1}, "files.model.json: the manifest cannot state"),
    ],
)
def test_each_fault_has_its_own_sentence(tmp_path: Path, place: str, value: Any, sentence: str):
    package = write_package(tmp_path / "package", edited(place, value))

    with pytest.raises(InputError) as raised:
        read_manifest(package)

    assert str(raised.value).startswith(f"{package / 'model.json'}: {sentence}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "path",
    [
        "../weights.safetensors",
        "/etc/passwd",
        "C:\\weights",
        "C:/weights",
        "a/../../b",
        "..\\b",
        "//host/share/a",
        "",
    ],
)
def test_file_paths_outside_the_package_are_refused(path: str):
    value = document()
    value["files"][path] = value["files"]["weights.safetensors"]

    with pytest.raises(InputError, match="the path leads outside the package"):
        manifest_from_json(value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": "partialseg-model",}', "\x00"])
def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path, text: str):
    with pytest.raises(InputError, match=r"model\.json is not valid JSON"):
        read_manifest(write_package(tmp_path / "package", text))


@pytest.mark.parametrize("value", [[], "text", None, {}, {"name": "x"}])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, value: Any):
    with pytest.raises(InputError, match="not the manifest of a model package"):
        read_manifest(write_package(tmp_path / "package", json.dumps(value)))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    write_package(tmp_path / "package", "")
    (tmp_path / "package" / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid JSON"):
        read_manifest(tmp_path / "package")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a model package: it has no model\.json"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "model.json").mkdir()
    with pytest.raises(InputError, match=r"model\.json cannot be read"):
        read_manifest(tmp_path)


def test_manifests_built_in_python_are_checked_too():
    with pytest.raises(InputError, match="tasks: expected at least one task"):
        Manifest(**{**vars(mots_manifest({})), "tasks": ()})


def test_a_step_is_what_a_manifest_without_its_options_means():
    step = PostprocessingStep("drop_small", "liver", voxels=5)
    assert (step.only_if_several, step.connectivity, step.measure) == (False, 6, "highest")


def test_a_score_to_exceed_is_above_0():
    with pytest.raises(InputError, match="score: expected more than 0, got 0"):
        PostprocessingStep("drop_uncertain", "liver", score=0)


@pytest.mark.parametrize("name", ["a|b", "a\x7fb", "a\x85b", "a\u2028b", "=a", "+a", "-a", "@a"])
def test_names_that_files_of_segments_or_spreadsheets_cannot_hold_are_refused(name):
    with pytest.raises(InputError, match="rename it"):
        Task(name, {"liver": 0})
    with pytest.raises(InputError, match="rename it"):
        Task("liver", {name: 0})
