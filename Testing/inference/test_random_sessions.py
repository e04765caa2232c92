"""Sessions with random manifests and images against the same in a plain loop: no cache, slabs or float16.

Each seed draws the order and direction of axes, spacings, obliqueness, sizes down to one voxel, and every
choice of `Preprocessing` and `Inference`; results may differ only where the plain scores leave it open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from PartialSegLib.inference import score_keeping
from PartialSegLib.manifest import (
    FileEntry,
    Inference,
    Manifest,
    NetworkSpec,
    PostprocessingStep,
    Preprocessing,
    Task,
)
from PartialSegLib.model import Model
from PartialSegLib.networks import DoDNet
from PartialSegLib.patches import packed_scores
from PartialSegLib.patches.sliding_window import missing_voxels, patch_weight, plan_patches
from PartialSegLib.processing.preprocessing import PreparedImage, preprocess
from PartialSegLib.segmentation import Key, Segmentation
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

CPU = torch.device("cpu")
SOFTMAX_TASKS = (Task("all", {"liver": 1, "liver_tumor": 2, "spleen": 3}),)
SIGMOID_TASKS = (
    Task("liver", {"liver": 0, "liver_tumor": 1}),
    Task("colon", {"colon_tumor": 1}),
    Task("spleen", {"spleen": 0}),
)
MOST_MM = 30
OPEN_LOGITS, OPEN_SCORES = 0.005, 0.02  # relative to the largest logit; features are rounded to float16


def random_volume(rng: np.random.Generator) -> Volume:
    """Blocks of tissue with noise, in any orientation, sometimes oblique."""
    spacing = rng.choice([1, 2.5, 4, 10], 3)
    shape = rng.integers(1, np.minimum(MOST_MM / spacing, 28) + 1)
    directions = np.eye(3)[rng.permutation(3)].T * rng.choice([-1, 1], 3) * spacing
    affine = np.eye(4)
    is_oblique = rng.random() < 0.4
    affine[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * 0.25 * is_oblique).as_matrix() @ directions
    affine[:3, 3] = rng.normal(size=3) * 50
    blocks = np.kron(rng.integers(-300, 300, shape // 4 + 1), np.ones((4, 4, 4)))
    array = blocks[tuple(map(slice, shape))] + rng.integers(-60, 60, shape)
    return Volume(array.astype(rng.choice([np.int16, np.float32])), affine)


def random_model(rng: np.random.Generator, cleans_up: bool) -> Model:
    """A small DoDNet whose manifest has any of the choices that packages have."""
    is_softmax = rng.random() < 0.5
    tasks = SOFTMAX_TASKS if is_softmax else SIGMOID_TASKS
    if cleans_up:
        steps = (PostprocessingStep("keep_largest", "liver", count=1),)
        tasks = (dataclasses.replace(tasks[0], postprocessing=steps), *tasks[1:])
    mirrors_images = rng.random() < 0.3
    inference = Inference(
        patch_size=tuple(rng.choice([8, 16], 3).tolist()),
        overlap=rng.choice([0, 0.25, 0.5]).item(),
        activation="softmax" if is_softmax else "sigmoid",
        blend=one_of(rng, "probabilities", "logits"),
        mirror_axes=tuple(np.flatnonzero(rng.random(3) < 0.3).tolist()),
        patch_positions=one_of(rng, "stride", "even"),
        padding=one_of(rng, "end", "both sides"),
        weighting="constant" if mirrors_images else one_of(rng, "gaussian", "constant"),
        mirroring="images" if mirrors_images else "patches",
    )
    preprocessing = Preprocessing(
        orientation="".join(one_of(rng, *("RL", "AP", "SI")[axis]) for axis in rng.permutation(3)),
        spacing=tuple(rng.choice([2.0, 3.0, 4.0, 9.0], 3).tolist()),
        clip=(-325, 325),
        divide=325,
        resampling=one_of(rng, "linear", "trilinear", "cubic"),
        grid=one_of(rng, "rounded", "truncated"),
        clip_first=bool(rng.random() < 0.5),
        separate_above=one_of(rng, None, 3.0),
        pad_value=one_of(rng, 0.0, -300.0),
    )
    arguments = {
        "widths": (16, 16, 16),
        "depths": (1, 1, 1),
        "num_tasks": len(tasks),
        "num_structures": 4 if is_softmax else 2,
    }
    torch.manual_seed(int(rng.integers(1 << 30)))
    network = DoDNet(**arguments).eval().requires_grad_(False)
    network.controller.weight.mul_(20)
    manifest = Manifest(
        name="tiny",
        version="1",
        title="A tiny network",
        license="Apache-2.0",
        network=NetworkSpec("DoDNet", arguments),
        preprocessing=preprocessing,
        inference=inference,
        tasks=tasks,
        files={"weights.safetensors": FileEntry("0" * 64, 0)},
    )
    return Model(manifest, network, Path("tiny"))


def one_of(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def flips_of(inference: Inference, mirror: bool) -> list[tuple[int, ...]]:
    axes = inference.mirror_axes if mirror else ()
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


def plain_scores(model: Model, prepared: PreparedImage, number: int, mirror: bool) -> Tensor:
    """Blended scores (channels, D, H, W) of a task on the network's grid."""
    inference, shape = model.manifest.inference, prepared.tensor.shape
    missing = missing_voxels(shape, inference.patch_size)
    before = [count // 2 if inference.padding == "both sides" else 0 for count in missing]
    place = tuple(slice(start, start + size) for start, size in zip(before, shape, strict=True))
    image = torch.full([sum(pair) for pair in zip(shape, missing, strict=True)], prepared.background)
    image[place] = prepared.tensor
    flips = flips_of(inference, mirror)
    if inference.mirroring == "patches":
        return plain_pass(model, image, number, flips)[:, *place]
    passes = [
        plain_pass(model, image.flip(flip), number, [()]).flip([axis + 1 for axis in flip]) for flip in flips
    ]
    return torch.stack(passes).mean(dim=0)[:, *place]


def plain_pass(model: Model, image: Tensor, number: int, flips: list[tuple[int, ...]]) -> Tensor:
    inference = model.manifest.inference
    activate = {"softmax": lambda logits: logits.softmax(0), "sigmoid": torch.sigmoid}[inference.activation]
    weight = patch_weight(inference.patch_size, inference.weighting)
    sums, weights = torch.zeros(model.network.num_structures, *image.shape), torch.zeros(image.shape)
    where = plan_patches(image.shape, inference.patch_size, inference.overlap, inference.patch_positions)
    for patch in where:
        for flip in flips:
            logits = model.network(image[patch.slices].flip(flip)[None, None], number)[0]
            logits = logits.flip([axis + 1 for axis in flip])
            scores = activate(logits) if inference.blend == "probabilities" else logits
            sums[:, *patch.slices] += scores * weight / len(flips)
        weights[patch.slices] += weight
    return sums / weights


def plain_masks(model: Model, volume: Volume, mirror: bool) -> Iterator[tuple[Key, np.ndarray, np.ndarray]]:
    """Each key with its mask, and where the mask is certain."""
    manifest = model.manifest
    prepared = preprocess(volume, manifest.preprocessing, CPU)
    z, y, x = (axis.to_input(CPU) for axis in prepared.axes)
    order = [1 + axis.network_axis for axis in prepared.axes]
    are_logits = manifest.inference.blend == "logits"
    for number, task in enumerate(manifest.tasks):
        scores = plain_scores(model, prepared, number, mirror).permute(0, *order)
        full = torch.einsum("zi,yj,xk,cijk->czyx", z, y, x, scores)
        is_open = OPEN_LOGITS * full.abs().max() if are_logits else OPEN_SCORES
        if manifest.inference.activation == "softmax":
            first, second = full.topk(2, dim=0).values
            masks, margin = (
                full.argmax(dim=0)[None] == torch.arange(len(full))[:, None, None, None],
                first - second,
            )
            margins = margin.expand_as(masks)
        else:
            threshold = 0.0 if are_logits else 0.5
            masks, margins = full > threshold, (full - threshold).abs()
        for structure, channel in task.structures.items():
            yield (task.name, structure), masks[channel].numpy(), (margins[channel] > is_open).numpy()


def assert_same(found: Segmentation, expected: Segmentation) -> None:
    for key in found:
        np.testing.assert_array_equal(found[key], expected[key], str(key))


@pytest.mark.parametrize("seed", range(24))
def test_a_session_equals_the_plain_loop_whatever_its_history(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    cleans_up = seed % 4 == 3
    model, volume = random_model(rng, cleans_up), random_volume(rng)
    mirror = bool(model.manifest.inference.mirror_axes)

    def session_with(cache_bytes: int) -> InferenceSession:
        session = InferenceSession(
            model, "cpu", cache_bytes, mirror=mirror, precision="float32", engine="torch"
        )
        session.set_image(volume, check=False)
        return session

    expected = session_with(0).predict()
    if not cleans_up:
        for key, mask, is_certain in plain_masks(model, volume, mirror):
            np.testing.assert_array_equal(expected[key] & is_certain, mask & is_certain, str(key))
            assert is_certain.any()
    monkeypatch.setattr(score_keeping, "PACKED_ABOVE_BYTES", 0)
    monkeypatch.setattr(packed_scores, "TILE_VOXELS", 2)
    session = session_with(int(rng.choice([1 << 14, 1 << 30])))
    for name in rng.permutation([task.name for task in model.manifest.tasks]).tolist():
        assert_same(session.predict(name), expected)
    task, structure = one_of(rng, *expected.keys())
    assert_same(session.predict(structures=f"{task}/{structure}"), expected)
    session.set_image(Volume(volume.array[::-1].copy(), volume.affine), check=False)
    session.predict(task)
    session.set_image(volume, check=False)
    assert_same(session.predict(), expected)
