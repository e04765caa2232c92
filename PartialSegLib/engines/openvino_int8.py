"""Convolutions of an OpenVINO model in 8-bit integers: quantization after training, calibrated on patches.

A kernel is rounded to 255 levels, with a scale for each of its output channels; what a convolution reads to
256 levels between the extremes that it reached on the patches (Jacob et al. 2018, arXiv 1712.05877). OpenVINO
runs such convolutions in 8-bit integers, and everything else as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

FEWEST_CHANNELS = 4
"""Convolutions that read fewer channels stay as they are: they gain nothing, and the CT comes in by one."""

_SMALLEST = 1e-8  # a channel of zeros has a scale, too


def quantize_convolutions(model: Any, patches: Iterable[np.ndarray], settings: dict[str, Any]) -> None:
    """Mark the convolutions of a model for 8-bit integers, in place.

    Args:
        model: `openvino.Model` with one input.
        patches: inputs that resemble what will come, float32; at least one.
        settings: of `compile_model`, for the pass over the patches.
    """
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())  # standardized weights become constants
    manager.run_passes(model)
    convolutions = [node for node in model.get_ordered_ops() if _can_be_quantized(node)]
    ranges = _input_ranges(model, convolutions, patches, settings)
    for convolution, (lowest, highest) in zip(convolutions, ranges, strict=True):
        _quantize(convolution, lowest, highest)
    model.validate_nodes_and_infer_types()


def _can_be_quantized(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    kernel = node.input_value(1)
    return kernel.get_node().get_type_name() == "Constant" and kernel.get_shape()[1] >= FEWEST_CHANNELS


def _input_ranges(
    model: Any, convolutions: list[Any], patches: Iterable[np.ndarray], settings: dict[str, Any]
) -> list[tuple[float, float]]:
    """The lowest (at most 0) and the highest value that each convolution reads."""
    import openvino
    from openvino import opset13 as operations

    extremes = []
    for convolution in convolutions:
        source = convolution.input_value(0)
        axes = np.arange(len(convolution.input_value(1).get_shape()))
        extremes += [operations.reduce_min(source, axes, False), operations.reduce_max(source, axes, False)]
    observed = openvino.Model(extremes, model.get_parameters())
    request = openvino.Core().compile_model(observed, "CPU", settings).create_infer_request()
    found = [list(request.infer([patch]).values()) for patch in patches]
    values = np.array(found, np.float64).reshape(len(found), len(convolutions), 2)
    lowest, highest = values[..., 0].min(0), values[..., 1].max(0)
    return list(zip(np.minimum(lowest, 0).tolist(), np.maximum(highest, _SMALLEST).tolist(), strict=True))


def _quantize(convolution: Any, lowest: float, highest: float) -> None:
    """Round what a convolution reads, and its kernel."""
    weights = np.asarray(convolution.input_value(1).get_node().get_data(), np.float32)
    per_channel = (len(weights), *[1] * (weights.ndim - 1))
    largest = np.abs(weights).reshape(len(weights), -1).max(1).clip(_SMALLEST).reshape(per_channel)
    _round_input(convolution.input(0), np.float32(lowest), np.float32(highest), 256)
    _round_input(convolution.input(1), -largest, largest, 255)


def _round_input(place: Any, low: Any, high: Any, levels: int) -> None:
    """Round what comes in at a place to equally spaced levels from low to high."""
    from openvino import opset13 as operations

    limits = [operations.constant(limit) for limit in (low, high, low, high)]
    rounded = operations.fake_quantize(place.get_source_output(), *limits, levels)
    place.replace_source_output(rounded.output(0))
