"""From a volume to the network's grid; `restoration` is the way back.

Each axis of the input grid becomes an axis of the network grid, perhaps turned round; an oblique volume keeps
its own axes. Order, direction and spacing thus are three small matrices, and nothing is rotated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..images.affine import AXIS_LETTERS, closest_axes
from ..manifest import Preprocessing
from ..masks.body import BODY_THRESHOLD_HU, body_margins, largest_object
from ..masks.boxes import EMPTY_BOX, Box, bounding_box, widened
from ..pytorch.tensor_arrays import array_of, tensor_of
from ..volume import Volume
from .resampling import (
    cubic_weights,
    linear_weights,
    nearest_weights,
    resample_by_slabs,
    trilinear_weights,
    used_columns,
)

ROUNDING_HU = 1e-3

WEIGHTS = {
    "linear": linear_weights,
    "trilinear": trilinear_weights,
    "cubic": cubic_weights,
    "nearest": nearest_weights,
}


@dataclass(frozen=True)
class AxisMap:
    """How one axis of the input grid becomes an axis of the network grid.

    Attributes:
        network_axis: 0, 1 or 2.
        flipped: whether the network's index runs against the input's.
        input_size: voxels along the input axis.
        network_size: voxels along the network axis; both cover the same millimetres.
        method: how intensities are interpolated, a key of `WEIGHTS`.
        method_back: how scores are, on the way back.
    """

    network_axis: int
    flipped: bool
    input_size: int
    network_size: int
    method: str = "linear"
    method_back: str = "linear"

    def to_network(self, device: torch.device) -> Tensor:
        """Weights (network, input) that resample intensities."""
        weights = WEIGHTS[self.method](self.input_size, self.network_size)
        return _tensor(np.flip(weights, 0) if self.flipped else weights, device)

    def to_input(self, device: torch.device) -> Tensor:
        """Weights (input, network) that bring scores back, never negative."""
        weights = WEIGHTS[self.method_back](self.network_size, self.input_size)
        return _tensor(np.flip(weights, 1) if self.flipped else weights, device)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as the network sees it, and the way back.

    Attributes:
        tensor: float32 intensities (D, H, W), clipped and scaled, cropped to the body if that was asked for.
        axes: for each input axis (z, y, x) its map.
        crop: the part of the network grid that `tensor` is.
        affine: (4, 4), of the input grid.
        background: the scaled intensity outside the image.
    """

    tensor: Tensor
    axes: tuple[AxisMap, AxisMap, AxisMap]
    crop: Box
    affine: np.ndarray
    background: float

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Voxels of the input grid (z, y, x)."""
        z, y, x = (axis.input_size for axis in self.axes)
        return z, y, x

    def network_box(self, input_box: Box) -> Box:
        """The voxels of `tensor` that the scores in a box of the input grid are interpolated from."""
        box = list(EMPTY_BOX)
        for axis, rows in zip(self.axes, input_box, strict=True):
            crop = self.crop[axis.network_axis]
            box[axis.network_axis] = used_columns(axis.to_input(torch.device("cpu"))[rows, crop])
        return box[0], box[1], box[2]


def preprocess(
    volume: Volume, preprocessing: Preprocessing, device: torch.device, crop_to_body: bool = False
) -> PreparedImage:
    """Orient, resample, crop, clip and scale a volume.

    The network grid has size * spacing / target voxels along an axis, rounded or truncated as the manifest
    says. It is computed slab by slab, never from a floating-point copy of the volume.

    Args:
        volume: in HU, any orientation.
        preprocessing: what the manifest asks for.
        device: where the result is computed and stays.
        crop_to_body: keep only the box around the largest object denser than air, with a margin of 10 mm.

    Raises:
        InputError: voxels are NaN or infinite.
    """
    axes = _map_axes(volume, preprocessing)
    sizes = _network_sizes(axes)
    hounsfield = torch.empty(sizes, device=device)
    in_input_order = hounsfield.permute([axis.network_axis for axis in axes])

    def read(planes: slice) -> Tensor:
        values = _tensor(volume.array[planes], device)
        if not preprocessing.clip_first:
            return values
        _check_finite(values)  # before infinity is clipped
        return values.clamp_(*preprocessing.clip)

    z, y, x = (axis.to_network(device) for axis in axes)
    for planes, slab in resample_by_slabs(read, (z, y, x)):
        in_input_order[planes] = slab
    _check_finite(hounsfield)
    if _limits_overshoot(preprocessing):
        in_input_order.clamp_(*_intensity_range(volume, axes, preprocessing, device))
    crop = _body_box(hounsfield, preprocessing) if crop_to_body else _whole(sizes)
    tensor = _scale(hounsfield[crop].contiguous(), preprocessing)
    background = float(preprocessing.scaled(torch.tensor(preprocessing.pad_value, dtype=torch.float32)))
    return PreparedImage(tensor, axes, crop, volume.affine, background)


def network_shape(volume: Volume, preprocessing: Preprocessing) -> list[int]:
    """Voxels (D, H, W) of the grid that a volume is resampled to, before it is cropped to the body."""
    return _network_sizes(_map_axes(volume, preprocessing))


def _network_sizes(axes: Iterable[AxisMap]) -> list[int]:
    sizes = {axis.network_axis: axis.network_size for axis in axes}
    return [sizes[network_axis] for network_axis in range(3)]


def _map_axes(volume: Volume, preprocessing: Preprocessing) -> tuple[AxisMap, AxisMap, AxisMap]:
    """Pair each input axis with the network axis that runs along the same axis of the patient."""
    patient_axes, signs = closest_axes(volume.affine)
    pairs = []
    for patient_axis, sign in zip(patient_axes, signs, strict=True):
        letters = AXIS_LETTERS[patient_axis]
        letter, opposite = tuple(letters if sign > 0 else letters[::-1])
        flipped = opposite in preprocessing.orientation
        pairs.append((preprocessing.orientation.index(opposite if flipped else letter), flipped))
    target = [preprocessing.spacing[network_axis] for network_axis, _ in pairs]
    resampling = preprocessing.resampling
    there = _methods((volume.spacing, target), preprocessing.separate_above, resampling)
    scores = "trilinear" if resampling == "cubic" else resampling  # splines would overshoot
    back = _methods((target, volume.spacing), preprocessing.separate_above, scores)
    maps = []
    for axis, (network_axis, flipped) in enumerate(pairs):
        size = volume.shape[axis] * volume.spacing[axis] / target[axis]
        voxels = int(size + 1e-6) if preprocessing.grid == "truncated" else round(size)
        sizes = volume.shape[axis], max(1, voxels)
        maps.append(AxisMap(network_axis, flipped, *sizes, there[axis], back[axis]))
    return maps[0], maps[1], maps[2]


def _methods(spacings: Iterable[Sequence[float]], ratio: float | None, usual: str) -> list[str]:
    """How each axis is interpolated: by the nearest slice along the one with the largest spacing.

    Args:
        spacings: of the grid that is left and of the grid that is reached; the first of them that differ by
            more than the ratio decide, as in nnU-Net.
        ratio: None interpolates all axes alike.
        usual: how all others are interpolated.
    """
    methods = [usual] * 3
    for spacing in spacings:
        if ratio is not None and max(spacing) > ratio * min(spacing):
            coarse = [axis for axis, step in enumerate(spacing) if step == max(spacing)]
            if len(coarse) == 1:
                methods[coarse[0]] = "nearest"
            break
    return methods


def _check_finite(hounsfield: Tensor) -> None:
    if not hounsfield.isfinite().all():
        raise InputError("The image has NaN or infinite voxels; replace them by air (-1000 HU) first.")


def _limits_overshoot(preprocessing: Preprocessing) -> bool:
    """Whether a manifest resamples as nnU-Net does: splines must not leave the range of what they join."""
    is_nnunet = preprocessing.clip_first or preprocessing.separate_above is not None
    return is_nnunet and preprocessing.resampling == "cubic"


def _intensity_range(
    volume: Volume, axes: Sequence[AxisMap], preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Lowest and highest HU of the image, or of each slice where these are not interpolated.

    The function that nnU-Net calls, `skimage.transform.resize`, clips what it returns to them.

    Returns:
        Two tensors that can be broadcast to the resampled image, its axes in the input's order.
    """
    separate = next((number for number, axis in enumerate(axes) if axis.method == "nearest"), None)
    across = tuple(number for number in range(3) if number != separate)
    ends = []
    for of_voxels in (np.min, np.max):
        values = _tensor(of_voxels(volume.array, axis=across, keepdims=True), device)
        if preprocessing.clip_first:
            values.clamp_(*preprocessing.clip)
        if separate is not None:
            indices = axes[separate].to_network(device).argmax(dim=1)
            values = values.index_select(separate, indices)
        ends.append(values)
    return ends[0], ends[1]


def _body_box(hounsfield: Tensor, preprocessing: Preprocessing) -> Box:
    """Box around the largest connected object denser than air; everything if there is none."""
    threshold: float = BODY_THRESHOLD_HU
    if preprocessing.clip_first:  # where that has made air and fat equal, all above is denser than air
        threshold = max(threshold, preprocessing.clip[0] + ROUNDING_HU)
    body = largest_object(array_of(hounsfield > threshold))
    if body is None:
        return _whole(list(hounsfield.shape))
    margins = body_margins(preprocessing.spacing)
    return widened(bounding_box(body), margins, hounsfield.shape)


def _scale(hounsfield: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The same as `Preprocessing.scaled`, in place: a whole image is not held twice."""
    return hounsfield.clamp_(*preprocessing.clip).sub_(preprocessing.subtract).div_(preprocessing.divide)


def _whole(sizes: list[int]) -> Box:
    z, y, x = (slice(0, size) for size in sizes)
    return z, y, x


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return tensor_of(np.array(array, dtype=np.float32, order="C")).to(device)
