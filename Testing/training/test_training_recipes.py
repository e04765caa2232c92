"""Every recipe in the repository, made small, trained for real on phantoms; its package segments."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import TRANSDODNET, losses_of

from PartialSegLib import InferenceSession, load_model, read_volume
from PartialSegLib.errors import InputError
from PartialSegLib.files.json_fields import to_json
from PartialSegLib.training import read_config, train
from PartialSegLib.training.collection import (
    Collection,
    DataSet,
    read_collection,
    write_collection,
)
from PartialSegLib.training.config_files import OTHER_LOOPS, RECIPES
from PartialSegLib.training.data_sets.phantom_mots import PhantomMots, make_phantom_mots
from PartialSegLib.training.train import make_manifest, package_checkpoint

OTHER_IMAGES = {"transfer-brats-transdodnet"}  # see test_training_channels.py
ALL_NAMES = sorted({path.stem for path in RECIPES.glob("*.json")} - OTHER_LOOPS.keys())
NAMES = [name for name in ALL_NAMES if name not in OTHER_IMAGES]

DODNET = {"widths": [8, 8, 8, 8, 8], "depths": [1] * 5, "groups": 4}
STAGES = {"widths": [4, 4, 4, 4, 4, 4]}
SMALL: dict[str, dict[str, Any]] = {
    "DoDNet": DODNET,
    "TransDoDNet": TRANSDODNET,
    "DownstreamTransDoDNet": TRANSDODNET,
    "UNet": STAGES,
    "ResidualEncoderUNet": {**STAGES, "depths": [1] * 6},
    "STUNet": {"base_width": 4},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
}  # fmt: skip
SLOW = {"SwinUNETR", "CondInputNetwork"}
PATCH = {
    "TransDoDNet": [16, 64, 32], "SwinUNETR": [32, 64, 32], "UNet": [16, 64, 32],
    "ResidualEncoderUNet": [16, 64, 32], "DownstreamTransDoDNet": [16, 64, 32],
}  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    make_phantom_mots(folder, PhantomMots(7, (10.0, 10.0, 10.0), (43, 34, 43)))
    return folder


def of_tasks(folder: Path, tasks: list[dict[str, Any]], name: str) -> Path:
    """The phantoms as if their labels were those of a recipe's own tasks, which take turns.

    Data sets of MOTS keep their structures where the recipe has their task.
    """
    collection = read_collection(folder / "collection.json")
    sources = list(collection.data_sets.values())
    data_sets, cases = {}, []
    for number in range(max(len(tasks), len(sources))):
        task, source = tasks[number % len(tasks)], sources[number % len(sources)]
        first, *others = task["structures"]
        structures = {first: (1, 2), **{other: (2,) for other in others[:1]}}
        if source.task == task["name"]:
            structures = source.structures
        key = f"set-{number}"
        data_sets[key] = DataSet(key, task["name"], structures)
        cases += [
            replace(case, name=f"{key}-{case.name}", data_set=key)
            for case in collection.cases
            if case.data_set == source.name
        ]
    path = folder / f"{name}.json"
    write_collection(path, Collection(name, folder, data_sets, tuple(cases)))
    return path


def small(name: str, phantoms: Path, output: Path, steps: int = 20) -> list[str]:
    """Changes that let a recipe run on phantoms in a second or two."""
    config = read_config(RECIPES / f"{name}.json")
    collection = of_tasks(phantoms, config.package["tasks"], name)
    changes: dict[str, Any] = {
        "output": str(output), "batch_size": 1 if config.network in SLOW else 2,
        "checkpoint_every": 10, "validate_every": 0, "workers": 0,
        "precision": "float32", "preprocessing.spacing": [12.0, 12.0, 12.0],
        "inference.patch_size": PATCH.get(config.network, [16, 32, 32]),
        "network_arguments": {**config.network_arguments, **SMALL.get(config.network, DODNET)},
        "phases": [
            {**to_json(phase), "iterations": steps // len(config.phases), "epoch": 2, "warm_up": 1}
            for phase in config.phases
        ],
        "transfer": None,
    }  # fmt: skip
    if config.collection is not None:
        changes |= {"collection.collection": str(collection), "collection.prepared": str(output / "prepared")}
    else:
        changes |= {"synthetic.atlas": None, "synthetic.validation_images": 0, "synthetic.cases_per_image": 2}
        changes |= {"batch_size": 1, "tissue.iterations": 2, "tissue.voxels": 500}
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_of_a_recipe_make_a_package_that_segments(
    name: str, phantoms: Path, tmp_path: Path
) -> None:
    config = read_config(RECIPES / f"{name}.json", small(name, phantoms, tmp_path))
    model = load_model(train(config))
    losses = losses_of(tmp_path)
    assert len(losses) == config.iterations
    assert np.isfinite(losses).all()
    session = InferenceSession(model, "cpu")
    image = read_collection(phantoms / "collection.json").cases[0].image
    session.set_image(read_volume(phantoms / image))
    segmentation = session.predict()
    wanted = {(task.name, structure) for task in model.manifest.tasks for structure in task.structures}
    assert set(segmentation) == wanted


@pytest.mark.parametrize("name", ALL_NAMES)
def test_the_full_size_of_a_recipe_makes_a_manifest(name: str) -> None:
    config = read_config(RECIPES / f"{name}.json")
    manifest = make_manifest(config)
    assert manifest.network.architecture == config.network
    assert manifest.training["recipe"] == f"PartialSegLib/training/configs/{name}.json"


def test_fine_tuning_starts_from_a_package_and_warms_up_its_heads_first(
    phantoms: Path, tmp_path: Path
) -> None:
    changes = small("multitalent", phantoms, tmp_path / "source", steps=2)
    package = train(read_config(RECIPES / "multitalent.json", changes))
    changes = small("multitalent-fine-tuning", phantoms, tmp_path / "tuned", steps=3)
    changes.append(f'transfer={{"package": {json.dumps(str(package))}}}')
    tuned = read_config(RECIPES / "multitalent-fine-tuning.json", changes)
    only_heads = [f"phases={json.dumps([to_json(tuned.phases[0])])}"]
    tuned = read_config(RECIPES / "multitalent-fine-tuning.json", [*changes, *only_heads])
    before = load_model(package).network.state_dict()
    after = load_model(train(tuned)).network.state_dict()
    for key, value in after.items():
        assert key.startswith("heads.") or (value == before[key]).all()
    shutil.rmtree(package)
    again = load_model(package_checkpoint(tuned)).network.state_dict()
    assert all((value == after[key]).all() for key, value in again.items())


def test_a_task_without_cases_is_named_before_the_first_step(phantoms: Path, tmp_path: Path) -> None:
    collection = read_collection(phantoms / "collection.json")
    fewer = tuple(case for case in collection.cases if case.data_set != "phantom-lung")
    write_collection(tmp_path / "fewer.json", Collection("fewer", phantoms, collection.data_sets, fewer))
    values = json.loads((tmp_path / "fewer.json").read_text())
    for case in values["cases"]:
        case["image"], case["label"] = str(phantoms / case["image"]), str(phantoms / case["label"])
    (tmp_path / "fewer.json").write_text(json.dumps(values))
    changes = [
        *small("dodnet", phantoms, tmp_path / "run"),
        f"collection.collection={json.dumps(str(tmp_path / 'fewer.json'))}",
    ]
    with pytest.raises(InputError, match="lung"):
        train(read_config(RECIPES / "dodnet.json", changes))


def test_faulty_cases_are_listed_together_before_anything_is_prepared(phantoms: Path, tmp_path: Path) -> None:
    collection = read_collection(phantoms / "collection.json")
    first, second, *others = (
        replace(case, image=str(phantoms / case.image), label=str(phantoms / str(case.label)))
        for case in collection.cases
    )
    (tmp_path / "empty.nii.gz").touch()
    faulty = (replace(first, image=str(tmp_path / "empty.nii.gz")), replace(second, label=others[0].image))
    write_collection(tmp_path / "c.json", replace(collection, folder=tmp_path, cases=(*faulty, *others)))
    changes = [
        *small("dodnet", phantoms, tmp_path / "run"),
        f"collection.collection={json.dumps(str(tmp_path / 'c.json'))}",
    ]
    with pytest.raises(InputError) as error:
        train(read_config(RECIPES / "dodnet.json", changes))
    text = str(error.value)
    assert text.startswith("2 faults in the cases")
    assert f"{first.name}  {first.data_set}  image unreadable" in text
    assert f"{second.name}  {second.data_set}  label values unknown" in text
    assert not list((tmp_path / "run" / "prepared").glob("*"))


def test_phantom_mots_keeps_the_proportions_of_the_paper(tmp_path: Path) -> None:
    size = (200.0, 200.0, 200.0), (2, 2, 2)
    made = make_phantom_mots(tmp_path, PhantomMots(7, *size))
    counts = [sum(case.data_set == name for case in made.split("training")) for name in made.data_sets]
    assert counts == [2] * 7
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.nii.gz")}
    larger = make_phantom_mots(tmp_path, PhantomMots(46, *size))
    counts = [sum(case.data_set == name for case in larger.split("training")) for name in larger.data_sets]
    assert counts == [5, 8, 12, 11, 5, 2, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    with pytest.raises(InputError, match="0 cases asked for"):
        make_phantom_mots(tmp_path, PhantomMots(0))
