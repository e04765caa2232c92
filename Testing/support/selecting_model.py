"""A model whose decision network goes by brightness, and an image whose slices say what they are."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from PartialSegLib.manifest import (
    DecisionSpec,
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
from PartialSegLib.volume import Volume

PATCH = (16, 16, 16)
ARGUMENTS = {"num_tasks": 3, "widths": (16, 16, 16), "depths": (1, 1, 1)}
TASKS = (
    Task("liver", {"liver": 0, "liver_tumor": 1}),
    Task("kidney", {"kidney": 0}, "", (PostprocessingStep("keep_largest", "kidney", count=1),)),
    Task("colon", {"colon_tumor": 1}),
)
HOUNSFIELD = {"liver": 100, "kidney": 200}  # of the whole slice; no slice is for the colon
SLICES = {"liver": slice(20, 26), "kidney": slice(43, 47)}
SHAPE = (70, 16, 14)
SPEC = DecisionSpec((-1, 0, 1), (0.5, 0.5, 0.5), input_size=32, dilation=1)


class Brightness(nn.Module):
    """Scores near 1 where the mean of the judged slice is that of the task's slices."""

    def forward(self, slices: Tensor) -> Tensor:
        means = slices[:, 1].mean(dim=(1, 2))
        wanted = torch.tensor([HOUNSFIELD["liver"], HOUNSFIELD["kidney"], 1e6]) / 325
        return 5 - 50 * (means[:, None] - wanted).abs()


def make_model(orientation: str = "SPL", **inference: object) -> Model:
    torch.manual_seed(0)
    network = DoDNet(**ARGUMENTS).eval().requires_grad_(False)
    network.controller.weight.mul_(20)
    manifest = Manifest(
        name="selecting",
        version="1",
        title="Random weights",
        license="Apache-2.0",
        network=NetworkSpec("DoDNet", ARGUMENTS),
        preprocessing=Preprocessing(orientation, (4, 4, 4), (-325, 325), divide=325),
        inference=Inference(PATCH, **{"overlap": 0.5, "mirror_axes": (0,), **inference}),
        tasks=TASKS,
        decision=SPEC,
        files={"weights.safetensors": FileEntry("0" * 64, 0)},
    )
    return Model(manifest, network, Path("selecting"), Brightness())


def without_decision(model: Model) -> Model:
    return dataclasses.replace(
        model, manifest=dataclasses.replace(model.manifest, decision=None), decision=None
    )


def make_volume(empty: bool = False) -> Volume:
    """SHAPE voxels of 4 mm, on the network's grid: noise, a few slices of which have a task's brightness."""
    array = np.random.default_rng(0).normal(0, 60, SHAPE)
    array -= array.mean(axis=(1, 2), keepdims=True)
    for task, part in SLICES.items():
        array[part] += 0 if empty else HOUNSFIELD[task]
    affine = np.array([[0, 0, -4.0, 50], [0, -4, 0, -10], [4, 0, 0, 100], [0, 0, 0, 1]])
    return Volume(array.astype(np.float32), affine)


def kept_slices(task: str) -> np.ndarray:
    """The slices that the decision network keeps for a task: one more on either side."""
    kept = np.zeros(SHAPE[0], bool)
    if task in SLICES:
        kept[SLICES[task].start - 1 : SLICES[task].stop + 1] = True
    return kept
