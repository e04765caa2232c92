"""One case as the network sees it: the image by the code of inference, its label map on the same grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ...errors import InputError
from ...manifest import Preprocessing
from ...masks.boxes import Box
from ...processing.preprocessing import PreparedImage
from ...processing.resampling import Matrices, resample_by_slabs, used_rows
from ...volume import Volume, read_volume
from ..collection.case_images import CaseImage, image_content, on_one_grid
from .case_store import write_case
from .channels import model_channels, preprocess_channels

LabelRule = Literal["linear", "nearest"]

LARGEST_VALUE = 65535


def prepare_case(
    folder: Path,
    image: CaseImage,
    label: Path,
    preprocessing: Preprocessing,
    rule: LabelRule,
    settings: str,
) -> None:
    """Preprocess a case and write it in one stroke, see `case_store`.

    Args:
        folder: where the case is written, see `write_case`.
        image: whose channels the model reads, see `check_channels`.
        label: its label map.
        preprocessing: of the model; the image passes through the very code of inference.
        rule: see `resample_labels`.
        settings: hash of all this.

    Raises:
        InputError: image or label map cannot be used, do not lie on one grid, or the disk is full.
    """
    read = image.read()
    volumes, content = model_channels(image, read, preprocessing.image_channels), image_content(read)
    labels = read_volume(label, any_modality=True)
    if not on_one_grid(volumes[0], labels):
        raise InputError(
            f"{label}: The label map (shape {labels.shape}) does not lie on the grid of its image "
            f"{image.paths[0]} (shape {volumes[0].shape}); resample it to that grid, or leave the case out."
        )
    channels = preprocess_channels(volumes, preprocessing)
    on_grid = resample_labels(_label_values(labels, label), channels[0], rule)
    array = torch.stack([channel.tensor.half() for channel in channels]).numpy()
    background = tuple(channel.background for channel in channels)
    write_case(folder, array, on_grid, background, settings, content)


def resample_labels(labels: np.ndarray, prepared: PreparedImage, rule: LabelRule) -> np.ndarray:
    """Bring a label map to the grid of a preprocessed image.

    "linear" interpolates where each value is, anti-aliased if the intensities were, and the highest share
    takes the voxel; where shares are equal the highest value does, so that thin structures survive. nnU-Net
    does the same without anti-aliasing (Isensee et al., Nature Methods 2021, supplementary note 2). "nearest"
    is what DoDNet's code does (order 0).

    Args:
        labels: uint8 or uint16 (z, y, x) on the grid of the image that was preprocessed.
        prepared: what `preprocess` made of the image.
        rule: one of the two.

    Returns:
        Values of the same type (D, H, W), of the shape of `prepared.tensor`.
    """
    matrices = _label_matrices(prepared, rule)
    shape = [matrix.shape[0] for matrix in matrices]
    winner = np.zeros(shape, labels.dtype)
    best, total = torch.zeros(shape), torch.zeros(shape)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        place, share = _share_of(labels[box] == value, (box[0], box[1], box[2]), matrices)
        won = (share > 0) & (share >= best[place])
        winner[place][won.numpy()] = value
        best[place] = torch.where(won, share, best[place])
        total[place] += share
    winner[(1 - total > best + 1e-6).numpy()] = 0
    order = np.argsort([axis.network_axis for axis in prepared.axes])
    return np.ascontiguousarray(winner.transpose(order))


def _label_matrices(prepared: PreparedImage, rule: LabelRule) -> Matrices:
    """Weights (network, input) of each input axis, inside the crop."""
    z, y, x = (
        replace(axis, method=_label_method(axis.method, rule)).to_network(torch.device("cpu"))[
            prepared.crop[axis.network_axis]
        ]
        for axis in prepared.axes
    )
    return z, y, x


def _label_method(method: str, rule: LabelRule) -> str:
    """How labels are resampled along an axis whose intensities are resampled by a method."""
    if rule == "nearest":
        return "nearest"
    return "trilinear" if method == "cubic" else method


def _share_of(inside: np.ndarray, box: Box, matrices: Matrices) -> tuple[Box, Tensor]:
    """The part of the new grid that a value in a box of the old one reaches, and its share of each voxel."""
    columns = [matrix[:, extent] for matrix, extent in zip(matrices, box, strict=True)]
    z, y, x = (used_rows(matrix) for matrix in columns)
    weights = columns[0][z].contiguous(), columns[1][y].contiguous(), columns[2][x].contiguous()
    share = torch.empty([matrix.shape[0] for matrix in weights])
    if share.numel():
        mask = torch.from_numpy(inside)
        for planes, slab in resample_by_slabs(_float_planes(mask), weights):
            share[planes] = slab
    return (z, y, x), share


def _float_planes(mask: Tensor) -> Callable[[slice], Tensor]:
    return lambda planes: mask[planes].float()


def _label_values(volume: Volume, path: Path) -> np.ndarray:
    """The values of a label map as uint8, or uint16 where there are values above 255."""
    array = volume.array
    low, high = array.min(), array.max()
    if low < 0 or high > LARGEST_VALUE or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise InputError(
            f"{path}: A label map has whole numbers from 0 to {LARGEST_VALUE}, this one has values from "
            f"{low:g} to {high:g}; give the label map of the case."
        )
    return array.astype(np.uint8 if high <= 255 else np.uint16)
