"""The images that a decision network learns from and is measured on, made once and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ...files.output_files import replacing
from ...manifest import Manifest
from .config import SliceSelectorConfig
from .trunks import TrunkSlices, held_out_slices, trunk_slices

logger = logging.getLogger(__name__)

CALIBRATION = 1_000_000  # number of the first image that is not trained on


class KeptImages:
    """Images of a run, each a function of the configuration and its number.

    Args:
        config: how many, and what they are like.
        manifest: of the package, for spacing, preprocessing and tasks.
        atlas: tissues (z, y, x) that a share of the images is deformed from; None for phantoms alone.
        folder: where they are kept.
    """

    def __init__(
        self, config: SliceSelectorConfig, manifest: Manifest, atlas: np.ndarray | None, folder: Path
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._atlas = atlas
        self._folder = folder

    def training(self) -> list[TrunkSlices]:
        """Images to learn from."""
        share = self._config.strong_share
        return self._kept("training", range(self._config.images), lambda n: self._synthetic(n, share))

    def calibration(self) -> list[TrunkSlices]:
        """Images that thresholds are chosen on."""
        numbers = range(CALIBRATION, CALIBRATION + self._config.calibration_images)
        return self._kept("calibration", numbers, lambda number: self._synthetic(number, 0.0))

    def held_out(self) -> list[TrunkSlices]:
        """Phantoms of `training.held_out`, see `held_out_slices`."""
        size, manifest = self._config.input_size, self._manifest
        numbers = range(self._config.held_out_images)
        return self._kept("held_out", numbers, lambda number: held_out_slices(manifest, size, number))

    def _synthetic(self, number: int, strong_share: float) -> TrunkSlices:
        config = self._config
        has_atlas = np.random.default_rng([config.seed, number, 1]).random() < config.atlas_share
        seed, atlas = (config.seed, number), self._atlas if has_atlas else None
        how = config.input_size, seed, config.lesion_probability, atlas, strong_share
        return trunk_slices(self._manifest, *how)

    def _kept(self, kind: str, numbers: range, make: Callable[[int], TrunkSlices]) -> list[TrunkSlices]:
        """Read the images that the run has made before, and make and write the others."""
        images = []
        for number in numbers:
            path = self._folder / f"{kind}-{number}.npz"
            if not path.exists():
                image = make(number)
                with replacing(path) as temporary:
                    np.savez(temporary, squares=image.squares.numpy(), needed=image.needed)
                logger.info("%s", path.name)
            with np.load(path) as arrays:
                images.append(TrunkSlices(torch.from_numpy(arrays["squares"]), arrays["needed"]))
        return images
