"""The dynamic head: a few 1x1x1 convolutions whose kernels a controller generates for each image and task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_VOXELS = 1 << 17


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

    Every sample has its own kernels. In channels-last order a 1x1x1 convolution of 8 channels on a CPU takes
    a quarter of the time of the same product with the channels first. Without gradients it runs in blocks of
    slices: fresh memory for whole patches costs more than the arithmetic.

    Args:
        features: (B, widths[0], D, H, W); may be of lower precision than the parameters.
        parameters: (B, P), what the controller generated.
        widths: channels before, between and after the layers.

    Returns:
        Logits (B, widths[-1], D, H, W), of the type of the parameters.
    """
    layers = split_head_parameters(parameters, widths)
    samples = features.contiguous(memory_format=torch.channels_last_3d).split(1)
    if torch.is_grad_enabled():
        return torch.cat([_apply_layers(x, layers, number) for number, x in enumerate(samples)])
    logits = parameters.new_empty(features.shape[0], widths[-1], *features.shape[2:])
    slices = max(1, BLOCK_VOXELS // (features.shape[3] * features.shape[4]))
    for number, x in enumerate(samples):
        blocks = zip(x.split(slices, 2), logits[number : number + 1].split(slices, 2), strict=True)
        for block, result in blocks:
            result.copy_(_apply_layers(block.to(parameters.dtype), layers, number))
    return logits


def _apply_layers(x: Tensor, layers: list[tuple[Tensor, Tensor]], sample: int) -> Tensor:
    """The layers of one sample on its features (1, C, D, H, W)."""
    for number, (weights, biases) in enumerate(layers):
        if number > 0:
            x = functional.relu(x, inplace=not torch.is_grad_enabled())
        x = functional.conv3d(x, weights[sample, ..., None, None, None], biases[sample, :, 0])
    return x
