"""Elastic deformation: a random smooth displacement of the voxels of a patch.

As in batchgenerators (Isensee et al., 2020), after Simard et al., Best Practices for Convolutional Neural
Networks, ICDAR 2003, section 2: white noise in [-1, 1], 0 outside the patch, is smoothed by a Gaussian of so
many voxels and multiplied by a magnitude. Here the noise is drawn on a coarser grid, has the same deviation
after smoothing, and is interpolated: to smooth it at full size takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int, int]

STEPS_PER_SIGMA = 3


@dataclass(frozen=True)
class ElasticField:
    """A displacement for every voxel of a patch, the same each time.

    Attributes:
        seed: of the noise.
        magnitude: factor of the smoothed noise.
        sigma: of the Gaussian, in voxels.
        in_plane: all slices are displaced alike, along y and x.
    """

    seed: int
    magnitude: float
    sigma: float
    in_plane: bool = False

    def displacement(self, patch_size: Size) -> Tensor:
        """How far each voxel of a patch is from where it comes from: (3, *patch), z, y, x in voxels."""
        coarse = torch.from_numpy(_coarse_displacement(self, patch_size))
        return functional.interpolate(coarse[None], patch_size, mode="trilinear", align_corners=True)[0]

    def reach(self, patch_size: Size) -> np.ndarray:
        """The largest displacement (3) along z, y and x, in voxels."""
        farthest: np.ndarray = np.abs(_coarse_displacement(self, patch_size)).max((1, 2, 3))
        return farthest


@lru_cache(maxsize=1)  # asked for twice in a row: how far it reaches, and the displacement
def _coarse_displacement(elastic: ElasticField, patch_size: Size) -> np.ndarray:
    """The displacement on a grid whose corners are those of the patch, (3, z, y, x) float32."""
    moving = [axis for axis in range(3) if axis > 0 or not elastic.in_plane]
    step = max(1, int(elastic.sigma / STEPS_PER_SIGMA))
    size = [-(-(n - 1) // step) + 1 if axis in moving else 1 for axis, n in enumerate(patch_size)]
    spacing = [(n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(patch_size, size, strict=True)]
    sigmas = [elastic.sigma / spacing[axis] if axis in moving else 0.0 for axis in range(3)]
    field = np.zeros((3, *size), np.float32)
    rng = np.random.default_rng(elastic.seed)
    factor = elastic.magnitude / np.sqrt(np.prod([spacing[axis] for axis in moving]))
    for axis in moving:
        noise = rng.uniform(-1, 1, size)
        field[axis] = factor * ndimage.gaussian_filter(noise, sigmas, mode="constant")
    return field
