"""Configurations: what differs from a base, single values, phases, and mistakes named in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import losses_of, tiny_config, tiny_values

from PartialSegLib.__main__ import main as partialseg
from PartialSegLib.errors import InputError
from PartialSegLib.files.json_fields import to_json
from PartialSegLib.training import read_config, train
from PartialSegLib.training.__main__ import main
from PartialSegLib.training.collection import Case, Collection, DataSet, write_collection
from PartialSegLib.training.config import SyntheticData
from PartialSegLib.training.config_files import OTHER_LOOPS
from PartialSegLib.training.loop.optimization import Phase, learning_rate, make_optimizer, position
from PartialSegLib.training.loop.steps import LOCK_FILE
from PartialSegLib.training.loop.workers import Workers
from PartialSegLib.training.med_danet.config import CollectionSlicesConfig
from PartialSegLib.training.run import Run
from PartialSegLib.training.slice_selector.config import SliceSelectorConfig
from PartialSegLib.training.train import make_manifest

ONE_CASE = Collection(
    "one",
    Path(),
    {"msd": DataSet("msd", "liver", {"liver": (1,), "liver_tumor": (2,)})},
    (Case("a", "msd", "no-image.nii.gz", "no-label.nii.gz"),),
)
SHORT = [{"iterations": 2}]


def write(path: Path, values: dict[str, object]) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_a_file_names_what_differs_from_another(tmp_path: Path) -> None:
    write(tmp_path / "base.json", tiny_values("a", seed=1, loss={"dice_epsilon": 2.0, "average": "cases"}))
    changed = {"extends": "base.json", "seed": 2, "loss": {"average": "channels"}}
    config = read_config(write(tmp_path / "variant.json", changed), ["output=b", "ema_decay=0.5"])
    assert (config.seed, config.output, config.ema_decay) == (2, "b", 0.5)
    assert (config.loss.dice_epsilon, config.loss.average) == (2.0, "channels")


def test_a_file_may_be_saved_by_an_editor_on_windows(tmp_path: Path) -> None:
    """It begins UTF-8 with a mark that JSON does not know."""
    (tmp_path / "mine.json").write_text(json.dumps(tiny_values("a", seed=7)), encoding="utf-8-sig")
    assert read_config(tmp_path / "mine.json").seed == 7


@pytest.mark.parametrize("base", ["transdodnet", "transdodnet.json"])
def test_a_file_may_extend_a_recipe_and_a_setting_may_lie_in_a_list(tmp_path: Path, base: str) -> None:
    mine = write(tmp_path / "mine.json", {"extends": base, "seed": 9})
    recipe = read_config(base)
    config = read_config(mine, ["phases[0].iterations=50", "inference.patch_size[0]=32"])
    assert (config.seed, config.patch_size) == (9, (32, *recipe.patch_size[1:]))
    assert to_json(config.phases[0]) == {**to_json(recipe.phases[0]), "iterations": 50}
    with pytest.raises(InputError, match=r"phases\[1\].epoch: there is no entry \[1\]; .*\[0\]"):
        read_config(mine, ["phases[1].epoch=1"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sed": 1}, "sed: unknown field; perhaps you meant seed.*known fields are output, package"),
        ({"loss": {"knd": 1}}, "loss.knd: unknown field; perhaps you meant kind"),
        ({"loss": {"kind": "dice"}}, "loss.kind: expected 'dice and cross-entropy' or"),
        ({"phases": []}, "phases: expected at least one"),
        ({"phases": [{"iterations": 0}]}, r"phases\[0\].iterations: expected 1 or more, got 0"),
        ({"synthetic": None}, "expected one of the two, got neither"),
        ({"batch_size": 0}, "batch_size: expected 1 or more"),
        ({"workers": -1}, "workers: expected 0 or more, got -1"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"seed": 2**64}, r"seed: expected less than 2\^64, got 1844"),
        ({"ema_decay": 10**400}, "ema_decay: expected a number, got 1000"),
        ({"phases": [{"iterations": 1, "warm_up_start": -5}]}, "warm_up_start: expected 0 or more, got -5"),
        ({"phases": [{"iterations": 1, "factors": {"a.": -1}}]}, r"factors.a.: expected 0 or more, got -1"),
        ({"tissue": {"weight": 1, "voxels": 0}}, "tissue.voxels: expected 1 or more, got 0"),
        ({"tissue": {"weight": -1}}, "tissue.weight: expected 0 or more, got -1"),
        ({"tissue": {"weight": 1, "lesion_focus": -1}}, "tissue.lesion_focus: expected 0 or more, got -1"),
        ({"validate_every": -3}, "validate_every: expected 0 or more"),
        ({"ema_decay": 2}, "ema_decay: expected 0 or more and less than 1, got 2"),
        (
            {"phases": [{"iterations": 1, "weight_decay": -1}]},
            r"phases\[0\].weight_decay: expected 0 or more",
        ),
        ({"phases": [{"iterations": 1, "momentum": 1}]}, r"phases\[0\].momentum: .* less than 1, got 1"),
        ({"phases": [{"iterations": 1, "gradient_clip": -1}]}, "gradient_clip: expected more than 0 or null"),
        ({"loss": {"deep_supervision": [0, 0]}}, "loss.deep_supervision: .* not all 0"),
        ({"loss": {"structure_weights": {"liver": 0}}}, "structure_weights.liver: expected more than 0, got"),
        (
            {"loss": {"kind": "softmax", "structure_weights": {"liver": 2}}},
            "structure_weights: the loss 'softmax' knows none",
        ),
        ({"synthetic": {"atlas_share": 2}}, "synthetic.atlas_share: expected a number from 0 to 1, got 2"),
        ({"precision": "half"}, "precision: expected 'float32'"),
        ({"extends": "nowhere.json"}, "No training configuration at"),
        ({"extends": 3}, "extends: expected the name of a configuration, got 3"),
        ({"extends": "config.json"}, "extends itself"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    values = tiny_values(tmp_path)
    merged = {key: value for key, value in {**values, **changes}.items() if value is not None}
    with pytest.raises(InputError, match=sentence):
        read_config(write(tmp_path / "config.json", merged))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"augmentation": "dodnt"}, "unknown preset 'dodnt'; perhaps you meant dodnet"),
        ({"preparing_processes": 0}, "preparing_processes: expected 1 or more, got 0"),
        ({"validation_patches": -3}, "validation_patches: expected 0 or more"),
        ({"foreground": 2}, "foreground: expected a number from 0 to 1, got 2"),
    ],
)
def test_a_wrong_use_of_a_collection_is_named(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    data = {"collection": "c.json", "prepared": "p", **change}
    with pytest.raises(InputError, match=sentence):
        tiny_config(tmp_path, synthetic=None, collection=data)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "DoDNett"}, "unknown network 'DoDNett'; perhaps you meant DoDNet"),
        ({"network_arguments": {"width": 3}}, "DoDNet cannot be built"),
        ({"inference": {"patch_size": [15, 16, 16]}}, "no multiples of"),
        (
            {
                "network": "UNet",
                "network_arguments": {"task_channels": [2, 1, 1], "widths": [8] * 6, "depths": [1] * 6},
                "inference": {"patch_size": [16, 32, 32]},
            },
            "UNet cannot be trained on patches of .*more than 1 spatial element",
        ),
        ({"only_tasks": ["liver", "splen"]}, "only_tasks: unknown task 'splen'; perhaps you meant spleen"),
        ({"loss": {"deep_supervision": [2, 1]}}, "2 weights, but DoDNet has 1"),
        (
            {"loss": {"structure_weights": {"livr": 2}}},
            "loss.structure_weights: unknown structure 'livr'; perhaps you meant liver",
        ),
        ({"tissue": {"weight": 1.0, "layer": "projektion"}}, "has no module 'projektion'"),
        ({"transfer": {"package": "no-such-model"}}, "no-such-model"),
        ({"batch_size": 3, "accumulate": 2}, "3 images cannot be shared by 1 processes in 2 parts"),
        (
            {"batch_size": 2, "accumulate": 2, "loss": {"kind": "softmax"}},
            "accumulate: .* 2 parts do not see at once; .*loss.joint_dice=false",
        ),
        ({"phases": [*SHORT, {"iterations": 1, "only": ["stem", "hed"]}]}, r"\[1\].only: no .* with hed"),
        (
            {"phases": [{"iterations": 1, "factors": {"contoller.": 0.1}}]},
            r"phases\[0\].factors: no .* with contoller.; perhaps you meant controller",
        ),
        ({"synthetic": {"atlas": "no-atlas.nrrd"}}, "no-atlas.nrrd"),
        ({"inference": {"patch_size": [32, 16, 16]}, "precision": "bfloat16"}, "32 slices leave 2"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        train(tiny_config(tmp_path, **changes))
    assert not (tmp_path / "package").exists()


def test_mistakes_are_found_before_cases_are_prepared(tmp_path: Path) -> None:
    write_collection(tmp_path / "c.json", ONE_CASE)
    data = {"collection": str(tmp_path / "c.json"), "prepared": str(tmp_path / "prepared")}
    for change, sentence in (
        ({"transfer": {"package": "no-such-model"}}, "no-such-model"),
        ({"phases": [*SHORT, {"iterations": 1, "only": ["hed"]}]}, "starts with hed"),
        ({"loss": {"deep_supervision": [2, 1]}}, "2 weights, but DoDNet has 1"),
        ({}, "no-image"),
    ):
        with pytest.raises(InputError, match=sentence):
            train(
                tiny_config(tmp_path / "run", synthetic=None, collection=data, only_tasks=["liver"], **change)
            )


def test_a_run_goes_on_with_the_cases_it_was_begun_with(tmp_path: Path) -> None:
    (case,), (name,) = ONE_CASE.cases, ONE_CASE.data_sets
    others = [
        Collection("more", Path(), ONE_CASE.data_sets, (case, Case("b", name, "b", "b"))),
        Collection("fold", Path(), ONE_CASE.data_sets, (Case("a", name, "a", "a", "validation"),)),
        Collection("rules", Path(), {name: DataSet(name, "liver", {"liver": (2,)})}, (case,)),
    ]
    moved = (Case("a", name, "elsewhere", "elsewhere"), Case("t", name, "t", "t", "test"))
    same = Collection("moved", Path("there"), ONE_CASE.data_sets, moved)
    assert same.digest() == ONE_CASE.digest() not in [other.digest() for other in others]
    config = tiny_config(tmp_path)
    arguments = make_manifest(config).network.arguments
    state = Run(config, arguments, Workers(), same.digest()).state()
    Run(config, arguments, Workers(), ONE_CASE.digest()).load_state(state)
    with pytest.raises(InputError, match="begun when its collection had other cases, splits or label rules"):
        Run(config, arguments, Workers(), others[0].digest()).load_state(state)
    del state["cases"]  # as in early versions
    Run(config, arguments, Workers(), others[0].digest()).load_state(state)


def test_paths_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for steps in (1, 2):
        unseen = {"validation_images": 0}
        package = train(tiny_config("~/run", phases=[{"iterations": steps}], synthetic=unseen))
    assert package == tmp_path / "home" / "run" / "package"
    assert len(losses_of(tmp_path / "home" / "run")) == 2
    assert not list((tmp_path / "here").iterdir())
    data = CollectionSlicesConfig("~/c.json", "~/prepared")
    selector = SliceSelectorConfig("~/out", "trunk-7tasks", atlas="~/atlas.nrrd")
    paths = (data.collection, data.prepared, selector.output, selector.atlas, SyntheticData("~/a").atlas)
    assert {Path(str(path)).parent for path in paths} == {tmp_path / "home"}


@pytest.mark.skipif(os.name == "nt", reason="fcntl is of POSIX")
def test_a_folder_holds_the_settings_of_its_only_run(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, phases=SHORT, synthetic={"validation_images": 0})
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{hold}; print(flush=True); input()", str(tmp_path / LOCK_FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="Another run is at work in"):
            train(config)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
        other.kill()
    mine = write(tmp_path / "config.json", {"extends": "other.json"}).read_text()
    train(config)
    assert read_config(tmp_path / "config.json") == config
    assert (tmp_path / "config-previous.json").read_text() == mine


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.json")]) == 2
    assert capsys.readouterr().err.startswith("No training configuration")
    assert main([str(write(tmp_path / "c.json", tiny_values(tmp_path))), "seed"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err


def test_the_device_is_tried_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write(tmp_path / "c.json", tiny_values(tmp_path / "run")))
    cases = [("gpu", 2, "Unknown device 'gpu'"), ("mps", 3, "not been tried on mps")]
    if not torch.cuda.is_available():
        cases.append(("cuda", 3, "Device cuda does not work"))
    for device, code, sentence in cases:
        assert main([config, "--device", device]) == code
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_processes_that_srun_starts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(InputError, match=r"srun has started 4 processes .*torchrun"):
        train(tiny_config(tmp_path))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"output: .*run cannot be made a folder .*choose another place"):
        train(tiny_config(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_sgd_without_momentum() -> None:
    optimizer = make_optimizer(Phase(iterations=1, momentum=0), [nn.Linear(1, 1)])
    assert not optimizer.param_groups[0]["nesterov"]


def test_train_is_a_command_and_knows_the_recipes_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write(tmp_path / "c.json", tiny_values(tmp_path / "run")))
    assert partialseg(["train", config]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "package")
    assert partialseg(["train", "dodnet", "batch_size=0"]) == 2
    assert "batch_size: expected 1 or more" in capsys.readouterr().err
    assert partialseg(["train", "dodnet.json", "batch_size=0"]) == 2
    assert "batch_size: expected 1 or more" in capsys.readouterr().err
    assert partialseg(["train", "dodnett.json"]) == 2
    assert "perhaps you meant dodnet, or give the path of a JSON file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        partialseg(["train"])
    assert "are required: CONFIG_FILE_OR_RECIPE;" in capsys.readouterr().err
    assert partialseg(["train", "something"]) == 2
    names = capsys.readouterr().err
    assert "transdodnet" in names
    assert "med-danet" not in names
    for name, command in OTHER_LOOPS.items():
        assert partialseg(["train", name]) == 2
        assert f"start {command} {name}\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["seed=-3", "--device", "cpu"], ["--device", "cpu", "seed=-3"]])
def test_settings_come_before_and_behind_options(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (main, lambda arguments: partialseg(["train", *arguments])):
        assert command(["dodnet", *arguments]) == 2
        assert "seed: expected 0 or more, got -3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        partialseg(["train", "dodnet", "--device", "cpu", "--sed"])
    assert "unrecognized arguments: --sed" in capsys.readouterr().err


def test_only_some_tasks(tmp_path: Path) -> None:
    manifest = make_manifest(tiny_config(tmp_path, only_tasks=["spleen"]))
    assert [task.name for task in manifest.tasks] == ["spleen"]
    assert manifest.network.arguments["num_tasks"] == 1


def test_polynomial_decay_by_epoch_after_a_warm_up() -> None:
    phase = Phase(iterations=1000, learning_rate=0.1, epoch=10, warm_up=10, warm_up_start=0.01)
    assert learning_rate(phase, 0) == pytest.approx(0.1 * 0.01)
    assert learning_rate(phase, 39) == pytest.approx(0.1 * (0.01 + 0.099 * 3))  # TransDoDNet's rule
    assert learning_rate(phase, 500) == learning_rate(phase, 509) == pytest.approx(0.1 * 0.5**0.9)
    assert learning_rate(Phase(iterations=4, learning_rate=1.0, decay="rising"), 1) == pytest.approx(0.5)


def test_phases_follow_each_other() -> None:
    phases = [Phase(iterations=3), Phase(iterations=4)]
    assert [position(phases, step) for step in (0, 2, 3, 6, 7)] == [(0, 0), (0, 2), (1, 0), (1, 3), (1, 4)]
