"""The dynamic head: a few 1x1x1 convolutions whose kernels a controller generates for each image and task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_VALUES = 1 << 19  # 2 MB in float32


def dynamic_head_widths(head_widths: Sequence[int], num_structures: int) -> tuple[int, ...]:
    """Channels before, between and after the layers of a head.

    Args:
        head_widths: channels before and between the layers; as many as there are layers.
        num_structures: output channels.

    Raises:
        ValueError: there is no layer, or one without channels.
    """
    widths = (*head_widths, num_structures)
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"head_widths and num_structures are {list(head_widths)} and {num_structures}, "
            "but a dynamic head has one or more layers of one or more channels"
        )
    return widths


def num_head_parameters(widths: Sequence[int]) -> int:
    """Number of generated parameters of a head with these channel widths, input and output included.

    (8, 8, 8, 2), three layers of width 8, gives the 162 of the DoDNet paper (section 3.4).
    """
    return sum(a * b + b for a, b in pairwise(widths))


def split_head_parameters(parameters: Tensor, widths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Cut the controller's output into weights and biases: all weights come first, then all biases.

    Args:
        parameters: (B, P) with P = num_head_parameters(widths).
        widths: channels before, between and after the layers.

    Returns:
        Per layer the weight (B, C_out, C_in) and the bias (B, C_out, 1).
    """
    shapes = [(out, into) for into, out in pairwise(widths)]
    sizes = [out * into for out, into in shapes] + [out for out, _ in shapes]
    parts = torch.split(parameters, sizes, dim=1)
    layers = len(shapes)
    weights = [part.unflatten(1, shape) for part, shape in zip(parts[:layers], shapes, strict=True)]
    return [(weight, bias.unsqueeze(-1)) for weight, bias in zip(weights, parts[layers:], strict=True)]


def apply_dynamic_head(features: Tensor, parameters: Tensor, widths: Sequence[int]) -> Tensor:
    """Run the generated layers on the decoder's features, ReLU between them (DoDNet, equation 7).

    Every row of the parameters is a head. Without gradients the layers are matrix products in blocks of
    voxels that stay in the processor's cache, and several heads on the same features share the first one.

    Args:
        features: (B, widths[0], D, H, W), or (1, ...) for heads that all see the same features; may be of
            lower precision than the parameters.
        parameters: (B, P), what the controller generated.
        widths: channels before, between and after the layers.

    Returns:
        Logits (B, widths[-1], D, H, W), of the type of the parameters.
    """
    layers = split_head_parameters(parameters, widths)
    if torch.is_grad_enabled():
        samples = features.contiguous(memory_format=torch.channels_last_3d).split(1)
        return torch.cat([_convolve(x, layers, number) for number, x in enumerate(samples)])
    shared = len(features) == 1
    logits = parameters.new_empty(len(parameters), widths[-1], *features.shape[2:])
    for number, sample in enumerate(features):
        rows = slice(None) if shared else slice(number, number + 1)
        own = [(weights[rows], biases[rows]) for weights, biases in layers]
        _apply_in_blocks(_voxel_columns(sample), own, logits[rows].flatten(2))
    return logits


def _convolve(x: Tensor, layers: list[tuple[Tensor, Tensor]], sample: int) -> Tensor:
    """The layers of one sample on its features (1, C, D, H, W).

    In channels-last order a 1x1x1 convolution of 8 channels on a CPU takes a quarter of the time of the same
    convolution with the channels first.
    """
    for number, (weights, biases) in enumerate(layers):
        if number > 0:
            x = functional.relu(x)
        x = functional.conv3d(x, weights[sample, ..., None, None, None], biases[sample, :, 0])
    return x


def _voxel_columns(sample: Tensor) -> Tensor:
    """Features (C, D, H, W) as (C, voxels), a view whether the channels are stored first or last."""
    return sample.flatten(1) if sample.is_contiguous() else sample.movedim(0, -1).flatten(0, 2).T


def _apply_in_blocks(columns: Tensor, layers: list[tuple[Tensor, Tensor]], logits: Tensor) -> None:
    """The layers of T heads on columns (C, voxels), into logits (T, K, voxels)."""
    (first, first_bias), *further = layers
    heads, _, voxels = logits.shape
    block = max(1, BLOCK_VALUES // max(weights.shape[1] * heads for weights, _ in layers))
    for start in range(0, voxels, block):
        part = columns[:, start : start + block].to(logits.dtype)
        x = torch.addmm(first_bias.flatten(0, 1), first.flatten(0, 1), part).unflatten(0, (heads, -1))
        for weights, biases in further:
            x = torch.baddbmm(biases, weights, x.relu_())
        logits[:, :, start : start + block] = x
