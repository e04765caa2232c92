"""The configuration of a run that trains a decision network: plain data from a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...decision_spec import DecisionSpec
from ...files.json_fields import expand_home, require, require_at_least, require_seed
from ..config_files import read_settings


@dataclass(frozen=True)
class SliceSelectorConfig:
    """Everything that decides a run.

    Attributes:
        output: folder of the run; the finished package is `package/` in it.
        package: name or folder of the package that gets the decision network.
        offsets, input_size, arguments, every, dilation, automatic: see `DecisionSpec`.
        images, calibration_images, held_out_images: how many trunks to train on, to choose thresholds on, and
            to report on.
        atlas: label map of `training.atlas`; None trains on phantoms alone.
        atlas_share: share of images made from the atlas.
        lesion_probability: for each kind of lesion, in every image.
        strong_share: share of training images with three times the usual spread of HU; there is none such
            among the others.
        iterations, batch_size, learning_rate, weight_decay: of AdamW with a cosine decay to 0.
        foreground_weight: of a slice that a task needs, relative to one that it does not need.
        recall: share of needed calibration slices that the thresholds keep, at least.
        margin: taken off the thresholds then, as a logit.
        checkpoint_every: steps between checkpoints.
        seed: of everything.
    """

    output: str
    package: str
    offsets: tuple[int, ...] = (-12, -6, -2, 0, 2, 6, 12)
    input_size: int = 64
    arguments: dict[str, Any] = field(default_factory=dict)
    every: int = 2
    dilation: int = 2
    automatic: bool = True
    images: int = 200
    calibration_images: int = 160
    held_out_images: int = 24
    atlas: str | None = None
    atlas_share: float = 0.3
    lesion_probability: float = 0.5
    strong_share: float = 0.25
    iterations: int = 5000
    batch_size: int = 96
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    foreground_weight: float = 4.0
    recall: float = 1.0
    margin: float = 0.5
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        expand_home(self, "output", "atlas")
        require_at_least(self, images=1, calibration_images=1, iterations=1, batch_size=1, checkpoint_every=1)
        require_at_least(self, held_out_images=0, weight_decay=0)
        require_seed(self)
        require(self.learning_rate > 0, f"learning_rate: expected more than 0, got {self.learning_rate}")
        require(0 < self.recall <= 1, f"recall: expected a share in (0, 1], got {self.recall}")

    def spec(self, thresholds: tuple[float, ...], figures: dict[str, Any] | None = None) -> DecisionSpec:
        """What the manifest will say."""
        return DecisionSpec(
            self.offsets,
            thresholds,
            arguments=self.arguments,
            input_size=self.input_size,
            every=self.every,
            dilation=self.dilation,
            automatic=self.automatic,
            figures=figures or {},
        )


def read_slice_selector_config(path: Path | str, changes: Sequence[str] = ()) -> SliceSelectorConfig:
    """Read a configuration as `config_files.read_config` does: a file or the recipe "slice-selector"."""
    return read_settings(SliceSelectorConfig, path, changes, ["slice-selector"])
