"""Rotation, scale, elastic deformation and mirroring of a patch and its labels.

They are drawn before anything is read, because they say how large a part of the volume the patch is made
from: corners that turn into the patch are real voxels, not an invented border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from .augmentation import Augmentation, drawn_around_one, monai_transforms
from .elastic_field import ElasticField, Size


@dataclass(frozen=True, eq=False)
class SpatialTransform:
    """Where the voxels of a patch come from.

    Attributes:
        matrix: (3, 3), from a voxel's offset to the middle of the patch (z, y, x) to its offset to the middle
            of the crop, the part of the volume that is read.
        mirrored: axes (0 = z) flipped afterwards.
        interpolation: of the image.
        elastic: displaces the voxels of the patch before the matrix moves them; None leaves them.
    """

    matrix: np.ndarray
    mirrored: tuple[int, ...] = ()
    interpolation: Literal["linear", "cubic"] = "linear"
    elastic: ElasticField | None = None

    def scaled_size(self, patch_size: Size) -> Size:
        """Voxels (z, y, x) of the volume that the patch covers, before it is turned."""
        scales = np.linalg.norm(self.matrix, axis=0)
        z, y, x = (max(1, round(n * float(scale))) for n, scale in zip(patch_size, scales, strict=True))
        return z, y, x

    def crop_size(self, patch_size: Size) -> Size:
        """Voxels (z, y, x) of the crop that the whole turned and deformed patch lies in."""
        if self._only_scales and self.elastic is None:
            return self.scaled_size(patch_size)
        reach = np.zeros(3) if self.elastic is None else self.elastic.reach(patch_size)
        extents = np.abs(self.matrix) @ (np.array(patch_size) - 1 + 2 * reach)
        z, y, x = (ceil(extent - 1e-6) + 1 for extent in extents)
        return z, y, x

    def apply(self, image: Tensor, labels: Tensor, patch_size: Size) -> tuple[Tensor, Tensor]:
        """Make the patch; every voxel is interpolated once.

        Args:
            image: (C, *crop) float32.
            labels: (*crop), whole numbers below 2^24.
            patch_size: voxels (z, y, x).

        Returns:
            The image (C, *patch) and labels (*patch) of the types given.

        Raises:
            InputError: MONAI, which rotates, is missing.
        """
        if self.elastic is not None:
            places = self._places(self.elastic.displacement(patch_size), labels.shape)
            image = _sampled(image, places, self.interpolation)
            labels = _sampled(labels[None].float(), places, "nearest")[0].to(labels.dtype)
        elif not np.array_equal(self.matrix, np.eye(3)):
            image = self._resampled(image, patch_size, self.interpolation)
            labels = self._resampled(labels[None].float(), patch_size, "nearest")[0].to(labels.dtype)
        if self.mirrored:
            image, labels = image.flip([axis + 1 for axis in self.mirrored]), labels.flip(self.mirrored)
        return image, labels

    @property
    def _only_scales(self) -> bool:
        return np.array_equal(self.matrix, np.diag(np.diag(self.matrix)))

    def _places(self, displacement: Tensor, crop: Sequence[int]) -> Tensor:
        """Where in the crop each voxel of the patch comes from: (3, *patch), z, y, x in voxels."""
        axes = [torch.arange(float(n)) - (n - 1) / 2 for n in displacement.shape[1:]]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
        middle = torch.tensor([(n - 1) / 2 for n in crop])
        return (
            torch.tensordot(torch.from_numpy(self.matrix).float(), offsets, 1) + middle[:, None, None, None]
        )

    def _resampled(self, image: Tensor, size: Size, interpolation: str) -> Tensor:
        if self._only_scales and interpolation != "cubic":
            mode = "trilinear" if interpolation == "linear" else "nearest-exact"
            return functional.interpolate(image[None], size, mode=mode)[0]
        modes: dict[str, str | int] = {"linear": "bilinear", "nearest": "nearest", "cubic": 3}
        mode_of_monai = modes[interpolation]
        in_plane = np.array_equal(self.matrix[0], [1, 0, 0]) and np.array_equal(self.matrix[:, 0], [1, 0, 0])
        if in_plane:  # slices as channels: a quarter of the time
            planes = _affine(image.flatten(0, 1), self.matrix[1:, 1:], size[1:], mode_of_monai)
            return planes.unflatten(0, image.shape[:2])
        return _affine(image, self.matrix, size, mode_of_monai)


def _affine(image: Tensor, matrix: np.ndarray, size: tuple[int, ...], mode: str | int) -> Tensor:
    """Image (C, *size), each voxel taken from where the matrix moves its offset to the middle."""
    homogeneous = np.eye(len(matrix) + 1)
    homogeneous[:-1, :-1] = matrix
    padding = "nearest" if isinstance(mode, int) else "border"
    transform = monai_transforms().Affine(
        affine=homogeneous, mode=mode, padding_mode=padding, dtype=torch.float32, image_only=True
    )
    moved: Tensor = transform(image, spatial_size=size)
    return moved.as_subclass(Tensor)


def _sampled(image: Tensor, places: Tensor, interpolation: str) -> Tensor:
    """Image (C, *size) at places (3, *patch), z, y, x in voxels; beyond the border is what is at it."""
    if interpolation == "cubic":
        channels = [
            ndimage.map_coordinates(c, places.numpy(), order=3, mode="nearest") for c in image.numpy()
        ]
        return torch.from_numpy(np.stack(channels))
    last = torch.tensor([max(1, n - 1) for n in image.shape[1:]])
    grid = (2 * places / last[:, None, None, None] - 1).flip(0).movedim(0, -1)
    mode = "bilinear" if interpolation == "linear" else "nearest"
    return functional.grid_sample(image[None], grid[None], mode, "border", align_corners=True)[0]


def draw_spatial_transform(augmentation: Augmentation, rng: np.random.Generator) -> SpatialTransform:
    """A random rotation, scale, set of mirrored axes and elastic deformation."""
    matrix = np.eye(3)
    if rng.random() < augmentation.rotation_probability:
        angles = rng.uniform(-augmentation.rotation, augmentation.rotation, 3)
        turn = [angles[0], 0.0, 0.0] if augmentation.in_plane else angles
        matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
        if augmentation.in_plane:
            matrix[0], matrix[:, 0] = [1, 0, 0], [1, 0, 0]
    if rng.random() < augmentation.scale_probability:
        limits, around_one = augmentation.scale, augmentation.scale_around_one
        scale = drawn_around_one(limits, rng) if around_one else rng.uniform(*limits)
        matrix = matrix @ np.diag([1.0 if augmentation.in_plane else scale, scale, scale])
    flips = rng.random(len(augmentation.mirror_axes)) < augmentation.mirror_probability
    mirrored = tuple(axis for axis, flip in zip(augmentation.mirror_axes, flips, strict=True) if flip)
    return SpatialTransform(
        matrix, mirrored, augmentation.interpolation, _draw_elastic_field(augmentation, rng)
    )


def _draw_elastic_field(augmentation: Augmentation, rng: np.random.Generator) -> ElasticField | None:
    """A random deformation, or none; nothing is drawn where there is never one."""
    probability = augmentation.elastic_probability
    if probability == 0 or rng.random() >= probability:
        return None
    magnitude, sigma = rng.uniform(*augmentation.elastic), rng.uniform(*augmentation.elastic_sigma)
    return ElasticField(int(rng.integers(2**63)), magnitude, sigma, augmentation.in_plane)
