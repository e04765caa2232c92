"""The configuration of one training of Med-DANet: plain data from a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...files.json_fields import expand_home, from_json, require, require_at_least, require_seed, to_json
from ...manifest import Inference, Manifest, Preprocessing
from ...networks.meddanet import MED_DANET_CANDIDATES
from ..config_files import read_settings
from ..loop.optimization import Phase


@dataclass(frozen=True)
class CandidateConfig:
    """One network of the model bank.

    Attributes:
        name: such as "M1".
        architecture: UNet2d or TransBTS2d.
        arguments: of the architecture, beside channels and size.
        epochs: after which it leaves the training: "to prevent the small-scale candidates from overfitting
            and make sure the large models can be fully optimized" (section 4.1).
        weight: of slices that shall choose it, in the loss of the decision network (w in equation 7). The
            paper says that weights of better candidates are "slightly" larger, and names no number.
    """

    name: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)
    epochs: int = 400
    weight: float = 1.0


EPOCHS_AND_WEIGHTS = {"M1": (300, 1.1), "M2": (300, 1.2), "M3": (400, 1.3), "M4": (400, 1.4)}


def _trained_as_in_the_paper(name: str, architecture: str, **arguments: Any) -> CandidateConfig:
    return CandidateConfig(name, architecture, arguments, *EPOCHS_AND_WEIGHTS[name])


MED_DANET = tuple(_trained_as_in_the_paper(**candidate) for candidate in MED_DANET_CANDIDATES)
"""The paper's bank; that M1 and M2 are the small-scale candidates is a reading of section 4.1."""


@dataclass(frozen=True)
class PhantomConfig:
    """Synthetic patients to train on.

    Attributes:
        count: of patients.
        shape: voxels (z, y, x) of each.
        lesions: probability of each kind, see `make_phantom`.
    """

    count: int = 64
    shape: tuple[int, int, int] = (48, 96, 96)
    lesions: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse patients that there cannot be."""
        require_at_least(self, count=1)
        require(min(self.shape) >= 1, f"shape: expected voxels above 0, got {list(self.shape)}")


@dataclass(frozen=True)
class CollectionSlicesConfig:
    """Cases of a collection to train on.

    Attributes:
        collection: file of the collection.
        prepared: folder for the preprocessed cases; it is filled before the first step.
        label_resampling: see `training.preparation`.
    """

    collection: str
    prepared: str
    label_resampling: Literal["linear", "nearest"] = "linear"

    def __post_init__(self) -> None:
        """Find what lies in the user's home folder."""
        expand_home(self, "collection", "prepared")


@dataclass(frozen=True)
class SliceBankConfig:
    """Everything that decides a training; defaults are those of Med-DANet, section 4.1.

    Where the paper is silent they are those of the official code of version 2: polynomial decay with power
    0.9 and one epoch of warm-up of the learning rate, intensities shifted by up to 0.1. Version 2 also has
    AMSGrad, learning rates of 0.0002 for everything and ten times that for its decision network, and 350
    epochs.

    Attributes:
        output: folder of the run: checkpoint, log, report, and the finished package in `package/`.
        package: fields of the manifest that describe the model: name, version, title, license, citation and
            one task, whose structures have the channels from 1 on; channel 0 is background.
        preprocessing: of the package; its spacing is that of the slices.
        input_size: height and width that the networks see, best a multiple of 32, see `MedDANet`.
        overlap: of windows at inference, written to the manifest; the paper's 16 windows of 128 x 128 on
            240 x 240 pixels have about 2/3.
        candidates: cheapest first.
        decision_arguments: widths and depths of `DecisionNetwork`.
        decision_epochs: after those of the bank.
        skip_weight: of slices that shall be skipped, see `CandidateConfig.weight`.
        alpha: weight of the cost in the choice metric, equation 4.
        batch_size: slices a step, of all processes together.
        bank_learning_rate, decision_learning_rate: of Adam, at their highest.
        weight_decay: L2 regularisation, part of Adam's gradient.
        amsgrad: as version 2.
        warm_up_epochs: with linearly rising learning rate, at the start of both parts.
        cross_entropy_weight: see `candidate_loss`; 0 is the paper's loss.
        mirror_axes: axes (0 = y, 1 = x) that are flipped for half of the slices each.
        intensity_shift: largest, in normalised intensity.
        phantoms: what to train on unless there is a collection.
        collection: cases to train on; None trains on phantoms.
        validation_slices: on which the run is validated, evenly spaced among those of a collection's
            validation cases, or of synthetic patients that training never sees; 0 for no validation.
        precision: of the candidates' convolutions, whose choices are taught in float32. float16 scales the
            loss.
        checkpoint_every, validate_every: steps; 0 never validates before the end.
        seed: of everything.
        workers: processes that prepare slices.
    """

    output: str
    package: dict[str, Any]
    preprocessing: Preprocessing
    input_size: int = 128
    overlap: float = 0.5
    candidates: tuple[CandidateConfig, ...] = MED_DANET
    decision_arguments: dict[str, Any] = field(default_factory=dict)
    decision_epochs: int = 50
    skip_weight: float = 1.0
    alpha: float = 0.001
    batch_size: int = 64
    bank_learning_rate: float = 1e-4
    decision_learning_rate: float = 0.01
    weight_decay: float = 1e-5
    amsgrad: bool = False
    warm_up_epochs: int = 1
    cross_entropy_weight: float = 0.0
    mirror_axes: tuple[int, ...] = (0, 1)
    intensity_shift: float = 0.1
    phantoms: PhantomConfig = PhantomConfig()
    collection: CollectionSlicesConfig | None = None
    validation_slices: int = 256
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint_every: int = 100
    validate_every: int = 0
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can mean."""
        expand_home(self, "output")
        require(bool(self.candidates), "candidates: expected at least one, got none")
        for number, candidate in enumerate(self.candidates):
            place = f"candidates[{number}]"
            require(candidate.epochs >= 1, f"{place}.epochs: expected 1 or more, got {candidate.epochs}")
            require(candidate.weight >= 0, f"{place}.weight: expected 0 or more, got {candidate.weight}")
        require_at_least(self, decision_epochs=1, checkpoint_every=1, validate_every=0, validation_slices=0)
        require_at_least(self, warm_up_epochs=0, weight_decay=0, workers=0, skip_weight=0)
        require_at_least(self, cross_entropy_weight=0, intensity_shift=0)
        require_seed(self)
        require(0 <= self.alpha <= 1, f"alpha: expected a weight from 0 to 1, got {self.alpha}")
        require(self.batch_size >= 2, f"batch_size: expected 2 or more slices, got {self.batch_size}")
        axes = set(self.mirror_axes)
        require(
            axes <= {0, 1} and len(axes) == len(self.mirror_axes),
            f"mirror_axes: expected some of 0 (y) and 1 (x), each once, got {list(self.mirror_axes)}",
        )

    @property
    def bank_epochs(self) -> int:
        """Until the last candidate leaves."""
        return max(candidate.epochs for candidate in self.candidates)

    def phases(self, steps_per_epoch: int) -> tuple[Phase, Phase]:
        """Of the bank, and then of the decision network."""
        warm_up = self.warm_up_epochs * steps_per_epoch

        def phase(part: str, epochs: int, learning_rate: float) -> Phase:
            return Phase(
                iterations=epochs * steps_per_epoch,
                optimizer="adam",
                learning_rate=learning_rate,
                warm_up=warm_up,
                warm_up_start=1 / (warm_up + 1),
                amsgrad=self.amsgrad,
                weight_decay=self.weight_decay,
                only=(f"bank.{part}.",),
            )

        bank = phase("networks", self.bank_epochs, self.bank_learning_rate)
        return bank, phase("decision_network", self.decision_epochs, self.decision_learning_rate)

    @property
    def air(self) -> float:
        """Normalised intensity around a slice, the same as around a volume at inference."""
        return float(self.preprocessing.scaled(np.float64(self.preprocessing.pad_value)))


def read_slice_bank_config(path: Path | str, changes: Sequence[str] = ()) -> SliceBankConfig:
    """Read a configuration as `config_files.read_config` does: a file or the recipe "med-danet"."""
    return read_settings(SliceBankConfig, path, changes, ["med-danet"])


def slice_bank_manifest(config: SliceBankConfig) -> Manifest:
    """The manifest of the package that a run writes.

    Patches are one slice deep: no slice is computed twice, whatever the overlap of windows.

    Raises:
        InputError: a field of the package is not valid in a manifest, or its task has no room for background.
    """
    size = config.input_size
    inference = Inference((1, size, size), config.overlap, activation="softmax", padding="both sides")
    fields: dict[str, Any] = {
        **config.package,
        "network": {"architecture": "MedDANet"},
        "preprocessing": to_json(config.preprocessing),
        "inference": to_json(inference),
    }
    manifest = from_json(Manifest, fields)
    require(len(manifest.tasks) == 1, f"package.tasks: expected one task, got {len(manifest.tasks)}")
    channels = manifest.tasks[0].structures.values()
    require(min(channels) >= 1, "package.tasks[0].structures: channel 0 is background; count from 1")
    arguments = _network_arguments(config, max(channels) + 1)
    return replace(manifest, network=replace(manifest.network, arguments=arguments))


def _network_arguments(config: SliceBankConfig, num_classes: int) -> dict[str, Any]:
    """What `MedDANet` is built with."""
    candidates = [
        {"name": candidate.name, "architecture": candidate.architecture, **candidate.arguments}
        for candidate in config.candidates
    ]
    return {
        "task_channels": [num_classes],
        "in_channels": 1,
        "input_size": config.input_size,
        "candidates": candidates,
        "decision_arguments": config.decision_arguments,
    }
