"""The step that keeps the largest component of several structures taken as one, on the grid of the image."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bright_model import bright_model
from coarse_session import make_volume, relying
from nnunet_cross_validation import (
    BOTH,
    LIVER,
    ORDER,
    REGIONS,
    SOFTMAX_LABELS,
    TUMOR,
    described,
    step_of,
    write_results,
)
from nnunet_folder import plans_of, write_model_folder
from parity_data import official_weights
from scipy import ndimage

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.inference.score_keeping import winners_are_enough
from PartialSegLib.manifest import PostprocessingStep, Task
from PartialSegLib.model import Model, load_model
from PartialSegLib.processing.postprocessing import keep_largest_of_unions
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

SOFTMAX = Task("liver", {"liver": 1, "liver_tumor": 2})
ANISOTROPIC = Volume(
    np.random.default_rng(0).integers(-100, 300, (6, 38, 32)).astype(np.int16),
    np.diag([2.0, 2.0, 7.0, 1.0])[:, [2, 1, 0, 3]],
)


def in_box(start: int, mask: Any) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    array = np.array(mask, bool)[None, None]
    return (slice(0, 1), slice(0, 1), slice(start, start + array.shape[2])), array


def test_equally_large_components_all_stay_and_nothing_is_left_of_nothing() -> None:
    nothing = (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), bool)
    masks = {"liver": in_box(2, [1, 1, 0, 0]), "liver_tumor": in_box(4, [0, 1, 1, 0, 1]), "spleen": nothing}
    for step, tumor in (
        (BOTH, [0, 1, 1, 0, 0]),
        (TUMOR, [0, 1, 1, 0, 0]),
        (LIVER, [0, 1, 1, 0, 1]),
        (step_of("spleen"), [0, 1, 1, 0, 1]),
    ):
        cleaned = keep_largest_of_unions(masks, [step])
        assert cleaned["liver"][1].ravel().tolist() == [1, 1, 0, 0]
        assert cleaned["liver_tumor"][1].ravel().tolist() == tumor
    assert masks["liver_tumor"][1].sum() == 3


@pytest.mark.parametrize(("connectivity", "left"), [(6, 0b0011), (18, 0b0111), (26, 0b1111)])
def test_structures_hang_together_by_faces_edges_or_corners(connectivity: int, left: int) -> None:
    """Voxels one after the other: a face, an edge and a corner apart; the first two are of all structures."""
    voxels = [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3)]
    whole = slice(0, 4), slice(0, 4), slice(0, 4)
    masks = {name: (whole, np.zeros((4, 4, 4), bool)) for name in ("liver", "liver_tumor", "spleen")}
    for number, voxel in enumerate(voxels):
        masks["liver"][1][voxel] = number < 2
        masks["liver_tumor"][1][voxel] = True
        masks["spleen"][1][voxel] = True
    cleaned = keep_largest_of_unions(masks, [step_of("liver", "liver_tumor", connectivity=connectivity)])
    for name in ("liver_tumor", "spleen"):  # what is removed is background, for all structures
        assert [cleaned[name][1][voxel] for voxel in voxels] == [bool(left >> bit & 1) for bit in range(4)]


@pytest.mark.parametrize("effort", [0, 0.3])
def test_coarse_masks_are_cleaned_with_the_others(effort: float) -> None:
    image = make_volume()
    image.array[:2, :2, :2] = 320  # hangs together with nothing

    def predict(*steps: PostprocessingStep) -> dict[str, np.ndarray]:
        task = dataclasses.replace(SOFTMAX, postprocessing=steps)
        fine = bright_model(task, spacing=4, thresholds=(60, 200), activation="softmax", overlap=0)
        coarse = bright_model(SOFTMAX, thresholds=(100, 250), activation="softmax")
        found = relying(fine, image, effort, coarse).predict("liver")
        return {structure: found[task, structure] for task, structure in found}

    raw = predict()
    assert sum(mask[:3, :3, :3].sum() for mask in raw.values()) > 0
    for structure, mask in predict(BOTH).items():
        raw[structure][:3, :3, :3] = False
        np.testing.assert_array_equal(mask, raw[structure])


def test_the_memory_for_all_masks_at_once_is_foreseen() -> None:
    def estimate(*steps: PostprocessingStep) -> int:
        model = bright_model(Task("liver", {"liver": 0, "liver_tumor": 1}, "", steps))
        return InferenceSession(model, "cpu").estimate_memory(ANISOTROPIC).masks

    assert estimate(BOTH) > estimate()


def test_steps_that_no_manifest_can_mean() -> None:
    def task(*steps: PostprocessingStep) -> Callable[[], Task]:
        return lambda: Task("liver", {"liver": 0, "liver_tumor": 1}, "", steps)

    largest = PostprocessingStep("keep_largest", "liver", count=1)
    assert task(largest, BOTH)().network_steps == (largest,)
    for faulty, sentence in (
        (task(BOTH, largest), "postprocessing: a step on the network's grid follows one on the image's grid"),
        (lambda: PostprocessingStep("keep_largest_of_union", "liver"), "others: missing; the step"),
        (lambda: step_of("liver", "liver"), "others: expected each structure once"),
        (lambda: dataclasses.replace(largest, others=()), "others: the step keep_largest does not use it"),
        (lambda: dataclasses.replace(largest, measure="mean"), "measure: the step keep_largest does not use"),
        (
            lambda: task(step_of("liver", "lung"))().check_structures(["liver", "liver_tumor"]),
            "others: lung is",
        ),
    ):
        with pytest.raises(InputError, match=sentence):
            faulty()


def cleaned_by_nnunet(label_map: np.ndarray, unions: Sequence[Sequence[int]]) -> np.ndarray:
    """What nnU-Net's function makes of a label map, by its description: the largest components stay."""
    label_map = label_map.copy()
    for union in unions:
        before = label_map.copy()
        mask = np.isin(label_map, union)
        components, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = ndimage.sum_labels(mask, components, range(1, count + 1))
        label_map[mask & ~np.isin(components, 1 + np.flatnonzero(sizes == sizes.max()))] = 0
        assert (label_map != before).any()
    return label_map


def masks_of(model: Model, **options: Any) -> dict[str, np.ndarray]:
    session = InferenceSession(model, "cpu", precision="float32")
    session.set_image(ANISOTROPIC)
    found = session.predict(**options)
    return {structure: found[task, structure] for task, structure in found}


def with_steps(model: Model, *steps: PostprocessingStep) -> Model:
    task = dataclasses.replace(model.manifest.tasks[0], postprocessing=steps)
    return dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, tasks=(task,)))


@pytest.mark.parametrize(
    ("labels", "dataset", "biases", "unions"),
    [
        (SOFTMAX_LABELS, {}, (1.2, 0, 0.6), [[1, 2], [2]]),
        (REGIONS, ORDER, (-1, -1, -1), [[1, 2, 3], [2, 3], [3]]),
    ],
    ids=["softmax", "regions"],
)
def test_a_segmentation_is_cleaned_as_nnunet_cleans_its_label_map(
    tmp_path: Path,
    labels: dict[str, Any],
    dataset: dict[str, Any],
    biases: tuple[float, float, float],
    unions: list[list[int]],
) -> None:
    """On the image's own grid; what a step takes from a tumour is missing in the organ around it as well."""
    weights = official_weights("nnunet_v2_plain")
    weights["decoder.seg_layers.2.bias"] += torch.tensor(biases)  # more background, so more components
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, labels)
    described_labels = json.loads((tmp_path / "model" / "dataset.json").read_text())
    (tmp_path / "model" / "dataset.json").write_text(json.dumps({**described_labels, **dataset}))
    write_results(tmp_path / "model", "0", json=described(*map(tuple, unions)))
    import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    imported = load_model(tmp_path / "package")
    assert len(imported.manifest.tasks[0].postprocessing) == len(unions)

    raw = masks_of(with_steps(imported))
    label_map = np.zeros(ANISOTROPIC.array.shape, np.uint8)
    for value, mask in enumerate(raw.values(), start=1):
        label_map[mask] = value
    kept = cleaned_by_nnunet(label_map, unions) != 0

    found = masks_of(imported)
    for structure, mask in raw.items():
        np.testing.assert_array_equal(found[structure], mask & kept)
    alone = masks_of(imported, structures="liver_tumor")
    assert list(alone) == ["liver_tumor"]
    np.testing.assert_array_equal(alone["liver_tumor"], found["liver_tumor"])


def test_a_structure_that_no_step_names_may_be_asked_for_alone() -> None:
    task = Task("liver", {"liver": 0, "liver_tumor": 1}, "", (LIVER,))
    session = InferenceSession(bright_model(task), "cpu", precision="float32")
    session.set_image(make_volume())
    found = session.predict("liver", structures="liver_tumor")
    assert list(found) == [("liver", "liver_tumor")]


def test_only_a_clean_up_on_the_networks_grid_needs_scores() -> None:
    inference = bright_model(SOFTMAX, activation="softmax").manifest.inference
    largest = PostprocessingStep("keep_largest", "liver", count=1)
    for steps, enough in (((), True), ((BOTH,), True), ((largest,), False), ((largest, BOTH), False)):
        task = dataclasses.replace(SOFTMAX, postprocessing=steps)
        assert winners_are_enough(inference, task) == enough
