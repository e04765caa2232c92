"""nnU-Net version 2's plans.json and dataset.json: preprocessing, patches, network and labels of a model.

Isensee et al.: nnU-Net, Nature Methods 2021; nnU-Net Revisited, MICCAI 2024;
https://github.com/MIC-DKFZ/nnUNet. What a plan can ask for and this software cannot do is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

from ..errors import InputError
from ..manifest import Inference, NetworkSpec, Preprocessing, Task
from ..segmentation_files.label_names import structures_of_labels
from ..structures import load_structures
from .nnunet_network import planned_network
from .nnunet_resampling import planned_resampling
from .plan_fields import member, printable, triple

AXES = "SPL"  # array axes (z, y, x) of an axial DICOM series as SimpleITK, nnU-Net's reader, gives them
REORIENTED_AXES = "SAR"  # of files in RAS
REORIENTING = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
READERS = (None, "SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO", *REORIENTING)


@dataclass(frozen=True)
class Plan:
    """One configuration of a plan, with the data set it was made for.

    Attributes:
        plans: contents of plans.json.
        dataset: contents of dataset.json.
        configuration: name of a configuration, such as "3d_fullres".
    """

    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: str

    @property
    def name(self) -> str:
        """The data set's name, such as Dataset003_Liver."""
        return printable(self.plans.get("dataset_name", "nnunet"))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, with what it inherits from others.

        Raises:
            InputError: the plan has no such configuration, or it is two-dimensional or a cascade.
        """
        configurations = member(self.plans, "configurations", dict)
        settings: dict[str, Any] = {}
        name: Any = self.configuration
        for _ in range(len(configurations) + 1):
            settings = {**member(configurations, name, dict), **settings}
            name = settings.pop("inherits_from", None)
            if name is None:
                break
        if settings.get("previous_stage"):
            raise InputError(
                f"{self.configuration} is the second stage of a cascade, which is not supported; import the "
                "model of 3d_fullres or 3d_lowres."
            )
        if len(member(settings, "patch_size", list)) != 3:
            raise InputError(
                f"{self.configuration} has no three-dimensional patch, and models of single slices are not "
                "supported; import that of 3d_fullres or 3d_lowres."
            )
        return settings

    def preprocessing(self) -> Preprocessing:
        """Orientation, spacing, intensities and interpolation.

        Raises:
            InputError: more than one channel, not CT, or a reader or way of resampling that is not known.
        """
        settings = self.settings
        self._refuse_other_classes(settings)
        channels = "channel_names" if "channel_names" in self.dataset else "modality"
        if len(member(self.dataset, channels, dict)) != 1:
            raise InputError("the model needs several image channels; only CT alone is supported.")
        if settings.get("normalization_schemes") != ["CTNormalization"]:
            raise InputError(
                f"the images are normalised by {settings.get('normalization_schemes')}, not as CT; only "
                "models for CT can be imported."
            )
        older = member(self.plans, "foreground_intensity_properties_by_modality", dict, {})
        intensities = member(self.plans, "foreground_intensity_properties_per_channel", dict, older)
        axes = self._axes()
        order = member(self.plans, "transpose_forward", list, [0, 1, 2])
        if tuple(order) not in permutations(range(3)):
            raise InputError(f"transpose_forward is {order}, not an order of the three axes.")
        return Preprocessing(
            orientation="".join(axes[int(axis)] for axis in order),
            spacing=triple(settings, "spacing", float),
            clip_first=True,
            **intensity_range(intensities.get("0")),
            **planned_resampling(settings),
        )

    @property
    def reorients(self) -> bool:
        """Whether the plan names a reader that turns every image to one orientation."""
        return self.plans.get("image_reader_writer") in REORIENTING

    def inference(self, mirror_axes: Sequence[int] | None) -> Inference:
        """Patches and blending, as nnU-Net's predictor has them.

        Args:
            mirror_axes: along which the training mirrored.
        """
        return Inference(
            patch_size=triple(self.settings, "patch_size", int),
            overlap=0.5,
            activation=self.activation,
            blend="logits",
            mirror_axes=tuple(mirror_axes or ()),
            patch_positions="even",
            padding="both sides",
        )

    @property
    def regions(self) -> bool:
        """Whether labels are regions, made of several values, that overlap."""
        return any(isinstance(value, list) and len(value) > 1 for value in self._labels().values())

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """Of the heads: regions have one sigmoid each."""
        return "sigmoid" if self.regions else "softmax"

    def task(self) -> tuple[Task, tuple[str, ...]]:
        """The labels as one task named after the data set, and which of its structures have no code.

        Raises:
            InputError: dataset.json has no labels but the background.
        """
        labels = self._labels()
        structures = structures_of_labels(labels)
        if self.regions:
            channels = {structures[label]: number for number, label in enumerate(labels)}
        else:
            channels = {structures[label]: _single(value, label) for label, value in labels.items()}
        uncoded = tuple(structure for structure in channels if structure not in load_structures())
        return Task(self.name.partition("_")[2].replace("_", " ") or self.name, channels), uncoded

    def map_values(self, task: Task) -> dict[str, int]:
        """The value that each structure has in nnU-Net's label maps.

        There each voxel has one value; of overlapping regions the one that regions_class_order names last.

        Args:
            task: of this plan.

        Raises:
            InputError: regions without such an order; the message is the middle of a sentence.
        """
        if not self.regions:
            return dict(task.structures)
        order = self.dataset.get("regions_class_order")
        if not isinstance(order, list) or [type(value) for value in order] != [int] * len(task.structures):
            raise InputError("dataset.json has no regions_class_order with a whole number for each region")
        return dict(zip(task.structures, order, strict=True))

    @property
    def label_values(self) -> set[int]:
        """The values of the labels, and of those that regions are made of."""
        values = [value if isinstance(value, list) else [value] for value in self._labels().values()]
        return {value for several in values for value in several if isinstance(value, int)}

    @property
    def num_channels(self) -> int:
        """Output channels: a head for each region, or for each label and the background."""
        return len(self._labels()) + (0 if self.regions else 1)

    def network(self) -> NetworkSpec:
        """The U-Net that the plan describes.

        Raises:
            InputError: another architecture, or an option of it that is not supported.
        """
        return planned_network(self.settings, self.num_channels)

    def _refuse_other_classes(self, settings: Mapping[str, Any]) -> None:
        """Refuse a preprocessor or label manager that is not nnU-Net's own; names lead to classes there."""
        for name, known in (("preprocessor_name", "DefaultPreprocessor"), ("label_manager", "LabelManager")):
            given = settings.get(name, self.plans.get(name))
            if given not in (None, known):
                raise InputError(
                    f"its {name} is {given!r}, not nnU-Net's own {known}; what it does is not known."
                )

    def _axes(self) -> str:
        """What the axes (z, y, x) of a training image are.

        nnU-Net takes a file's axes as they are stored, so nothing says how its training images were oriented:
        the orientation is that of an axial DICOM series, unless the plan names a reader that reorients. The
        files of TotalSegmentator are stored in RAS.

        Raises:
            InputError: a reader that nnU-Net does not have.
        """
        reader = self.plans.get("image_reader_writer")
        if reader not in READERS:
            raise InputError(
                f"its images were read by {reader!r}, and how that orients them is not known; only models "
                f"with one of nnU-Net's readers can be imported ({', '.join(filter(None, READERS))})."
            )
        in_ras = self.reorients or "totalsegmentator" in self.name.lower()
        return REORIENTED_AXES if in_ras else AXES

    def _labels(self) -> dict[str, Any]:
        """The labels without background and "ignore", in the order of dataset.json."""
        labels = {
            str(label): value
            for label, value in member(self.dataset, "labels", dict).items()
            if label != "ignore" and value not in (0, [0])
        }
        if not labels:
            raise InputError("dataset.json has no labels but the background.")
        return labels


def intensity_range(properties: Any, deviation_name: str = "std") -> dict[str, Any]:
    """Fields of `Preprocessing`: clip to percentiles 0.5 and 99.5 of the foreground, mean 0, deviation 1.

    Pads with the mean, as nnU-Net does with 0 after this.

    Raises:
        InputError: a number is missing or not finite.
    """
    names = ("percentile_00_5", "percentile_99_5", "mean", deviation_name)
    try:
        low, high, mean, deviation = (float(properties[name]) for name in names)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"the intensities lack one of {', '.join(names)}.") from None
    if not all(map(math.isfinite, (low, high, mean, deviation))):
        raise InputError(f"one of the intensities {', '.join(names)} is not finite.")
    return {"clip": (low, high), "subtract": mean, "divide": max(deviation, 1e-8), "pad_value": mean}


def _single(value: Any, label: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"the label {label!r} has the value {value!r}, not a whole number.")
    return value
