"""nnU-Net version 2's plans.json and dataset.json: preprocessing, patches, network and labels of a model.

Isensee et al.: nnU-Net, Nature Methods 2021; nnU-Net Revisited, MICCAI 2024;
https://github.com/MIC-DKFZ/nnUNet. What a plan can ask for and this software cannot do is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from ..manifest import Inference, NetworkSpec, Preprocessing, Task
from ..structures import load_structures
from .label_names import structures_of_labels

AXES = "SPL"  # array axes (z, y, x) of an axial DICOM series as SimpleITK, nnU-Net's reader, gives them
REORIENTING_READER = "NibabelIOWithReorient"
REORIENTED_AXES = "SAR"

CUBIC = "resample_data_or_seg_to_shape"
TRILINEAR = ("resample_torch_simple", "resample_torch_fornnunet")
SEPARATE_ABOVE = 3.0  # nnU-Net's ANISO_THRESHOLD

PLAIN = "PlainConvUNet"
RESIDUAL = "ResidualEncoderUNet"
IGNORED_ARGUMENTS = {
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage"),
    *("n_blocks_per_stage", "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs"),
    *("dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "deep_supervision"),
    *("nonlin_first", "block", "bottleneck_channels", "stem_channels", "pool"),
}


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
        return str(self.plans.get("dataset_name", "nnunet"))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, with what it inherits from others.

        Raises:
            InputError: the plan has no such configuration, or it is two-dimensional or a cascade.
        """
        configurations = _member(self.plans, "configurations", dict)
        settings: dict[str, Any] = {}
        name: Any = self.configuration
        for _ in range(len(configurations) + 1):
            settings = {**_member(configurations, name, dict), **settings}
            name = settings.pop("inherits_from", None)
            if name is None:
                break
        if settings.get("previous_stage"):
            raise InputError(
                f"{self.configuration} is the second stage of a cascade, which is not supported; import the "
                "model of 3d_fullres or 3d_lowres."
            )
        if len(_member(settings, "patch_size", list)) != 3:
            raise InputError(
                f"{self.configuration} has no three-dimensional patch; import the model of 3d_fullres."
            )
        return settings

    def preprocessing(self) -> Preprocessing:
        """Orientation, spacing, intensities and interpolation.

        nnU-Net takes a file's axes as they are stored, so nothing says how its training images were oriented:
        the orientation is that of an axial DICOM series, unless the plan names the reader that reorients.

        Raises:
            InputError: more than one channel, not CT, or a way of resampling that is not known.
        """
        settings = self.settings
        if len(_member(self.dataset, "channel_names", dict)) != 1:
            raise InputError("the model needs several image channels; only CT alone is supported.")
        if settings.get("normalization_schemes") != ["CTNormalization"]:
            raise InputError(
                f"the images are normalised by {settings.get('normalization_schemes')}, not as CT; only "
                "models for CT can be imported."
            )
        intensities = _member(self.plans, "foreground_intensity_properties_per_channel", dict)
        axes = REORIENTED_AXES if self.plans.get("image_reader_writer") == REORIENTING_READER else AXES
        order = self.plans.get("transpose_forward", [0, 1, 2])
        if sorted(order) != [0, 1, 2]:
            raise InputError(f"transpose_forward is {order}, not an order of the three axes.")
        return Preprocessing(
            orientation="".join(axes[axis] for axis in order),
            spacing=_triple(settings, "spacing", float),
            clip_first=True,
            **intensity_range(intensities.get("0")),
            **_interpolation(settings),
        )

    def inference(self, mirror_axes: Sequence[int] | None) -> Inference:
        """Patches and blending, as nnU-Net's predictor has them.

        Args:
            mirror_axes: along which the training mirrored.
        """
        return Inference(
            patch_size=_triple(self.settings, "patch_size", int),
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

    @property
    def num_channels(self) -> int:
        """Output channels: a head for each region, or for each label and the background."""
        return len(self._labels()) + (0 if self.regions else 1)

    def network(self) -> NetworkSpec:
        """The U-Net that the plan describes.

        Raises:
            InputError: another architecture, or an option of it that is not supported.
        """
        settings = self.settings
        if "architecture" in settings:
            architecture = _member(settings, "architecture", dict)
            name = str(architecture.get("network_class_name", "")).rpartition(".")[2]
            return _network(name, _member(architecture, "arch_kwargs", dict), self.num_channels)
        name = str(settings.get("UNet_class_name", ""))
        return _network(name, _arguments_before_2_4(settings), self.num_channels)

    def _labels(self) -> dict[str, Any]:
        """The labels without background and "ignore", in the order of dataset.json."""
        labels = {
            str(label): value
            for label, value in _member(self.dataset, "labels", dict).items()
            if label != "ignore" and value not in (0, [0])
        }
        if not labels:
            raise InputError("dataset.json has no labels but the background.")
        return labels


def _network(name: str, arguments: Mapping[str, Any], channels: int) -> NetworkSpec:
    """A network from the arguments of its class in dynamic-network-architectures."""
    if name not in (PLAIN, RESIDUAL):
        raise InputError(f"the network is {name or 'not named'}; {PLAIN} and {RESIDUAL} can be imported.")
    _refuse_variants(name, arguments)
    kernels, strides = _triples(arguments, "kernel_sizes"), _triples(arguments, "strides")
    units = "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"
    stages = len(kernels)
    bias = bool(arguments.get("conv_bias", False))
    built: dict[str, Any] = {
        "task_channels": [channels],
        "widths": _per_stage(arguments, "features_per_stage", stages),
        "kernel_sizes": kernels,
        "strides": strides,
        "depths": _per_stage(arguments, units, stages),
        "decoder_depths": _per_stage(arguments, "n_conv_per_stage_decoder", stages - 1),
    }
    if name == PLAIN:
        if not bias:
            raise InputError("the convolutions have no bias (conv_bias), which is not supported.")
        return NetworkSpec("UNet", {**built, "upsampling_bias": True, "head_bias": True})
    extra = {"stem_kernel_size": kernels[0], "bias": bias, "pooled_shortcuts": True}
    return NetworkSpec("ResidualEncoderUNet", {**built, **extra})


def _refuse_variants(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what changes the network and is not built here."""
    unknown = sorted(arguments.keys() - IGNORED_ARGUMENTS)
    if unknown:
        raise InputError(f"the option {unknown[0]!r} of {name} is not supported.")
    expected = {
        "conv_op": "Conv3d",
        "norm_op": "InstanceNorm3d",
        "nonlin": "LeakyReLU",
        "block": "BasicBlockD",
        "pool": "conv",
    }
    for option, value in expected.items():
        given = arguments.get(option)
        if given is not None and str(given).rpartition(".")[2] != value:
            raise InputError(f"{option} is {given!r}; only {value} is supported.")
    for option in ("bottleneck_channels", "nonlin_first", "stem_channels"):
        if arguments.get(option):
            raise InputError(f"the option {option!r} of {name} is not supported.")
    norm, nonlin = arguments.get("norm_op_kwargs") or {}, arguments.get("nonlin_kwargs") or {}
    if norm.get("eps", 1e-5) != 1e-5 or not norm.get("affine", True):
        raise InputError(f"the normalisation has the options {norm}, which are not supported.")
    if nonlin.get("negative_slope", 0.01) != 0.01:
        raise InputError(f"the activation has the options {nonlin}, which are not supported.")


def _arguments_before_2_4(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the network as plans before nnU-Net 2.4 spell them."""
    kernels = _member(settings, "conv_kernel_sizes", list)
    base = _member(settings, "UNet_base_num_features", int)
    widest = settings.get("unet_max_num_features", 320)
    units = _member(settings, "n_conv_per_stage_encoder", list)
    return {
        "features_per_stage": [min(base * 2**stage, widest) for stage in range(len(kernels))],
        "kernel_sizes": kernels,
        "strides": _member(settings, "pool_op_kernel_sizes", list),
        "n_conv_per_stage": units,
        "n_blocks_per_stage": units,
        "n_conv_per_stage_decoder": _member(settings, "n_conv_per_stage_decoder", list),
        "conv_bias": True,
    }


def intensity_range(properties: Any, deviation_name: str = "std") -> dict[str, Any]:
    """Fields of `Preprocessing`: clip to percentiles 0.5 and 99.5 of the foreground, mean 0, deviation 1.

    Pads with the mean, as nnU-Net does with 0 after this.

    Raises:
        InputError: a number is missing.
    """
    names = ("percentile_00_5", "percentile_99_5", "mean", deviation_name)
    try:
        low, high, mean, deviation = (float(properties[name]) for name in names)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"the intensities lack one of {', '.join(names)}.") from None
    return {"clip": (low, high), "subtract": mean, "divide": max(deviation, 1e-8), "pad_value": mean}


def _interpolation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Cubic with the coarse axis apart, as nnU-Net does by default, or trilinear."""
    name = settings.get("resampling_fn_data", CUBIC)
    options = settings.get("resampling_fn_data_kwargs", {})
    if name in TRILINEAR:
        return {"resampling": "trilinear"}
    if name != CUBIC or options.get("order", 3) not in (1, 3) or options.get("order_z", 0) != 0:
        raise InputError(f"images are resampled by {name} with {options}, which is not supported.")
    separate = options.get("force_separate_z")
    above = {None: SEPARATE_ABOVE, False: None, True: 1.0}[separate]
    return {
        "resampling": "cubic" if options.get("order", 3) == 3 else "trilinear",
        "separate_above": above,
    }


def _member(container: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of a plan, of the wanted type.

    Raises:
        InputError: missing or of another type.
    """
    value = container.get(name)
    if not isinstance(value, kind):
        raise InputError(f"the field {name!r} is missing or no {kind.__name__}.")
    return value


def _triple(settings: Mapping[str, Any], name: str, kind: type) -> Any:
    values = _member(settings, name, list)
    if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"{name} is {values}, not three numbers.")
    return tuple(kind(value) for value in values)


def _triples(arguments: Mapping[str, Any], name: str) -> list[list[int]]:
    """Kernel sizes or strides of the stages; one number stands for three."""
    rows = [[row] * 3 if isinstance(row, int) else row for row in _member(arguments, name, list)]
    if not all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(n, int) for n in row) for row in rows
    ):
        raise InputError(f"{name} is {rows}, not three whole numbers for each stage.")
    return rows


def _per_stage(arguments: Mapping[str, Any], name: str, stages: int) -> list[int]:
    """Whole numbers of the stages; one number stands for all of them."""
    value = arguments.get(name)
    numbers = [value] * stages if isinstance(value, int) else value
    if (
        not isinstance(numbers, list)
        or len(numbers) != stages
        or not all(isinstance(n, int) for n in numbers)
    ):
        raise InputError(f"{name} is {value}, not {stages} whole numbers.")
    return numbers


def _single(value: Any, label: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int):
        raise InputError(f"the label {label!r} has the value {value!r}, not a whole number.")
    return value
