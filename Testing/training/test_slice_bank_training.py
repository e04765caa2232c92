"""Training of Med-DANet: the choice metric, the losses, the slices, who leaves when, and the package."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slice_bank_config import TASK, VALUES, tiny_config
from torch import Tensor

from PartialSegLib import load_model, segment
from PartialSegLib.errors import InputError
from PartialSegLib.evaluation import dice
from PartialSegLib.files.json_fields import from_json
from PartialSegLib.manifest import Preprocessing, Task
from PartialSegLib.networks import MedDANet
from PartialSegLib.phantom import Phantom, make_phantom
from PartialSegLib.training.collection import (
    Case,
    Collection,
    DataSet,
    read_collection,
    write_collection,
)
from PartialSegLib.training.loop.optimization import learning_rate
from PartialSegLib.training.loop.run_log import read_rows
from PartialSegLib.training.loop.workers import Workers
from PartialSegLib.training.med_danet.__main__ import main
from PartialSegLib.training.med_danet.choice_metric import choose_candidates, slice_dice
from PartialSegLib.training.med_danet.collection_slices import (
    describe_validation,
    open_slices,
    open_validation_slices,
    prepare_slices,
)
from PartialSegLib.training.med_danet.comparison import compare_with_candidates
from PartialSegLib.training.med_danet.comparison import main as compare
from PartialSegLib.training.med_danet.config import (
    PhantomConfig,
    SliceBankConfig,
    read_slice_bank_config,
    slice_bank_manifest,
)
from PartialSegLib.training.med_danet.losses import (
    bank_loss,
    candidate_loss,
    decision_loss,
    softmax_dice_loss,
)
from PartialSegLib.training.med_danet.run import SliceBankRun
from PartialSegLib.training.med_danet.slices import (
    PhantomSlices,
    Slice,
    VariedSlices,
    crop,
    load_batches,
    steps_per_epoch,
)
from PartialSegLib.training.med_danet.training import train_slice_bank
from PartialSegLib.volume import Volume, write_volume


def tiny_run(config: SliceBankConfig) -> SliceBankRun:
    """Of 16 slices, two steps an epoch."""
    return SliceBankRun(config, slice_bank_manifest(config), 16, 2, Workers())


# The choice metric, equation 4. With F = 1, 2, 4 the softmax of 1, 1/2, 1/4 is 0.4810, 0.2918, 0.2272.

COSTS = torch.tensor([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("dice", "pixels", "alpha", "choice"),
    [
        ([0.9, 0.9, 0.9], 0, 0.001, 0),  # no foreground: skip, whatever the candidates do
        ([0.0, 0.0, 0.9], 1, 0.001, 3),
        ([0.8, 0.8, 0.8], 7, 0.001, 1),  # as good: the cheapest
        ([0.8, 0.8002, 0.8], 7, 0.001, 2),  # 0.0002 more Dice against 0.001 * 0.189
        ([0.8, 0.80018, 0.8], 7, 0.001, 1),
        ([0.5, 0.6, 0.7], 7, 0.4, 3),  # 0.4924, 0.4767, 0.5109
        ([0.5, 0.6, 0.7], 7, 0.5, 1),  # 0.4905, 0.4459, 0.4636
        ([0.0, 0.0, 1.0], 7, 1.0, 1),  # cost alone
        ([0.80, 0.81, 0.80], 7, 0.0, 2),  # Dice alone
    ],
)
def test_choices_are_those_of_equation_4(dice: list[float], pixels: int, alpha: float, choice: int) -> None:
    chosen = choose_candidates(torch.tensor([dice]).double(), COSTS.double(), torch.tensor([pixels]), alpha)
    assert chosen.tolist() == [choice]


def test_slices_are_chosen_for_one_by_one() -> None:
    dice = torch.tensor([[0.1, 0.9, 0.2], [0.9, 0.1, 0.1], [0.5, 0.5, 0.5]])
    assert choose_candidates(dice, COSTS, torch.tensor([5, 0, 2])).tolist() == [2, 0, 1]


def test_the_softmax_over_cost_is_that_of_the_paper_s_figures() -> None:
    """Table 3: 0.61, 1.07, 2.36 and 4.98 G; at alpha = 1 the margin between the first two is 0.2425."""
    costs = torch.tensor([0.61, 1.07, 2.36, 4.98], dtype=torch.float64)
    exponentials = [math.exp(1 / cost) for cost in costs.tolist()]
    first, second = (value / sum(exponentials) for value in exponentials[:2])
    alpha = 0.001
    even = alpha * (first - second) / (1 - alpha)
    for lead, choice in ((even * 0.99, 1), (even * 1.01, 2)):
        dice = torch.tensor([[0.7, 0.7 + lead, 0.0, 0.0]], dtype=torch.float64)
        assert choose_candidates(dice, costs, torch.tensor([9]), alpha).tolist() == [choice]


def test_dice_of_a_slice_is_the_mean_over_its_classes() -> None:
    labels = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]])
    found = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [0, 0]], [[1, 1], [0, 2]]])
    expected = [(2 / 3 + 2 / 3) / 2, 1.0, (1 + 0) / 2]
    assert slice_dice(found, labels, 3).tolist() == pytest.approx(expected)


# Losses, equations 5 to 7


def test_the_dice_loss_of_hand_computed_slices() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))[None, :, None, None].expand(2, 3, 1, 2)
    labels = torch.tensor([[[0, 1]], [[1, 0]]])
    first, second = 1 - 2 * 0.6 / (4 * 0.3 + 2), 1.0
    assert softmax_dice_loss(logits, labels).item() == pytest.approx(first + second, abs=1e-4)
    cross_entropy = -(2 * math.log(0.5) + 2 * math.log(0.3)) / 4
    expected = first + second + 0.5 * cross_entropy
    assert candidate_loss(logits, labels, 0.5).item() == pytest.approx(expected, abs=1e-4)


def test_a_perfect_prediction_costs_nothing() -> None:
    labels = torch.tensor([[[0, 1], [2, 2]]])
    logits = 99.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    assert softmax_dice_loss(logits, labels).item() == pytest.approx(0, abs=1e-4)


def test_the_bank_s_loss_is_the_mean_over_all_candidates() -> None:
    assert bank_loss([torch.tensor(1.0), torch.tensor(2.0)], 4).item() == 0.75


def test_the_decision_s_cross_entropy_is_weighted() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    loss = decision_loss(logits, torch.tensor([0, 2]), torch.tensor([1.0, 1.1, 3.0]))
    assert loss.item() == pytest.approx(-(math.log(0.5) + 3 * math.log(0.6)) / 2, abs=1e-6)


# Slices


def phantom_slices(config: SliceBankConfig, seed: int = 0) -> PhantomSlices:
    return PhantomSlices(config.phantoms, config.preprocessing, Task("liver", dict(TASK["structures"])), seed)


def test_slices_are_those_of_phantoms(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    source = phantom_slices(config)
    assert len(source) == 16
    image, labels = source[11]
    seed = int(np.random.default_rng([0, 1]).integers(2**32))
    phantom = make_phantom(seed, (24.0, 12.0, 12.0), (8, 32, 36), None, {})
    hounsfield = np.clip(phantom.volume.array[3], -250, 300)
    np.testing.assert_allclose(image[0].numpy(), (hounsfield - 50) / 100, rtol=1e-6)
    np.testing.assert_array_equal(labels.numpy() == 1, phantom.mask("liver")[3])
    assert (image.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_a_tumour_is_written_over_its_organ() -> None:
    tumours = PhantomConfig(3, (12, 32, 36), {"liver_tumor": 1.0})
    preprocessing = Preprocessing("SAR", (16.0, 10.0, 10.0), (-250, 300))
    task = Task("liver", {"liver_tumor": 2, "liver": 1})
    source = PhantomSlices(tumours, preprocessing, task, 0)
    assert {0, 1, 2} == set(torch.stack([source[i].labels for i in range(36)]).unique().tolist())


def test_phantoms_stand_upright_only(tmp_path: Path) -> None:
    lying = {**VALUES["preprocessing"], "orientation": "SPL"}
    with pytest.raises(InputError, match=r"orientation: expected SAR, .* got SPL"):
        train_slice_bank(tiny_config(tmp_path, preprocessing=lying))


def test_a_slice_is_cropped_or_surrounded_with_air() -> None:
    whole = Slice(torch.arange(20.0).view(1, 4, 5), torch.arange(20).view(4, 5) + 1)
    image, labels = crop(whole, 4, -9.0)
    assert torch.equal(labels - 1, image[0].long())
    assert image.shape == (1, 4, 4)
    image, labels = crop(whole, 7, -9.0)
    assert image[0, 1:5, 1:6].tolist() == whole.image[0].tolist()
    assert (image == -9).sum() == (labels == 0).sum() == 49 - 20
    places = {crop(whole, 4, 0.0, np.random.default_rng(i)).labels[0, 0].item() for i in range(20)}
    assert places == {1, 2}


def test_variation_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    varied = VariedSlices(phantom_slices(config), config)
    first, again, other = varied[5, 3], varied[5, 3], varied[6, 3]
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    plain = VariedSlices(
        phantom_slices(config), dataclasses.replace(config, mirror_axes=(), intensity_shift=0.0)
    )
    whole = phantom_slices(config)[3]
    windows = [whole.labels[:, start : start + 32] for start in range(5)]
    assert any(torch.equal(plain[5, 3].labels, window) for window in windows)


def test_labels_are_mirrored_with_the_image(tmp_path: Path) -> None:
    class Numbered:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Slice:
            labels = torch.arange(32 * 32).view(32, 32)
            return Slice(labels[None].float(), labels)

    varied = VariedSlices(Numbered(), tiny_config(tmp_path, intensity_shift=0.0))
    slices = [varied[number, 0] for number in range(24)]
    assert all(torch.equal(image[0].long(), labels) for image, labels in slices)
    assert len({int(labels[0, 0]) for _, labels in slices}) == 4


def test_an_epoch_has_every_slice_once_and_no_two_are_alike(tmp_path: Path) -> None:
    class Numbered:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Slice:
            return Slice(torch.full((1, 32, 32), float(index)), torch.full((32, 32), index))

    config = tiny_config(tmp_path)

    def seen(first: int, last: int) -> list[list[int]]:
        batches = load_batches(Numbered(), config, first, last)
        return [labels[:, 0, 0].tolist() for _, labels in batches]

    assert steps_per_epoch(Numbered(), 8) == 2
    batches = seen(0, 6)
    assert [len(batch) for batch in batches] == [8] * 6
    for epoch in range(3):
        assert max(Counter(batches[2 * epoch] + batches[2 * epoch + 1]).values()) == 1
    assert batches[:2] != batches[2:4]
    assert seen(3, 6) == batches[3:]


LABELLED = {"liver": (5, 7), "liver_tumor": (7,), "spleen": (1,)}


@cache
def patient(number: int) -> Phantom:
    return make_phantom(number, (24.0, 12.0, 12.0), (6, 32, 36), None, {"liver_tumor": 1.0})


def write_collection_of_phantoms(folder: Path, **data_set: Any) -> Path:
    """Two cases of a data set with the liver as 5, its tumour as 7, and the spleen as 1; 8 × 4 × 4 mm."""
    cases = []
    for number in range(2):
        phantom = patient(number)
        values = phantom.mask("spleen").astype(np.uint8)
        values[phantom.mask("liver")] = 5
        values[phantom.mask("liver_tumor")] = 7
        affine = phantom.volume.affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
        write_volume(folder / f"{number}.nii.gz", Volume(phantom.volume.array, affine))
        write_volume(folder / f"{number}-label.nii.gz", Volume(values, affine))
        cases.append(Case(f"case-{number}", "here", f"{number}.nii.gz", f"{number}-label.nii.gz"))
    labels = DataSet(**{"name": "here", "task": "liver", "structures": LABELLED, **data_set})
    elsewhere = DataSet("elsewhere", "brain tumour", {"whole_tumor": (1,)}, channels=("flair",))
    cases.append(Case("case-2", "elsewhere", "2.nii.gz", "2-label.nii.gz"))  # needs no files: of another task
    path = folder / "collection.json"
    data_sets = {"here": labels, "elsewhere": elsewhere}
    write_collection(path, Collection("two", folder, data_sets, tuple(cases)))
    return path


def config_of_collection(folder: Path, **data_set: Any) -> SliceBankConfig:
    """A run on `write_collection_of_phantoms`."""
    collection = str(write_collection_of_phantoms(folder, **data_set))
    return tiny_config(
        folder / "run",
        collection={"collection": collection, "prepared": str(folder / "prepared")},
        preprocessing={**VALUES["preprocessing"], "spacing": [8, 4, 4]},
    )


def test_slices_are_those_of_a_collection(tmp_path: Path) -> None:
    config = config_of_collection(tmp_path)
    prepare_slices(config, slice_bank_manifest(config))
    source = open_slices(config, slice_bank_manifest(config))
    assert len(source) == 12
    assert describe_validation(source) == "12 slices of 2 cases"
    tumours = 0
    for index in range(12):
        image, labels = source[index]
        phantom = patient(index // 6)
        liver, tumour = (phantom.mask(name)[index % 6] for name in ("liver", "liver_tumor"))
        np.testing.assert_array_equal(labels.numpy(), np.where(tumour, 2, liver))
        hounsfield = np.clip(phantom.volume.array[index % 6], -250, 300)
        np.testing.assert_allclose(image[0].numpy(), (hounsfield - 50) / 100, atol=2e-3)
        tumours += int((labels == 2).sum())
    assert tumours > 0


@pytest.mark.parametrize(
    ("data_set", "sentence"),
    [
        ({"structures": {"liver": (5, 7), "x": (1,)}}, "here has no labels of liver_tumor, but a softmax"),
        ({"structures": {"liver": (5, 7), "liver_tumor": (7,)}}, r"2 faults .*\n.*label values unknown  1;"),
        ({"ignore": (1,)}, "here has voxels without labels"),
        ({"task": "spleen"}, "two has no labelled training case for the task liver"),
    ],
)
def test_a_collection_that_leaves_pixels_unknown_is_refused(
    tmp_path: Path, data_set: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        train_slice_bank(config_of_collection(tmp_path, **data_set))
    assert not (tmp_path / "prepared").exists()


def test_a_run_does_without_validation_if_only_other_tasks_have_cases_for_it(tmp_path: Path) -> None:
    config = config_of_collection(tmp_path)
    collection = read_collection(tmp_path / "collection.json")
    *cases, other = collection.cases
    cases.append(dataclasses.replace(other, split="validation"))
    write_collection(tmp_path / "collection.json", dataclasses.replace(collection, cases=tuple(cases)))
    assert open_validation_slices(config, slice_bank_manifest(config)) is None


def test_a_slice_that_cannot_be_read_is_one_sentence_from_a_data_worker(tmp_path: Path) -> None:
    config = dataclasses.replace(config_of_collection(tmp_path), batch_size=4, workers=1)
    prepare_slices(config, slice_bank_manifest(config))
    source = open_slices(config, slice_bank_manifest(config))
    (second,) = (tmp_path / "prepared").glob("*/case-1-*/image.b2nd")
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(
        InputError, match=r"^\S*image\.b2nd cannot be read .*; delete its folder and start again\.$"
    ):
        list(load_batches(source, config, 0, 3))


# Training


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a whole run."""
    return train_slice_bank(tiny_config(tmp_path_factory.mktemp("run"), validate_every=5))


def filled(row: dict[str, str]) -> set[str]:
    """Columns of a step beside those of every run."""
    return {name for name, value in row.items() if value and ("/" in name or name == "right")}


def test_a_run_from_end_to_end(finished: Path) -> None:
    log = read_rows(finished.parent / "log.csv")
    assert [row["step"] for row in log] == [str(step) for step in range(1, 11)]
    choices = {"right", "choice/skip", "choice/A", "choice/B"}
    losses = [{"loss/A", "loss/B"}] * 4 + [{"loss/B"}] * 2
    assert [filled(row) for row in log] == [*losses, *[choices] * 4]

    model = load_model(finished)
    assert isinstance(model.network, MedDANet)
    assert model.network.bank.options == ("skip", "A", "B")
    assert model.manifest.inference.patch_size == (1, 32, 32)
    phantom = make_phantom(7, (24.0, 12.0, 12.0), (8, 32, 36), None, {})
    segmentation = segment(phantom.volume, model, device="cpu")
    assert segmentation.keys() == [("liver", "liver"), ("liver", "liver_tumor")]
    assert segmentation.shape == (8, 32, 36)


def test_candidates_and_bank_are_validated(finished: Path) -> None:
    """The last figures are those of the last checkpoint, on slices of other patients."""
    config = tiny_config(finished.parent)
    rows = read_rows(finished.parent / "validation.csv")
    assert [row["step"] for row in rows] == ["5"] * 3 + ["10"] * 3  # the slices show no tumour
    slices = open_validation_slices(config, slice_bank_manifest(config))
    assert slices is not None
    assert len(slices) == 8
    run = tiny_run(config)
    run.resume(finished.parent / "checkpoint.pt")
    expected = compare_with_candidates(run.network, slices, config, TASK["structures"])
    found = {(row["task"], row["structure"]): float(row["dice"]) for row in rows[3:]}
    assert found == {
        (f"liver, {name}", structure): dice
        for name, row in expected.items()
        for structure, dice in row.dice.items()
    }
    assert any(0 < dice < 1 for dice in found.values())
    report = (finished.parent / "report.md").read_text(encoding="utf-8")
    assert "| liver, bank | liver |" in report
    assert "Dice on 8 slices of synthetic patients." in report
    assert "| steps | 10 of 8 slices |" in report
    log = [float(row["loss"]) for row in read_rows(finished.parent / "log.csv")]
    assert f"| loss of the bank in the last tenth | {log[5]:.4f} |" in report
    assert f"| loss of the decision network in the first tenth | {log[6]:.4f} |" in report


def weights_of(run: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which parts of the bank differ: "networks.0", "networks.1", "decision_network"."""
    names = (name.removeprefix("bank.") for name in after if not torch.equal(before[name], after[name]))
    return {
        ".".join(name.split(".")[:2]) if name.startswith("networks") else name.split(".")[0] for name in names
    }


def test_members_leave_when_told_and_stay_as_they_are(tmp_path: Path) -> None:
    run = tiny_run(tiny_config(tmp_path))
    torch.manual_seed(0)
    batch = Slice(torch.randn(4, 1, 32, 32), torch.randint(3, (4, 32, 32)))
    for step, expected in ((2, {"networks.0", "networks.1"}), (4, {"networks.1"}), (6, {"decision_network"})):
        run.step = step
        before = weights_of(run)
        run.take_step(batch)
        assert changed(before, weights_of(run)) == expected


def test_slices_without_foreground_shall_be_skipped(tmp_path: Path) -> None:
    run = tiny_run(tiny_config(tmp_path))
    torch.manual_seed(0)
    labels = torch.zeros(10, 32, 32, dtype=torch.int64)
    labels[6:, 10:20, 10:20] = 1
    run.step = 6
    figures = run.take_step(Slice(torch.randn(10, 1, 32, 32), labels)).figures
    assert figures["choice/skip"] == pytest.approx(0.6)
    assert sum(figures[f"choice/{option}"] for option in ("skip", "A", "B")) == pytest.approx(1)


def test_the_decision_network_learns_to_skip(tmp_path: Path) -> None:
    """Bright slices have the structure, dark ones nothing."""
    run = tiny_run(tiny_config(tmp_path, decision_epochs=20, warm_up_epochs=0))
    torch.manual_seed(0)
    bright = torch.arange(8) % 2
    labels = torch.zeros(8, 32, 32, dtype=torch.int64)
    labels[:, 8:24, 8:24] = bright[:, None, None]
    random = torch.Generator().manual_seed(0)
    run.step = 6
    for _ in range(15):
        image = 0.1 * torch.randn(8, 1, 32, 32, generator=random) + bright[:, None, None, None]
        figures = run.take_step(Slice(image, labels)).figures
    assert figures["right"] == 1.0


def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path, finished: Path) -> None:
    """Interrupted in the bank's part after step 4, and in that of the decision network after step 8."""

    class Failing:
        """Slices that end after some, as a killed run would."""

        def __init__(self, left: float) -> None:
            self.slices = phantom_slices(tiny_config(tmp_path))
            self.left = left

        def __len__(self) -> int:
            return len(self.slices)

        def __getitem__(self, index: int) -> Slice:
            self.left -= 1
            if self.left < 0:
                raise InputError("stop here")
            return self.slices[index]

    for steps in (4, 5):
        with pytest.raises(InputError, match="stop here"):
            train_slice_bank(tiny_config(tmp_path), Failing(8 * steps))
    package = train_slice_bank(tiny_config(tmp_path), Failing(math.inf))
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (package, finished)]
    assert weights[0] == weights[1]
    logs = [read_rows(folder / "log.csv") for folder in (tmp_path, finished.parent)]
    for log in logs:
        assert [row.pop("seconds") and row.pop("waited") and row["step"] for row in log] == [
            str(step) for step in range(1, 11)
        ]
    assert logs[0] == logs[1]


def test_a_run_is_not_continued_with_other_settings(finished: Path) -> None:
    with pytest.raises(InputError, match=r"run with alpha 0\.001, not 0\.01; choose another output folder"):
        train_slice_bank(tiny_config(finished.parent, alpha=0.01))


def test_the_bank_is_compared_with_its_candidates(tmp_path: Path, finished: Path) -> None:
    config = tiny_config(tmp_path)
    network = load_model(finished).network
    assert isinstance(network, MedDANet)
    source = phantom_slices(config, seed=5)
    rows = compare_with_candidates(network, source, config, TASK["structures"])
    slices = [crop(source[i], 32, config.air) for i in range(16)]
    image, labels = (torch.stack(parts) for parts in zip(*slices, strict=True))
    with torch.inference_mode():
        scores, report = network.bank(image)
        alone = network.bank.networks[1](image).argmax(dim=1).numpy() == 1
    assert rows["bank"].ratios == report.ratios
    assert rows["bank"].multiply_adds == pytest.approx(report.mean_slice_flops / 2e9, abs=1e-6)
    assert rows["bank"].dice["liver"] == pytest.approx(
        dice(scores.argmax(dim=1).numpy() == 1, labels.numpy() == 1), abs=1e-4
    )
    assert rows["B"].dice["liver"] == pytest.approx(dice(alone, labels.numpy() == 1), abs=1e-4)
    present = {name for name, value in TASK["structures"].items() if (labels == value).any()}
    assert all(row.dice.keys() == present for row in rows.values())
    assert rows["A"].multiply_adds == pytest.approx(
        (network.bank.flops[1] - network.bank.flops[0]) / 2e9, abs=1e-6
    )


def test_the_comparison_of_a_run_is_printed(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"output": str(finished.parent), **VALUES}))
    assert compare([str(path), "--phantoms", "1"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["A", "B", "bank"]
    path.write_text(json.dumps({"output": str(tmp_path), **VALUES}))
    assert compare([str(path)]) == 2


def test_learning_rates_warm_up_and_decay_with_power_0_9(tmp_path: Path) -> None:
    bank, decision = tiny_config(tmp_path, decision_epochs=10).phases(10)
    assert (bank.iterations, decision.iterations) == (30, 100)
    assert learning_rate(bank, 0) == pytest.approx(0.01 / 11)
    assert learning_rate(bank, 15) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(decision, 50) == pytest.approx(0.01 * 0.5**0.9)


# Configuration


def test_the_defaults_are_the_paper_s(tmp_path: Path) -> None:
    config = from_json(
        SliceBankConfig, {key: VALUES[key] for key in ("package", "preprocessing")} | {"output": "x"}
    )
    assert [candidate.epochs for candidate in config.candidates] == [300, 300, 400, 400]
    assert (config.bank_epochs, config.decision_epochs, config.batch_size) == (400, 50, 64)
    assert (config.bank_learning_rate, config.decision_learning_rate) == (1e-4, 0.01)
    assert (config.weight_decay, config.alpha, config.input_size) == (1e-5, 0.001, 128)


def test_the_configuration_in_the_package_is_valid() -> None:
    import PartialSegLib.training

    path = Path(PartialSegLib.training.__file__).parent / "configs" / "med-danet.json"
    manifest = slice_bank_manifest(read_slice_bank_config(path))
    assert manifest.network.architecture == "MedDANet"
    assert manifest.inference.activation == "softmax"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": []}, "candidates: expected at least one"),
        ({"alpha": 2}, "alpha: expected a weight from 0 to 1, got 2"),
        ({"mirror_axes": [2]}, "mirror_axes: expected some of 0"),
        ({"mirror_axes": [0, 0]}, r"mirror_axes: expected some of 0 .* each once, got \[0, 0\]"),
        ({"intensity_shift": -1}, "intensity_shift: expected 0 or more, got -1"),
        ({"cross_entropy_weight": -1}, "cross_entropy_weight: expected 0 or more, got -1"),
        ({"skip_weight": -1}, "skip_weight: expected 0 or more, got -1"),
        ({"seed": 2**64}, "seed: expected less than"),
        ({"phantoms": {"count": 0}}, "phantoms.count: expected 1 or more, got 0"),
        ({"phantoms": {"shape": [0, 32, 32]}}, r"phantoms.shape: expected voxels above 0, got \[0, 32, 32\]"),
        (
            {"candidates": [{"name": "A", "architecture": "UNet2d", "weight": -1}]},
            r"\[0\].weight: expected 0",
        ),
        ({"batch_size": 1}, "batch_size: expected 2 or more"),
        ({"learning_rate": 1}, "learning_rate: unknown field"),
        ({"candidates": [{"name": "A", "architecture": "UNet2d", "epochs": 0}]}, r"\[0\].epochs: expected 1"),
        ({"candidates": [{"name": "A", "architecture": "VNet"}]}, "architecture of A is 'VNet'"),
        (
            {"package": {**VALUES["package"], "tasks": [{"name": "lungs", "structures": {"heart": 1}}]}},
            "synthetic patients have no heart",
        ),
        (
            {"package": {**VALUES["package"], "tasks": [{"name": "liver", "structures": {"liver": 0}}]}},
            "channel 0 is background",
        ),
        (
            {"package": {**VALUES["package"], "tasks": [TASK, {**TASK, "name": "2"}]}},
            "expected one task, got 2",
        ),
    ],
)
def test_what_is_wrong_with_a_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"output": str(tmp_path / "run"), **VALUES, **changes}))
    assert main([str(path)]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.json")]) == 2
    assert capsys.readouterr().err.startswith("No training configuration")
    assert main(["med-danet", f"output={tmp_path / 'run'}", "--device", "cpu", "batch_size=0"]) == 2
    assert "batch_size: expected 2 or more slices, got 0" in capsys.readouterr().err
