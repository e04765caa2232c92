"""The network that a plan of nnU-Net version 2 describes, in the words of dynamic-network-architectures.

https://github.com/MIC-DKFZ/dynamic-network-architectures. What is not built here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..manifest import NetworkSpec
from .plan_fields import member, per_stage, triples

PLAIN = "PlainConvUNet"
RESIDUAL = "ResidualEncoderUNet"
IGNORED_ARGUMENTS = {
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage"),
    *("n_blocks_per_stage", "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs"),
    *("dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "deep_supervision"),
    *("nonlin_first", "block", "bottleneck_channels", "stem_channels", "pool"),
}


def planned_network(settings: Mapping[str, Any], channels: int) -> NetworkSpec:
    """The U-Net of a configuration.

    Args:
        settings: of the configuration, in the spelling of plans since or before nnU-Net 2.4.
        channels: outputs of the network.

    Raises:
        InputError: another architecture, or an option of it that is not supported.
    """
    if "architecture" in settings:
        architecture = member(settings, "architecture", dict)
        name = str(architecture.get("network_class_name", "")).rpartition(".")[2]
        return _network(name, member(architecture, "arch_kwargs", dict), channels)
    name = str(settings.get("UNet_class_name", ""))
    return _network(name, _arguments_before_2_4(settings), channels)


def _network(name: str, arguments: Mapping[str, Any], channels: int) -> NetworkSpec:
    """A network from the arguments of its class in dynamic-network-architectures."""
    if name not in (PLAIN, RESIDUAL):
        raise InputError(f"the network is {name or 'not named'}; {PLAIN} and {RESIDUAL} can be imported.")
    _refuse_variants(name, arguments)
    kernels, strides = triples(arguments, "kernel_sizes"), triples(arguments, "strides")
    units = "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"
    stages = len(kernels)
    bias = bool(arguments.get("conv_bias", False))
    built: dict[str, Any] = {
        "task_channels": [channels],
        "widths": per_stage(arguments, "features_per_stage", stages),
        "kernel_sizes": kernels,
        "strides": strides,
        "depths": per_stage(arguments, units, stages),
        "decoder_depths": per_stage(arguments, "n_conv_per_stage_decoder", stages - 1),
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
    norm, nonlin = (member(arguments, name, dict, {}) for name in ("norm_op_kwargs", "nonlin_kwargs"))
    if norm.get("eps", 1e-5) != 1e-5 or not norm.get("affine", True):
        raise InputError(f"the normalisation has the options {norm}, which are not supported.")
    if nonlin.get("negative_slope", 0.01) != 0.01:
        raise InputError(f"the activation has the options {nonlin}, which are not supported.")


def _arguments_before_2_4(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the network as plans before nnU-Net 2.4 spell them."""
    kernels = member(settings, "conv_kernel_sizes", list)
    base = member(settings, "UNet_base_num_features", int)
    widest = member(settings, "unet_max_num_features", int, 320)
    units = member(settings, "n_conv_per_stage_encoder", list)
    return {
        "features_per_stage": [min(base * 2**stage, widest) for stage in range(len(kernels))],
        "kernel_sizes": kernels,
        "strides": member(settings, "pool_op_kernel_sizes", list),
        "n_conv_per_stage": units,
        "n_blocks_per_stage": units,
        "n_conv_per_stage_decoder": member(settings, "n_conv_per_stage_decoder", list),
        "conv_bias": True,
    }
