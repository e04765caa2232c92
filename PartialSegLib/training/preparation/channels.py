"""The channels of an image as a model reads them: found by name, and normalised each in its way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from ...errors import InputError
from ...image_channel import ImageChannel
from ...manifest import Preprocessing
from ...processing.preprocessing import PreparedImage, preprocess
from ...volume import Volume
from ..collection import DataSet
from ..collection.case_images import CaseImage


def check_channels(data_set: DataSet, wanted: Sequence[ImageChannel]) -> None:
    """Refuse a data set whose images lack a channel that a model reads.

    Raises:
        InputError: it names the channels of both.
    """
    lacking = [channel.name for channel in wanted if channel.name not in data_set.channels]
    if lacking:
        raise InputError(
            f"The images of the data set {data_set.name} have the channels {', '.join(data_set.channels)}, "
            f"the model reads {', '.join(channel.name for channel in wanted)}; name the channels of the "
            "collection and of the configuration (preprocessing.channels) alike, or leave this data set out."
        )


def model_channels(
    image: CaseImage, volumes: Sequence[Volume], wanted: Sequence[ImageChannel]
) -> list[Volume]:
    """The channels that a model reads, in its order, of all those that were read.

    Raises:
        InputError: they are not the channels of one image.
    """
    for kind, found in image.faults(volumes):
        raise InputError(f"{image.paths[0]}: {kind} ({found}); repair the case, or leave it out.")
    by_name = dict(zip(image.channels, volumes, strict=True))
    return [by_name[channel.name] for channel in wanted]


def preprocess_channels(volumes: Sequence[Volume], preprocessing: Preprocessing) -> list[PreparedImage]:
    """Preprocess each channel by the code of inference.

    Z-scores are taken on the grid of the image and then resampled, as in nnU-Net version 2: resampling would
    blur the border of the voxels that are not 0.

    Args:
        volumes: the channels on one grid, in the order of `preprocessing.image_channels`.
        preprocessing: of the model.

    Returns:
        The channels on one new grid.

    Raises:
        InputError: all z-scored channels are 0 everywhere, or voxels are NaN or infinite.
    """
    cpu, one_channel = torch.device("cpu"), replace(preprocessing, channels=None)
    as_it_is = replace(one_channel, clip=(-np.inf, np.inf), subtract=0.0, divide=1.0, pad_value=0.0)
    kinds = [channel.normalization for channel in preprocessing.image_channels]
    z_scores = _z_scores([volume for volume, kind in zip(volumes, kinds, strict=True) if kind == "z-score"])
    return [
        preprocess(next(z_scores), as_it_is, cpu)
        if kind == "z-score"
        else preprocess(volume, one_channel, cpu, preprocessing.crop_to_body)
        for volume, kind in zip(volumes, kinds, strict=True)
    ]


def _z_scores(volumes: Sequence[Volume]) -> Iterator[Volume]:
    """Each volume less its mean and by its deviation where any of them is not 0, float32; 0 elsewhere."""
    if not volumes:
        return
    inside = np.logical_or.reduce([volume.array != 0 for volume in volumes])
    if not inside.any():
        raise InputError("The image is 0 everywhere; leave the case out.")
    for volume in volumes:
        values = volume.array[inside].astype(np.float64)
        scores = np.zeros(volume.shape, np.float32)
        scores[inside] = (values - values.mean()) / max(float(values.std()), 1e-8)
        yield volume.with_array(scores)
