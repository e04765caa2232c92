"""Disturbed intensities: what scanners, doses and contrast phases change, and labels do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .augmentation import Augmentation, drawn_around_one, monai_transforms


def disturb_intensities(image: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Noise, blur, brightness, contrast, coarser sampling, gamma: each with its probability, in this order.

    Where a step is taken, it is for all channels, each with numbers of its own; noise alone has one deviation
    for all. So does batchgenerators, but that it leaves out each channel of blur, shift and coarser sampling
    with a probability of a half, which is in the probabilities of `PRESETS`.

    Args:
        image: (C, D, H, W) float32, normalised.
        augmentation: probabilities and ranges.
        rng: everything is drawn from it.

    Returns:
        An image of the same shape.

    Raises:
        InputError: MONAI is missing.
    """
    a = augmentation
    if rng.random() < a.noise_probability:
        image = _noisy(image, rng.uniform(*a.noise), rng)

    def coarsely_sampled(channel: Tensor) -> Tensor:
        return _coarse(channel, rng.uniform(*a.low_resolution), a.in_plane)

    steps: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (a.blur_probability, lambda channel: _blurred(channel, rng.uniform(*a.blur))),
        (a.brightness_probability, lambda channel: channel * rng.uniform(*a.brightness)),
        (a.shift_probability, lambda channel: channel + rng.normal(0, a.shift)),
        (a.contrast_probability, lambda channel: _with_contrast(channel, rng.uniform(*a.contrast))),
        (a.low_resolution_probability, coarsely_sampled),
        (a.inverted_gamma_probability, lambda channel: _gamma(channel, drawn_around_one(a.gamma, rng), True)),
        (a.gamma_probability, lambda channel: _gamma(channel, drawn_around_one(a.gamma, rng), False)),
    )
    for probability, step in steps:
        if rng.random() < probability:
            image = torch.cat([step(channel).as_subclass(Tensor) for channel in image.split(1)])
    return image


def _noisy(image: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    return image + torch.from_numpy(rng.standard_normal(image.shape, np.float32)) * deviation


def _blurred(image: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma, sigma)))


def _with_contrast(image: Tensor, factor: float) -> Tensor:
    return monai_transforms().ScaleIntensityFixedMean(factor - 1, preserve_range=True)(image)


def _coarse(image: Tensor, zoom: float, in_plane: bool) -> Tensor:
    """One channel (1, D, H, W) as if sampled coarsely along all axes, or along y and x alone."""
    mode = "bilinear" if in_plane else "trilinear"
    coarse = monai_transforms().RandSimulateLowResolution(
        prob=1.0, zoom_range=(zoom, zoom), upsample_mode=mode
    )
    return coarse(image[0])[None] if in_plane else coarse(image)  # in plane, slices are channels


def _gamma(image: Tensor, gamma: float, inverted: bool) -> Tensor:
    return monai_transforms().AdjustContrast(gamma, invert_image=inverted, retain_stats=True)(image)
