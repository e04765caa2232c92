"""The 2-D U-Net of Med-DANet version 2, which chooses the bits of its encoder's kernels for each slice.

Med-DANet V2, WACV 2024 (arXiv 2310.18656), as the official code has it; version 1 has nothing like it.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers.quantization import call_quantized
from .unet2d import UNet2d

STEM_BITS = 32
BIT_CHOICES = (8, 16)
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
SOBEL_SUM = 8  # of absolute values


class QuantizedFeatures(NamedTuple):
    """What the U-Net makes of slices.

    Attributes:
        decoder: (B, base_width, H, W), what the heads read.
        bits: (B, 4), of the kernels of each stage and of the convolution that leads on from it.
    """

    decoder: Tensor
    bits: Tensor


class QuantizedUNet2d(UNet2d):
    """A `UNet2d` whose encoder is quantised: the stem to 32 bits, every other convolution to 8 or 16.

    At each stage a linear layer sees how strongly the slice and how much the features vary, and chooses. The
    decoder is not quantised. Its head is part of official checkpoints, but version 2 has heads of its own.

    Args:
        in_channels: image channels.
        num_classes: output channels of the head.
        base_width: channels at full resolution.
    """

    def __init__(self, in_channels: int = 4, num_classes: int = 4, base_width: int = 16) -> None:
        super().__init__(in_channels, num_classes, base_width)
        self.selectors = nn.ModuleList(
            nn.Linear(2 * in_channels + width, len(BIT_CHOICES)) for width in self.encoder.widths
        )

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of slices (B, in_channels, H, W), by the head of its own."""
        return self.head(self.features(slices).decoder)

    def features(self, slices: Tensor) -> QuantizedFeatures:
        """Features and chosen bits of slices (B, in_channels, H, W); height and width are multiples of 8."""
        gradients = mean_gradients(slices)
        x = self.encoder.dropout(call_quantized(self.encoder.stem, slices, STEM_BITS))
        outputs: list[Tensor] = []
        bits: list[Tensor] = []
        for number, (select, stage) in enumerate(zip(self.selectors, self.encoder.stages, strict=True)):
            if number:
                x = _call_by_bits(self.encoder.downsampling[number - 1], x, bits[-1])
            deviations = x.flatten(2).std(dim=2)
            choices = select(torch.cat([gradients, deviations], dim=1)).argmax(dim=1)
            bits.append(choices.new_tensor(BIT_CHOICES)[choices])
            x = _call_by_bits(stage, x, bits[-1])
            outputs.append(x)
        return QuantizedFeatures(self.decoder(outputs), torch.stack(bits, dim=1))


def _call_by_bits(module: nn.Module, x: Tensor, bits: Tensor) -> Tensor:
    """Call a module with every slice's own number of bits (B,)."""
    if x.is_meta:  # nothing was chosen, and the arithmetic is the same
        return call_quantized(module, x, BIT_CHOICES[-1])
    results = {}
    for count in cast("list[int]", bits.unique().tolist()):
        results[count] = call_quantized(module, x[bits == count], count)
    if len(results) == 1:
        return results.popitem()[1]
    some = next(iter(results.values()))
    output = some.new_empty(len(x), *some.shape[1:])
    for count, result in results.items():
        output[bits == count] = result
    return output


def mean_gradients(slices: Tensor) -> Tensor:
    """Mean absolute Sobel gradient of each channel: (B, C, H, W) to (B, 2 C), along x and y of each in turn.

    The border is replicated; the filters are divided by the sum of their absolute values.
    """
    along_x = slices.new_tensor(SOBEL) / SOBEL_SUM
    channels = slices.shape[1]
    kernels = torch.stack([along_x, along_x.T])[:, None].repeat(channels, 1, 1, 1)
    padded = functional.pad(slices, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernels, groups=channels).abs().mean(dim=(2, 3))
