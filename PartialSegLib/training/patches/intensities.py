"""Disturbed intensities: what scanners, doses and contrast phases change, and labels do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .augmentation import Augmentation, monai_transforms


def disturb_intensities(image: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Noise, blur, brightness, contrast, coarser sampling, gamma: each with its probability, in this order.

    Args:
        image: (C, D, H, W) float32, normalised; all channels are treated alike.
        augmentation: probabilities and ranges.
        rng: everything is drawn from it.

    Returns:
        An image of the same shape.

    Raises:
        InputError: MONAI is missing.
    """
    a = augmentation
    steps: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (a.noise_probability, lambda image: _noisy(image, rng.uniform(*a.noise), rng)),
        (a.blur_probability, lambda image: _blurred(image, rng.uniform(*a.blur))),
        (a.brightness_probability, lambda image: image * rng.uniform(*a.brightness)),
        (a.shift_probability, lambda image: image + rng.normal(0, a.shift)),
        (a.contrast_probability, lambda image: _with_contrast(image, rng.uniform(*a.contrast))),
        (a.low_resolution_probability, lambda image: _coarse(image, rng.uniform(*a.low_resolution))),
        (a.inverted_gamma_probability, lambda image: _gamma(image, rng.uniform(*a.gamma), True)),
        (a.gamma_probability, lambda image: _gamma(image, rng.uniform(*a.gamma), False)),
    )
    for probability, step in steps:
        if rng.random() < probability:
            image = step(image)
    return image.as_subclass(Tensor)


def _noisy(image: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    return image + torch.from_numpy(rng.standard_normal(image.shape, np.float32)) * deviation


def _blurred(image: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma, sigma)))


def _with_contrast(image: Tensor, factor: float) -> Tensor:
    return monai_transforms().ScaleIntensityFixedMean(factor - 1, preserve_range=True)(image)


def _coarse(image: Tensor, zoom: float) -> Tensor:
    return monai_transforms().RandSimulateLowResolution(prob=1.0, zoom_range=(zoom, zoom))(image)


def _gamma(image: Tensor, gamma: float, inverted: bool) -> Tensor:
    return monai_transforms().AdjustContrast(gamma, invert_image=inverted, retain_stats=True)(image)
