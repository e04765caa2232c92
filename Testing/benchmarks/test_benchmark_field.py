"""`make bench-field`: figures survive failures and interruptions, both sides get the same model and image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from field_cases import case_file
from field_figures import Figures, Measurement
from field_goals import dodnet_rows, faster, nnunet_rows, voxel_rows
from field_models import QUICK, write_stunet
from field_plan import Plan

from PartialSegLib import load_model, read_volume

COUNTING = """
import json, pathlib, sys
settings = json.loads(sys.argv[1])
file = pathlib.Path(settings["file"])
file.write_text(file.read_text() + settings["letter"] if file.exists() else settings["letter"])
if settings.get("fails"):
    raise ValueError("no luck")
print("noise")
print(json.dumps({"total": float(len(file.read_text()))}))
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    file = tmp_path / "counting.py"
    file.write_text(COUNTING)
    return str(file)


def measurement(script: str, letter: str, **settings: bool) -> Measurement:
    given = {"file": str(Path(script).with_name("order")), "letter": letter, **settings}
    return Measurement(f"case: {letter}", sys.executable, script, given)


def plan(tmp_path: Path, cases: list[str]) -> Plan:
    return Plan(
        tmp_path,
        cases,
        cases[:1],
        ["a", "b"],
        "a",
        None,
        True,
        "torch",
        "trunk-7tasks",
        "spleen",
        1,
        "python",
    )


def figures_of(tmp_path: Path, **kept: dict[str, float]) -> Figures:
    figures = Figures(tmp_path / "figures.json", resume=False)
    figures.kept = {key.replace("_", " "): {"settings": {}, "runs": [run]} for key, run in kept.items()}
    return figures


def test_repetitions_lie_between_those_of_others_and_medians_are_taken(tmp_path: Path, script: str) -> None:
    figures = Figures(tmp_path / "figures.json", resume=False)
    figures.measure([measurement(script, "a"), measurement(script, "b")], repetitions=3, long_seconds=60)

    assert (tmp_path / "order").read_text() == "ababab"
    assert figures.median("case: a", "total") == 3


def test_a_failure_is_named_and_loses_nothing_else(tmp_path: Path, script: str) -> None:
    figures = Figures(tmp_path / "figures.json", resume=False)
    failing = measurement(script, "a", fails=True)
    figures.measure([failing, measurement(script, "b")], repetitions=2, long_seconds=60)

    assert figures.error("case: a") == "failed: exit status 1: ValueError: no luck"
    assert figures.median("case: a", "total") is None
    assert (tmp_path / "order").read_text() == "abb"


def test_a_run_is_continued_where_it_ended_and_new_settings_are_measured_anew(
    tmp_path: Path, script: str
) -> None:
    first, second = measurement(script, "a"), measurement(script, "b")
    Figures(tmp_path / "figures.json", resume=False).measure([first], repetitions=1, long_seconds=60)
    figures = Figures(tmp_path / "figures.json", resume=True)
    figures.measure([first, second], repetitions=1, long_seconds=60)
    assert (tmp_path / "order").read_text() == "ab"

    other = Measurement(first.key, first.python, first.script, {**first.settings, "letter": "c"})
    figures.measure([other], repetitions=1, long_seconds=60)
    assert (tmp_path / "order").read_text() == "abc"


def test_what_takes_long_is_not_repeated(tmp_path: Path, script: str) -> None:
    figures = Figures(tmp_path / "figures.json", resume=False)
    figures.measure([measurement(script, "a")], repetitions=3, long_seconds=0)
    assert (tmp_path / "order").read_text() == "a"


def test_flips_are_extrapolated_only_where_they_were_not_measured(tmp_path: Path) -> None:
    run = {"total": 12.0, "network": 10.0, "outside the network": 2.0, "peak memory MB": 90.0}
    ours = {"total": 4.0, "network": 3.9, "outside the network": 0.1, "peak memory MB": 30.0}
    figures = figures_of(
        tmp_path,
        **{"a-600: nnU-Net": run, "a-600: ours, default": ours, "a-600: ours, like for like": ours},
        **{"a-600: ours, 8 bits": {"total": 2.0}},
    )
    flips, same, rounded, rounded_same, outside, memory = nnunet_rows(plan(tmp_path, ["a-600"]), figures)

    assert flips.measured == "20.5 times (82 s / 4 s, extrapolated from one of 8 flips)"
    assert (rounded.measured[:10], rounded_same.measured[:9]) == ("41.0 times", "6.0 times")
    assert (flips.reached, same.reached, outside.reached, memory.reached) == (True, True, True, True)

    figures.kept["a-600: nnU-Net, mirrored"] = {"settings": {}, "runs": [{"total": 40.0}]}
    flips, *_ = nnunet_rows(plan(tmp_path, ["a-600"]), figures)
    assert (flips.measured, flips.reached) == ("10.0 times (40 s / 4 s)", False)


def test_patches_of_one_case_are_extrapolated_to_another(tmp_path: Path) -> None:
    loop = {"total": 11.0, "loop": 10.0, "restore": 0.5, "patches": 10}
    ours = {"total": 3.0, "encode": 1.5, "head": 0.5, "restore": 0.5, "patches": 10}
    visits = {"patches planned": 20, "patches": 4, "preprocess": 0.0, "coarse pass": 0.2}
    kept = {"a: MONAI, DoDNet": loop, "a: ours, DoDNet": ours, "a: ours, DoDNet, seven tasks": ours}
    kept |= {"a: ours, DoDNet, 8 bits": {**ours, "total": 2.2}}
    kept |= {"a: ours, DoDNet, region selection, fast": {"total": 1.0, "patches": 2, "patches planned": 10}}
    figures = figures_of(tmp_path, **kept, **{"b: ours, DoDNet, patches to visit": visits})
    rows = list(dodnet_rows(plan(tmp_path, ["a", "b"]), figures))

    assert [row.measured.split(" times")[0] for row in rows] == [
        "3.7", "5.0", "not measured", "11.0", "5.0", "20.0", "4.8", "33.4", "5.0", "not measured",
    ]  # fmt: skip
    assert rows[3].measured.endswith("2 of 10 patches)")


def test_what_was_not_measured_is_neither_reached_nor_missed(tmp_path: Path) -> None:
    (row,) = voxel_rows(plan(tmp_path, ["a"]), figures_of(tmp_path))
    assert (row.measured, row.reached) == ("not measured", None)
    assert "**no**" in str(faster("a", 3, 2.0, 1.0))


def test_both_sides_get_the_same_weights_and_plans(tmp_path: Path) -> None:
    folder = write_stunet(tmp_path / "stunet", QUICK.stunet, ("liver", "right kidney"), "Dataset022_Abdomen")
    model = load_model(folder / "package")
    weights = torch.load(folder / "weights.pt", weights_only=True)
    plans = json.loads((folder / "model" / "plans.json").read_text())
    configuration = {**plans["configurations"]["3d_base"], **plans["configurations"]["3d_fullres"]}

    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
    assert list(model.manifest.inference.patch_size) == configuration["patch_size"]
    assert list(model.manifest.preprocessing.spacing) == configuration["spacing"]
    assert model.manifest.inference.overlap == 0.5
    assert model.manifest.inference.patch_positions == "even"
    assert model.manifest.tasks[0].structures == {"liver": 1, "right_kidney": 2}


def test_phantoms_lie_as_a_dicom_series_does(tmp_path: Path) -> None:
    """nnU-Net takes the axes of a file as they are; ours turns them to those of the plan."""
    volume = read_volume(case_file("tiny-8", tmp_path))
    assert volume.orientation == "SPL"
    assert volume.shape == (8, 96, 96)
