"""Slices with the tasks that need them, from whole trunks: what the decision network learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...manifest import Manifest
from ...patches.slice_selection import axial_axis, reduce_slices
from ...phantom import (
    LESION_KINDS,
    PHASES,
    add_lesions,
    make_phantom,
    make_tissues,
    random_appearance,
    render,
    structure_mask,
    voxel_axes,
)
from ...processing.preprocessing import PreparedImage, preprocess
from ...volume import Volume
from ..cases import deform_atlas
from ..held_out import FIRST_SEED, SHAPE, SPACING

TRUNK_MM = (640.0, 400.0, 460.0)  # (z, y, x): from the hips to the shoulders
_FINEST = 3.0  # mm
_STRONG = 3.0


@dataclass(frozen=True, eq=False)
class TrunkSlices:
    """The axial slices of one image, on the network's grid.

    Attributes:
        squares: (S, size, size) float16, as the decision network sees them.
        needed: (S, T) bool; whether a task has foreground of any of its structures there.
    """

    squares: Tensor
    needed: np.ndarray


def trunk_slices(
    manifest: Manifest,
    size: int,
    seed: tuple[int, int],
    lesion_probability: float,
    atlas: np.ndarray | None = None,
    strong_share: float = 0.0,
) -> TrunkSlices:
    """Slices of a random trunk, a pure function of the arguments.

    Args:
        manifest: of the model, for spacing, preprocessing and tasks.
        size: height and width of the squares in pixels.
        seed: of everything.
        lesion_probability: for each kind of lesion.
        atlas: deform this one (see `training.atlas`); None draws a phantom.
        strong_share: probability of three times the usual spread of HU, as in a quarter of `SyntheticCases`.
    """
    rng = np.random.default_rng(seed)
    spacing = _voxel_size(manifest)
    shape = (
        round(TRUNK_MM[0] / spacing[0]),
        round(TRUNK_MM[1] / spacing[1]),
        round(TRUNK_MM[2] / spacing[2]),
    )
    axes = voxel_axes(spacing, shape)
    if atlas is not None:
        tissues = deform_atlas(atlas, axes, rng)
    else:
        tissues = make_tissues(int(rng.integers(2**32)), spacing, shape)
    add_lesions(tissues, spacing, rng, dict.fromkeys(LESION_KINDS, lesion_probability))
    appearance = random_appearance(rng, None, _STRONG if rng.random() >= 1 - strong_share else 1.0)
    image = np.round(render(tissues, axes, rng, appearance)).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1
    return reduced(Volume(image, affine), tissues, manifest, size)


def held_out_slices(manifest: Manifest, size: int, number: int) -> TrunkSlices:
    """Slices of a phantom of `training.held_out`, which nothing was trained or calibrated on."""
    lesions = dict.fromkeys(LESION_KINDS, 0.5)
    phantom = make_phantom(FIRST_SEED + number, SPACING, SHAPE, PHASES[number % len(PHASES)], lesions)
    return reduced(phantom.volume, phantom.tissues, manifest, size)


def reduced(volume: Volume, tissues: np.ndarray, manifest: Manifest, size: int) -> TrunkSlices:
    """Prepare an image as a session does, and reduce its slices.

    Args:
        volume: an image whose first axis runs along the patient.
        tissues: (z, y, x), of its voxels.
        manifest: of the model.
        size: height and width of the squares in pixels.
    """
    settings = manifest.preprocessing
    prepared = preprocess(volume, settings, torch.device("cpu"), settings.crop_to_body)
    squares = reduce_slices(prepared.tensor, axial_axis(settings), size).half()
    masks = [[structure_mask(tissues, name) for name in task.structures] for task in manifest.tasks]
    found = np.stack([np.logical_or.reduce(parts).any(axis=(1, 2)) for parts in masks], axis=1)
    return TrunkSlices(squares, slices_with(found, prepared))


def slices_with(found: np.ndarray, prepared: PreparedImage) -> np.ndarray:
    """The network's slices (S, …) that hold the centre of an input slice (D, …) with foreground."""
    along = prepared.axes[0]
    crop = prepared.crop[along.network_axis]
    centers = (np.arange(along.input_size) + 0.5) * along.network_size / along.input_size
    indices = np.minimum(centers.astype(int), along.network_size - 1)
    result = np.zeros((along.network_size, *found.shape[1:]), bool)
    np.logical_or.at(result, along.network_size - 1 - indices if along.flipped else indices, found)
    return result[crop]


def _voxel_size(manifest: Manifest) -> tuple[float, float, float]:
    """Spacing of the network's grid in the phantom's order: along the patient, to the front, to the right.

    No finer than 3 mm, which takes long to draw and is averaged away.
    """
    settings = manifest.preprocessing
    axis_of = {"LR": 2, "PA": 1, "IS": 0}
    ordered = [0.0, 0.0, 0.0]
    for letter, step in zip(settings.orientation, settings.spacing, strict=True):
        ordered[next(axis for letters, axis in axis_of.items() if letter in letters)] = max(step, _FINEST)
    return ordered[0], ordered[1], ordered[2]
