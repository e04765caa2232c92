"""Training a decision network: needed slices, batches, thresholds, and the whole run in small."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model
from torch import nn

from PartialSegLib.decision_spec import DecisionSpec
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Preprocessing, Task, read_manifest
from PartialSegLib.model import load_model
from PartialSegLib.patches.slice_selection import keep_slices, slice_scores
from PartialSegLib.phantom import make_phantom
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.training.slice_selector.__main__ import main
from PartialSegLib.training.slice_selector.batches import draw_batch
from PartialSegLib.training.slice_selector.calibration import choose_thresholds, selection_figures
from PartialSegLib.training.slice_selector.config import SliceSelectorConfig, read_slice_selector_config
from PartialSegLib.training.slice_selector.training import add_slice_selector, train_slice_selector
from PartialSegLib.training.slice_selector.trunks import TrunkSlices, reduced, slices_with, trunk_slices
from PartialSegLib.volume import Volume, reorient

TASKS = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("lung", {"lung_tumor": 0}))
COARSE = Preprocessing("SAR", (16, 12, 12), (-250, 300), 50, 100, pad_value=-1000, crop_to_body=True)
SMALL = {"stem_width": 4, "stage_widths": [8, 16, 32], "last_width": 16}
SPEC = DecisionSpec((0,), (0.5,), input_size=32, dilation=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("source") / "tiny", TASKS, COARSE)


@pytest.fixture(scope="module")
def config(package, tmp_path_factory):
    return SliceSelectorConfig(
        output=str(tmp_path_factory.mktemp("run")),
        package=str(package),
        offsets=(-2, 0, 2),
        input_size=32,
        arguments=SMALL,
        images=3,
        calibration_images=2,
        held_out_images=1,
        iterations=12,
        batch_size=8,
        checkpoint_every=6,
    )


@pytest.fixture(scope="module")
def trained(config):
    return train_slice_selector(config)


# --- slices and the tasks that need them ------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["SAR", "IAR"])
def test_each_input_slice_with_foreground_needs_one_slice_of_the_network(orientation):
    affine = np.array([[0, 0, 4.0, 0], [0, 4, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((20, 8, 8), np.int16), affine)
    settings = Preprocessing(orientation, (5, 4, 4), (-250, 300))
    prepared = preprocess(volume, settings, torch.device("cpu"))
    found = np.zeros(20, bool)
    found[[0, 10, 11]] = True  # mm 0 to 3, and 30 to 36
    needed = slices_with(found, prepared)
    expected = [0, 6] if orientation == "SAR" else [5, 11]
    assert np.flatnonzero(needed).tolist() == expected


def test_a_phantom_is_seen_as_a_session_sees_it(package):
    phantom = make_phantom(3, (16, 12, 12), (30, 24, 36), lesions={"liver_tumor": 1.0})
    manifest = read_manifest(package)
    slices = reduced(phantom.volume, phantom.tissues, manifest, 32)
    assert slices.squares.shape == (30, 32, 32)
    liver = phantom.mask("liver").any(axis=(1, 2))
    np.testing.assert_array_equal(slices.needed[:, 0], liver)
    assert not slices.needed[:, 1].any()
    assert not liver.all()


def test_a_trunk_is_a_function_of_its_seed(package):
    manifest = read_manifest(package)
    one, same, other = (trunk_slices(manifest, 32, seed, 0.5, None) for seed in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(one.squares, same.squares)
    np.testing.assert_array_equal(one.needed, same.needed)
    assert not torch.equal(one.squares[:20], other.squares[:20])
    assert one.needed[:, 0].any()


def test_the_axes_of_the_network_may_have_any_order(package):
    manifest = read_manifest(package)
    turned = dataclasses.replace(
        manifest, preprocessing=dataclasses.replace(COARSE, orientation="RAS", spacing=(12, 12, 16))
    )
    phantom = make_phantom(3, (16, 12, 12), (30, 24, 36))
    upright, lying = (reduced(phantom.volume, phantom.tissues, m, 32) for m in (manifest, turned))
    np.testing.assert_array_equal(upright.needed, lying.needed)
    assert torch.allclose(upright.squares, lying.squares.transpose(1, 2), atol=1e-2)
    assert reorient(phantom.volume, "RAS").shape == (36, 24, 30)


def test_batches_are_a_function_of_the_generator_and_stay_aligned():
    squares = torch.arange(30.0)[:, None, None].expand(30, 32, 32).half() / 10
    images = [TrunkSlices(squares, (np.arange(30) % 2 == 0)[:, None])]
    batches = [draw_batch(images, (-1, 0, 1), 64, np.random.default_rng(5)) for _ in range(2)]
    assert torch.equal(batches[0][0], batches[1][0])
    slices, wanted = batches[0]
    assert slices.shape == (64, 3, 32, 32)
    assert wanted.shape == (64, 1)
    assert 0.2 < float(wanted.mean()) < 0.8
    means = slices.mean(dim=(2, 3))
    assert (means[:, 2] - means[:, 0] > -0.05).all()


# --- thresholds -------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """The logit of a slice is its mean."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        return slices.mean(dim=(1, 2, 3))[:, None]


def line(logits: list[float], needed: list[int]) -> TrunkSlices:
    squares = torch.tensor(logits)[:, None, None].expand(len(logits), 32, 32)
    flags = np.zeros((len(logits), 1), bool)
    flags[needed] = True
    return TrunkSlices(squares.half(), flags)


@pytest.mark.parametrize("dilation", [0, 1])
def test_thresholds_keep_every_needed_slice_and_no_more_than_that(dilation):
    images = [line([-4, -3, 1, 2, 1, -1, -4, -4], [2, 3, 4, 5]), line([-5, -5, 0, -5, -5], [2])]
    spec = dataclasses.replace(SPEC, dilation=dilation)
    (threshold,) = choose_thresholds(Mean(), images, spec, 1.0, 0.0)
    logit = np.log(threshold / (1 - threshold))
    assert logit == pytest.approx(-1 if dilation == 0 else 0, abs=1e-3)
    spec = dataclasses.replace(spec, thresholds=(threshold,))
    for image in images:
        kept = keep_slices(slice_scores(Mean(), image.squares.float(), spec), spec)
        assert kept[0, image.needed[:, 0]].all()
    figures = selection_figures(Mean(), images, spec, ["liver"])["liver"]
    assert figures["recall"] == 1
    assert figures["needed"] == 5
    assert 0 < figures["skipped_of_unneeded"] <= 1


def test_the_margin_lowers_them():
    images = [line([-4, 1, -4], [1])]
    logits = [
        np.log(t / (1 - t))
        for margin in (0.0, 0.5)
        for t in choose_thresholds(Mean(), images, SPEC, 1.0, margin)
    ]
    assert logits == pytest.approx([1, 0.5], abs=1e-3)


def test_less_than_every_slice_may_be_asked_for():
    images = [line(list(np.linspace(0, 9, 10)), list(range(10)))]
    spec = dataclasses.replace(SPEC, dilation=0)
    (threshold,) = choose_thresholds(Mean(), images, spec, 0.8, 0.0)
    spec = dataclasses.replace(spec, thresholds=(threshold,))
    assert selection_figures(Mean(), images, spec, ["liver"])["liver"]["recall"] == pytest.approx(
        0.9, abs=0.1
    )


def test_a_task_that_no_image_needs_keeps_everything():
    assert choose_thresholds(Mean(), [line([1, 2], [])], SPEC, 1.0, 0.5) == (0.0,)


# --- the run ----------------------------------------------------------------------------------------------


def test_a_run_writes_a_package_that_says_what_it_reached(trained, package, config):
    model = load_model(trained)
    spec = model.manifest.decision
    assert (spec.offsets, spec.every) == ((-2, 0, 2), 2)
    assert model.sha256 == load_model(package).sha256
    assert spec.figures["calibration"]["liver"]["recall"] == 1
    assert spec.figures["held_out"]["liver"]["needed"] > 5
    assert model.manifest.files["decision.safetensors"].bytes < 100_000
    assert read_manifest(package).decision is None


class Interrupt(logging.Handler):
    """Presses Ctrl+C when step 6 is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("step 6 "):
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_goes_on_to_the_same_end(trained, config, tmp_path, caplog):
    shutil.copytree(f"{config.output}/slices", tmp_path / "slices")
    moved = dataclasses.replace(config, output=str(tmp_path))
    logger, handler = logging.getLogger("PartialSegLib.training.slice_selector.training"), Interrupt()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_slice_selector(moved)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 6
    assert not (tmp_path / "package").exists()
    caplog.clear()
    with caplog.at_level(logging.INFO, "PartialSegLib"):
        resumed = load_model(train_slice_selector(moved))
    logged = [message.split(",")[0] for message in caplog.messages if message.startswith("step ")]
    assert logged == ["step 12 of 12"]
    expected = load_model(trained)
    assert resumed.manifest.decision == expected.manifest.decision
    for name, value in expected.decision.state_dict().items():
        assert torch.equal(resumed.decision.state_dict()[name], value), name


def test_structures_that_no_phantom_has_are_refused(config, tmp_path):
    tasks = (Task("a", {"trachea": 0}), Task("b", {"liver": 0}))
    other = write_tiny_model(tmp_path / "other", tasks, COARSE)
    with pytest.raises(InputError, match="looks for trachea, which no phantom has"):
        train_slice_selector(dataclasses.replace(config, package=str(other), output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_another_run_does_not_get_its_folder(trained, config):
    with pytest.raises(InputError, match="holds a run with seed 0, not 1; choose another output folder"):
        train_slice_selector(dataclasses.replace(config, seed=1))


@pytest.mark.parametrize("content", [b"{", b'{"title": "M\xfcnchen"}'])
def test_a_folder_whose_configuration_is_damaged_is_one_sentence(config, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config.json is not valid JSON \(.*\); correct it and start again"):
        train_slice_selector(dataclasses.replace(config, output=str(tmp_path)))


def test_the_decision_network_is_copied_to_a_package_with_the_same_tasks(trained, package, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(package, target)
    assert main(["add", str(trained), str(target)]) == 0
    copied, given = load_model(target), load_model(trained)
    assert copied.manifest.decision == given.manifest.decision
    assert copied.manifest.files == given.manifest.files
    for name, value in given.decision.state_dict().items():
        assert torch.equal(copied.decision.state_dict()[name], value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"preprocessing": dataclasses.replace(COARSE, spacing=(8, 12, 12))},
            "The preprocessing of .* differ",
        ),
        ({"tasks": TASKS[::-1]}, "The tasks of .* differ"),
    ],
)
def test_not_to_another_one(trained, package, tmp_path, changes, sentence):
    fields = {"tasks": TASKS, "preprocessing": COARSE} | changes
    other = write_tiny_model(tmp_path / "other", **fields)
    with pytest.raises(InputError, match=sentence):
        add_slice_selector(trained, other)
    with pytest.raises(InputError, match="has no decision network"):
        add_slice_selector(package, other)
    assert read_manifest(other).decision is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ('{"output": "x"}', "package: missing"),
        ('{"output": "x", "package": "y", "recal": 1}', "recal: unknown field"),
        ('{"output": "x", "package": "y", "recall": 1.5}', "recall: expected a share"),
        ('{"output": "x", "package": "y", "images": 0}', "images: expected 1 or more"),
        (
            '{"output": "x", "package": "y", "learning_rate": -1}',
            "learning_rate: expected more than 0, got -1",
        ),
        ('{"output": "x", "package": "y", "weight_decay": -1}', "weight_decay: expected 0 or more, got -1"),
        ('{"output": "x", "package": "y", "seed": 18446744073709551616}', "seed: expected less than"),
    ],
)
def test_a_wrong_configuration_is_answered_with_a_sentence(text, sentence, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(text)
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_missing_configuration_is_answered_with_a_sentence(tmp_path):
    with pytest.raises(InputError, match="No training configuration at"):
        read_slice_selector_config(tmp_path / "none.json")


def test_the_configuration_of_the_bundled_package_is_sound():
    config = read_slice_selector_config("slice-selector", ["seed=3"])
    assert (config.package, config.seed) == ("trunk-7tasks", 3)
    assert json.loads(json.dumps(config.arguments)) == config.arguments
