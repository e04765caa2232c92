"""The configuration of one training run: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..files.json_fields import expand_home, from_json, require, require_at_least, require_seed, to_json
from ..manifest import Inference, Preprocessing
from ..sentences import suggestion
from .loop.optimization import Phase
from .patches.augmentation import PRESETS, Augmentation
from .patches.sampling import CaseSampling, Place
from .preparation.preparing import LabelRule


@dataclass(frozen=True)
class SyntheticData:
    """Endless cases made on the fly: phantoms, and a deformed atlas if there is one.

    Attributes:
        atlas: label map of `training.atlas`; None trains on phantoms alone.
        atlas_share: share of images made from the atlas.
        lesion_probability: for each kind of lesion, in every image.
        lesion_contrast: of tumours to the organ around them, relative to the phantom's.
        organ_unevenness: the most that healthy organs have of it, HU, see `random_appearance`.
        cases_per_image: one-task cases made of each image; features are computed once for all of them.
        validation_images: images, of seeds that training never draws, on which the run is validated.
    """

    atlas: str | None = None
    atlas_share: float = 0.4
    lesion_probability: float = 0.4
    lesion_contrast: float = 1.0
    organ_unevenness: float = 0.0
    cases_per_image: int = 1
    validation_images: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        expand_home(self, "atlas")
        for name in ("atlas_share", "lesion_probability"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}: expected a number from 0 to 1, got {value}")
        require_at_least(self, organ_unevenness=0, cases_per_image=1, validation_images=0)


@dataclass(frozen=True)
class CollectionData:
    """Patches of the cases of a collection.

    Attributes:
        collection: file made by `partialseg data`; its training cases are trained on.
        prepared: folder for the preprocessed cases, in it one folder for each kind of preprocessing; it is
            filled before the first step.
        case_sampling: every case with the same probability, or with 1 / sqrt(cases of its data set).
        preparing_processes: that preprocess cases at the same time.
        place: where patches lie, see `training.patches.sampling`.
        foreground: probability that a patch is placed by the foreground.
        label_resampling: see `training.preparation.preparing`.
        augmentation: what is done to the patches, a key of `PRESETS`.
        augmentation_changes: fields of `Augmentation` that differ from the preset.
        validation_patches: patches of validation cases on which the run is validated.
    """

    collection: str
    prepared: str
    preparing_processes: int = 1
    case_sampling: CaseSampling = "uniform"
    place: Place = "dodnet"
    foreground: float = 0.8
    label_resampling: LabelRule = "linear"
    augmentation: str = "none"
    augmentation_changes: dict[str, Any] = field(default_factory=dict)
    validation_patches: int = 16

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, and an augmentation that there is not."""
        expand_home(self, "collection", "prepared")
        require_at_least(self, preparing_processes=1, validation_patches=0)
        share = self.foreground
        require(0 <= share <= 1, f"foreground: expected a number from 0 to 1, got {share}")
        require(
            self.augmentation in PRESETS,
            f"augmentation: unknown preset {self.augmentation!r}; {suggestion(self.augmentation, PRESETS)}",
        )
        self.chosen_augmentation()

    def chosen_augmentation(self) -> Augmentation:
        """The preset with the changes."""
        values = {**to_json(PRESETS[self.augmentation]), **self.augmentation_changes}
        return from_json(Augmentation, values, "augmentation_changes")


@dataclass(frozen=True)
class Loss:
    """What is minimised; see `training.losses`.

    Attributes:
        kind: "dice and cross-entropy" over annotated channels (DoDNet), "class-adaptive" (MultiTalent), or
            "softmax" (STU-Net; a data set that does not annotate all classes makes it target-adaptive).
        average: of "dice and cross-entropy", over cases, or over channels first as in DoDNet's code.
        dice_epsilon: smoothing of the Dice loss, in voxels.
        smooth_numerator: whether its numerator is smoothed too; papers and official code do not.
        joint_dice: of "class-adaptive" and "softmax", Dice over the batch (papers) or over each case.
        foreground_weight, background_weight: see `dice_and_cross_entropy`.
        structure_weights: of "dice and cross-entropy", by name of a structure, how many times as much as
            others it counts; 1 where it is not named.
        deep_supervision: weights of the network's output levels, finest first, scaled to a sum of 1; empty
            trains the finest alone.
    """

    kind: Literal["dice and cross-entropy", "class-adaptive", "softmax"] = "dice and cross-entropy"
    average: Literal["cases", "channels"] = "cases"
    dice_epsilon: float = 1.0
    smooth_numerator: bool = True
    joint_dice: bool = True
    foreground_weight: float = 0.0
    background_weight: float = 0.0
    structure_weights: dict[str, float] = field(default_factory=dict)
    deep_supervision: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse weights that mean nothing."""
        require_at_least(self, dice_epsilon=0, foreground_weight=0, background_weight=0)
        require(
            not self.structure_weights or self.kind == "dice and cross-entropy",
            f"structure_weights: the loss {self.kind!r} knows none; leave them out",
        )
        for name, weight in self.structure_weights.items():
            require(weight > 0, f"structure_weights.{name}: expected more than 0, got {weight}")
        weights = self.deep_supervision
        require(
            not weights or (min(weights) >= 0 and max(weights) > 0),
            f"deep_supervision: expected weights of 0 or more, not all 0, got {list(weights)}",
        )


@dataclass(frozen=True)
class Tissue:
    """The auxiliary head of `training.tissue_head`; only synthetic data have labels for it.

    Attributes:
        weight: of its loss.
        iterations: first steps in which nothing but this head is trained.
        layer: name of the network's module whose input it reads; None reads the features.
        voxels: sampled from each image.
        power, lesion_focus: which voxels they are, see `sample_voxels`.
    """

    weight: float
    iterations: int = 0
    layer: str | None = None
    voxels: int = 32768
    power: float = 0.5
    lesion_focus: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        require_at_least(self, weight=0, iterations=0, voxels=1, lesion_focus=0)


@dataclass(frozen=True)
class Transfer:
    """Where a run starts from if not from random weights, see `training.transfer`.

    Attributes:
        package: name or folder of a model package.
        parts: modules of the network to take; None takes all but the heads, ["*"] everything.
    """

    package: str
    parts: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides a training run; the same configuration gives the same data in the same order.

    Attributes:
        output: folder of the run: checkpoint, log, report, and the finished package in `package/`.
        package: fields of the manifest that describe the model: name, version, title, license, citation and
            tasks.
        network: architecture, a key of `NETWORKS`.
        network_arguments: keyword arguments of the network; `num_tasks` of DoDNet and its kin is counted.
        preprocessing: of images, in training and at inference alike.
        inference: of the package; its patch size is that of training.
        only_tasks: names of the package's tasks to train; empty trains all.
        synthetic, collection: where the cases come from; exactly one of the two.
        batch_size: images a step, of all processes together.
        accumulate: parts into which each process divides its images, one forward and backward pass each; not
            for a loss with a joint Dice, which needs the whole batch at once.
        loss: what is minimised.
        phases: optimizers and learning rates, one after the other; their iterations add up.
        initial_logit: every score starts near this logit, see `initialize_head`; None keeps the official
            start.
        transfer: other initial weights than random ones.
        tissue: auxiliary head.
        ema_decay: decay of the averaged weights that are saved; 0 saves the last ones.
        precision: of convolutions. On CPUs, no stage of a network may see a patch 2 voxels deep in bfloat16
            (torch 2.13 then computes a wrong gradient of the weights). float16 scales the loss.
        compile: compile the network by `torch.compile`, which did not pay on CPUs, see docs/training.md.
        checkpoint_every, validate_every: steps; 0 never validates before the end.
        seed: of everything.
        workers: processes that prepare data.
        store_float16: whether the package keeps weights as float16, half as large.
    """

    output: str
    package: dict[str, Any]
    network: str = "DoDNet"
    network_arguments: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing
    inference: Inference
    only_tasks: tuple[str, ...] = ()
    synthetic: SyntheticData | None = None
    collection: CollectionData | None = None
    batch_size: int = 2
    accumulate: int = 1
    loss: Loss = field(default_factory=Loss)
    phases: tuple[Phase, ...]
    initial_logit: float | None = None
    transfer: Transfer | None = None
    tissue: Tissue | None = None
    ema_decay: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    checkpoint_every: int = 100
    validate_every: int = 0
    seed: int = 0
    workers: int = 1
    store_float16: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        expand_home(self, "output")
        given = sum(data is not None for data in (self.synthetic, self.collection))
        require(given == 1, f"synthetic, collection: expected one of the two, got {given or 'neither'}")
        require(len(self.phases) > 0, "phases: expected at least one, got none")
        require_at_least(self, batch_size=1, accumulate=1, checkpoint_every=1)
        require_at_least(self, validate_every=0, workers=0)
        require_seed(self)
        decay = self.ema_decay
        require(0 <= decay < 1, f"ema_decay: expected 0 or more and less than 1, got {decay}")
        require(
            self.tissue is None or self.synthetic is not None,
            "tissue: only synthetic images have labels for it; leave it out, or train on synthetic data",
        )

    @property
    def iterations(self) -> int:
        """Steps of the whole run."""
        return sum(phase.iterations for phase in self.phases)

    @property
    def trained_tasks(self) -> list[dict[str, Any]]:
        """Tasks of the package that are trained, as in its manifest."""
        tasks = self.package.get("tasks", [])
        return [task for task in tasks if not self.only_tasks or task.get("name") in self.only_tasks]

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the patches."""
        return self.inference.patch_size
