"""Partially labelled training cases made on the fly: a synthetic CT patch, and labels of one task each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..manifest import Task
from ..phantom import (
    LESION_KINDS,
    Appearance,
    SmoothField,
    Tissue,
    add_lesions,
    add_small_bowel,
    make_tissues,
    random_appearance,
    render,
    structure_mask,
    voxel_axes,
)
from .atlas import SPACING as ATLAS_SPACING
from .atlas import read_atlas, with_varied_organs
from .config import TrainingConfig
from .label_bits import from_bits, to_bits
from .tissue_head import sample_voxels

STREAMS = {"training": 0, "validation": 1}
"""Of random numbers; keys are (seed, stream, index), never shorter: NumPy fills up with zeros."""


@dataclass(frozen=True)
class Cases:
    """Cases that share one image, each labelled for one task only.

    Attributes:
        image: (C, D, H, W) float32, normalised; one channel for CT, several for MR such as BraTS.
        tasks: (N), the index of each case's task.
        bits: (N, K, B) uint8, what each case has of each channel, see `label_bits`.
        annotated: (N, K) bool; which channels of the task have labels at all.
        voxels: (V) int64, voxels of the flattened image sampled for the auxiliary tissue head.
        tissues: (V) int64, their tissues.
        ignored: (D, H, W) bool, voxels that nobody has labelled; None where all are labelled.
    """

    image: Tensor
    tasks: Tensor
    bits: Tensor
    annotated: Tensor
    voxels: Tensor
    tissues: Tensor
    ignored: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """What each case has of each channel, (N, K, D, H, W) bool."""
        return from_bits(self.bits, self.image.shape[1:])

    def target_of(self, number: int, channels: int, device: torch.device) -> Tensor:
        """What a case has of the first channels, (channels, D, H, W) bool on a device."""
        bits = self.bits[number, :channels].to(device, non_blocking=True)
        return from_bits(bits, self.image.shape[1:])

    def pin_memory(self) -> Cases:
        """A copy that a GPU can read while the processor goes on; `DataLoader` asks for it."""
        parts = {name: part.pin_memory() for name, part in vars(self).items() if part is not None}
        return Cases(**parts)


class SyntheticCases(Dataset[Cases]):
    """Endless cases, a pure function of (seed, split, index): no order depends on workers or on resuming.

    An image is a phantom, or (a share `atlas_share` of the time) the anatomical atlas strongly deformed.

    Args:
        config: of the run, with synthetic data.
        tasks: of the model.
        channels: K, of the network's heads.
        length: number of images.
        split: for which they are; no image of the one is in the other.

    Raises:
        InputError: the configuration has no synthetic data, or a model that does not read one CT.
    """

    def __init__(
        self,
        config: TrainingConfig,
        tasks: tuple[Task, ...],
        channels: int,
        length: int,
        split: Literal["training", "validation"] = "training",
    ) -> None:
        if config.synthetic is None:
            raise InputError("synthetic: the configuration has no synthetic data; add this field.")
        if config.preprocessing.channels is not None:
            raise InputError(
                "preprocessing.channels: synthetic images are CT with one channel; leave this field out, or "
                "train on a collection."
            )
        self.config = config
        self.data = config.synthetic
        self.tasks = tasks
        self.channels = channels
        self.length = length
        self.stream = STREAMS[split]
        self.atlas = read_atlas(self.data.atlas) if self.data.atlas else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Cases:
        """Make the cases of image number `index`."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.stream, index])
        tissues, axes = self._patient(rng)
        spacing, data = config.preprocessing.spacing, self.data
        add_lesions(tissues, spacing, rng, dict.fromkeys(LESION_KINDS, data.lesion_probability))
        strength = 1.0 if rng.random() < 0.75 else 3.0
        appearance = random_appearance(rng, None, strength, data.lesion_contrast, data.organ_unevenness)
        image = render(tissues, axes, rng, as_resampled(appearance, spacing, rng))
        _cut_field_of_view(image, tissues, rng)
        tensor = torch.from_numpy(config.preprocessing.scaled(image).astype(np.float32))
        labels = [task_labels(tissues, task, self.channels) for task in self.tasks]
        chosen = self._choose_tasks([bool(target.any()) for target, _ in labels], rng)
        target, annotated = zip(*(labels[task] for task in chosen), strict=True)
        voxels = np.empty(0, np.int64)
        if config.tissue is not None:
            how = config.tissue.power, config.tissue.lesion_focus
            voxels = sample_voxels(tissues, config.tissue.voxels, rng, *how)
        return Cases(
            tensor[None],
            torch.tensor(chosen),
            to_bits(torch.stack(target)),
            torch.stack(annotated),
            torch.from_numpy(voxels),
            torch.from_numpy(tissues.ravel()[voxels].astype(np.int64)),
        )

    def _choose_tasks(self, has_foreground: list[bool], rng: np.random.Generator) -> list[int]:
        """Tasks for one image; each has foreground with probability 0.8, like DoDNet's crops, else any."""
        left = list(range(len(self.tasks)))
        chosen = []
        for _ in range(min(self.data.cases_per_image, len(left))):
            present = [task for task in left if has_foreground[task]]
            chosen.append(int(rng.choice(present if present and rng.random() < 0.8 else left)))
            left.remove(chosen[-1])
        return chosen

    def _patient(self, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """Tissues of a new patient in the field of view of a patch, and the axes of its voxels."""
        z, y, x = (s * rng.uniform(0.92, 1.08) for s in self.config.preprocessing.spacing)
        spacing, shape = (z, y, x), self.config.patch_size
        if self.atlas is not None and rng.random() < self.data.atlas_share:
            axes = voxel_axes(spacing, shape)
            return deform_atlas(self.atlas, axes, rng), axes
        height = rng.normal(25, 75) if rng.random() < 0.7 else rng.uniform(-300, 320)
        center = (height, rng.normal(0, 15), rng.normal(0, 15))
        seed = int(rng.integers(2**32))
        return make_tissues(seed, spacing, shape, center), voxel_axes(spacing, shape, center)


def as_resampled(
    appearance: Appearance, spacing: tuple[float, float, float], rng: np.random.Generator
) -> Appearance:
    """How a finer scan looks after it was brought to a coarse grid: softer, and with less noise.

    Args:
        appearance: of the scan.
        spacing: of the coarse grid (z, y, x), mm; anti-aliasing averages under a triangle of this width.
        rng: draws how much noise is left; it depends on the scan's own spacing.
    """
    triangle = [size / np.sqrt(6) for size in spacing]  # standard deviation
    z, y, x = (float(np.hypot(own, more)) for own, more in zip(appearance.blur, triangle, strict=True))
    left = rng.uniform(0.2, 1)
    return replace(
        appearance, blur=(z, y, x), noise=left * appearance.noise, noise_grain=left * appearance.noise_grain
    )


def task_labels(tissues: np.ndarray, task: Task, channels: int) -> tuple[Tensor, Tensor]:
    """Target (K, D, H, W) bool and annotated (K) bool of one task on a map of tissues."""
    target = torch.zeros(channels, *tissues.shape, dtype=torch.bool)
    annotated = torch.zeros(channels, dtype=torch.bool)
    for structure, channel in task.structures.items():
        target[channel] = torch.from_numpy(structure_mask(tissues, structure))
        annotated[channel] = True
    return target, annotated


def deform_atlas(atlas: np.ndarray, axes: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A new patient made of the atlas: organs varied, scaled, turned and bent, then bowel and fat put in.

    The atlas has no jejunum; four patients in five get loops of small bowel below and before the pancreas.

    Args:
        atlas: tissues (z, y, x) at the spacing of `training.atlas`.
        axes: voxel centres of the patient along z, y, x, mm.
        rng: random generator.

    Returns:
        Tissues (z, y, x) uint8 on the grid of the axes.
    """
    atlas = with_varied_organs(atlas, rng)
    size = np.array(atlas.shape) * ATLAS_SPACING
    grid = [part.astype(np.float32) for part in np.meshgrid(*axes, indexing="ij")]
    turn = _small_rotation(rng) / (rng.uniform(0.85, 1.15) * rng.uniform(0.88, 1.13, 3))[:, None]
    height = rng.uniform(0.1, 0.85) if rng.random() < 0.4 else rng.normal(0.55, 0.1)
    center = np.array([height, 0.5, 0.5]) * size
    center[1:] += rng.normal(0, 15, 2)
    middle = np.argwhere(atlas[::2, ::2, ::2] == Tissue.PANCREAS).mean(axis=0) * 2 * np.array(ATLAS_SPACING)
    low, high = np.array([a[0] for a in axes]), np.array([a[-1] for a in axes])
    bends = ((70.0, rng.uniform(3, 10)), (32.0, rng.uniform(1, 3.5)))
    index, places = [], []
    for axis in range(3):
        moved = sum(turn[axis, j].astype(np.float32) * grid[j] for j in range(3)) + np.float32(center[axis])
        for bend in bends:
            moved += SmoothField(rng, low, high, *bend)(*axes)
        places.append(moved)
        index.append(np.rint(moved / ATLAS_SPACING[axis] - 0.5).astype(np.int32))
    inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, atlas.shape, strict=True)])
    clipped = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, atlas.shape, strict=True))
    tissues = np.where(inside, atlas[clipped], np.uint8(Tissue.AIR))
    if rng.random() < 0.8:
        _add_small_bowel(tissues, places, middle, rng)
    _put_on_fat(tissues, axes, rng)
    return tissues


def _add_small_bowel(
    tissues: np.ndarray, places: list[np.ndarray], pancreas: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw loops around the pancreas and below it, given where in the atlas every voxel lies, mm."""
    z, y, x = (place.mean(axis=other) for place, other in zip(places, ((1, 2), (0, 2), (0, 1)), strict=True))
    bend = places[2] - x, places[1] - y[:, None], places[0] - z[:, None, None]
    low, high = np.array([-85.0, -15, -175]), np.array([85.0, 60, 15])
    add_small_bowel(tissues, (z, y, x), bend, rng, (low + pancreas[::-1], high + pancreas[::-1]))


def _put_on_fat(tissues: np.ndarray, axes: list[np.ndarray], rng: np.random.Generator) -> None:
    """Cover every slice of the body with subcutaneous fat of random thickness."""
    thickness = float(np.exp(rng.normal(2.7, 0.55)))
    spacing = (axes[1][1] - axes[1][0], axes[2][1] - axes[2][0])
    for row in tissues:
        if row.any():
            distance = ndimage.distance_transform_edt(row == Tissue.AIR, spacing)
            row[(row == Tissue.AIR) & (distance < thickness)] = Tissue.FAT


def _small_rotation(rng: np.random.Generator) -> np.ndarray:
    """The rotation closest to a small random shear."""
    angles = rng.normal(0, 0.07, 3)
    skew = np.array([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]])
    left, _, right = np.linalg.svd(np.eye(3) + skew)
    return left @ right


def _cut_field_of_view(image: np.ndarray, tissues: np.ndarray, rng: np.random.Generator) -> None:
    """Sometimes end the scan inside the patch: above, below or outside a circle, with no labels there."""
    cut = np.zeros(image.shape, bool)
    depth = image.shape[0]
    if rng.random() < 0.3:
        cut[: int(rng.integers(0, depth // 2))] = True
    if rng.random() < 0.3:
        cut[depth - int(rng.integers(0, depth // 2)) :] = True
    if rng.random() < 0.15:
        y, x = np.mgrid[-1 : 1 : image.shape[1] * 1j, -1 : 1 : image.shape[2] * 1j]
        cut |= np.hypot(y, x) > rng.uniform(0.75, 1.2)
    image[cut] = -1024
    tissues[cut] = Tissue.AIR
