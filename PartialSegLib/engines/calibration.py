"""Patches that resemble what a network for CT will see, to calibrate 8-bit convolutions with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import InputError
from ..image_channel import check_one_ct
from ..manifest import AXIS_OF_LETTER, Manifest
from ..phantom import make_phantom
from ..processing.preprocessing import preprocess

PARTS = ((2026, "portal venous", (0.0, 0.0, 0.0)), (2027, "arterial", (150.0, 0.0, 60.0)))
"""Seed, contrast phase and middle (z, y, x) in mm of the phantoms: kidneys and bowel, liver and lung."""


def calibration_patches(manifest: Manifest) -> Iterator[Tensor]:
    """Patches of phantoms as the network would get them: the same ones in every run, whatever is segmented.

    Args:
        manifest: of a model for CT.

    Yields:
        Float32 patches (D, H, W) of the manifest's size, with its spacing and scaling.

    Raises:
        InputError: the model does not read one CT.
    """
    preprocessing = manifest.preprocessing
    check_one_ct(manifest.name, preprocessing.image_channels)
    if manifest.modality != "CT":
        raise InputError(
            f"Model {manifest.name} is for {manifest.modality}, and 8-bit convolutions are calibrated on "
            "phantoms of CT; choose another engine."
        )
    letters = [AXIS_OF_LETTER[letter] for letter in preprocessing.orientation]
    z, y, x = (letters.index(axis) for axis in (2, 1, 0))
    size, distances = manifest.inference.patch_size, preprocessing.spacing
    spacing, shape = (distances[z], distances[y], distances[x]), (size[z], size[y], size[x])
    for seed, phase, center in PARTS:
        phantom = make_phantom(seed, spacing, shape, phase, center=center)
        yield preprocess(phantom.volume, preprocessing, torch.device("cpu")).tensor
