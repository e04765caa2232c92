"""The image of a session: prepared for the network, and covered by patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..manifest import Manifest
from ..masks.boxes import Box
from ..masks.region import Region
from ..patches.slice_selection import axial_axis
from ..patches.sliding_window import Patch, count_patches, missing_voxels, pad_to_patch, plan_patches
from ..processing.preprocessing import PreparedImage, preprocess
from ..pytorch.tensor_arrays import array_of, tensor_of
from ..volume import Volume

MOST_PATCHES = 1_000_000
"""More of them are a slip, such as an overlap of 0.99, and would take days and all memory to list."""


@dataclass(frozen=True, eq=False)
class SessionImage:
    """What a session knows of its image.

    Attributes:
        prepared: the image on the network's grid, and the way back.
        tensor: `prepared.tensor`, padded to at least one patch.
        patches: they cover `tensor`.
        place: where `prepared.tensor` lies in `tensor`.
        axial: the axis of `tensor` that runs from the feet to the head.
    """

    prepared: PreparedImage
    tensor: Tensor
    patches: list[Patch]
    place: Box
    axial: int

    @classmethod
    def prepare(
        cls, volume: Volume, manifest: Manifest, overlap: float, device: torch.device, crop_to_body: bool
    ) -> SessionImage:
        """Preprocess a volume, pad it and plan its patches.

        Raises:
            InputError: voxels are NaN or infinite, or more than `MOST_PATCHES` would be needed.
        """
        inference = manifest.inference
        prepared = preprocess(volume, manifest.preprocessing, device, crop_to_body)
        z, y, x = missing_voxels(prepared.tensor.shape, inference.patch_size)
        before = (z // 2, y // 2, x // 2) if inference.padding == "both sides" else (0, 0, 0)
        tensor = pad_to_patch(prepared.tensor, inference.patch_size, prepared.background, before)
        count = count_patches(tensor.shape, inference.patch_size, overlap, inference.patch_positions)
        if count > MOST_PATCHES:
            raise InputError(
                f"With an overlap of {overlap:g}, {count:,} patches would cover the image; choose less."
            )
        patches = plan_patches(tensor.shape, inference.patch_size, overlap, inference.patch_positions)
        place = [slice(n, n + size) for n, size in zip(before, prepared.tensor.shape, strict=True)]
        axial = axial_axis(manifest.preprocessing)
        return cls(prepared, tensor, patches, (place[0], place[1], place[2]), axial)

    def kept_voxels(self, region: Region) -> np.ndarray:
        """The voxels (D, H, W) of `tensor` that scores inside the region are interpolated from.

        Raises:
            InputError: the region lies outside the image, or outside the body it was cropped to.
        """
        kept = np.zeros(tuple(self.prepared.tensor.shape), dtype=bool)
        box = region.voxel_box(self.prepared.affine, self.prepared.input_shape)
        kept[self.prepared.network_box(box)] = True
        if not kept.any():
            raise InputError("The region of interest lies outside the body, to which the image was cropped.")
        return self.pad(kept)

    def pad(self, kept: np.ndarray) -> np.ndarray:
        """Put kept voxels (D, H, W) of `prepared.tensor` where they lie in `tensor`; padding is not kept."""
        padded = np.zeros(tuple(self.tensor.shape), dtype=bool)
        padded[self.place] = kept
        return padded

    def pad_slices(self, kept: np.ndarray) -> np.ndarray:
        """The same for kept axial slices (S) of `prepared.tensor`; of 1 voxel along the other axes."""
        padded = np.zeros(self.tensor.shape[self.axial], dtype=bool)
        padded[self.place[self.axial]] = kept
        return np.expand_dims(padded, [axis for axis in range(3) if axis != self.axial])

    def input_slices(self, kept: np.ndarray | None, only: bool = False) -> np.ndarray:
        """Which axial slices of the input grid get scores from kept voxels of `tensor`.

        Args:
            kept: (D, H, W) bool; None keeps all.
            only: whether slices do not count that lie between a slice with kept voxels and one without.
        """
        along = next(axis for axis in self.prepared.axes if axis.network_axis == self.axial)
        if kept is None:
            return np.ones(along.input_size, dtype=bool)
        across = tuple(axis for axis in range(3) if axis != self.axial)
        weights = along.to_input(torch.device("cpu"))[:, self.prepared.crop[self.axial]]
        used = np.asarray(kept.any(axis=across))[self.place[self.axial]]
        reached = array_of(weights[:, tensor_of(used)].gt(0).any(dim=1))
        return reached & ~array_of(weights[:, tensor_of(~used)].gt(0).any(dim=1)) if only else reached

    def unpad(self, scores: Tensor) -> Tensor:
        """Cut scores (…, D, H, W) of `tensor` to the shape of `prepared.tensor`."""
        return scores[(..., *self.place)]
