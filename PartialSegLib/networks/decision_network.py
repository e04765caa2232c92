"""Med-DANet's decision network: a reduced ShuffleNetV2 that says how much work a slice deserves.

Wang et al.: Med-DANet: Dynamic Architecture Network for Efficient Medical Volumetric Segmentation, ECCV 2022,
section 3.2 and equation 2; the units are those of Ma et al.: ShuffleNet V2, ECCV 2018, Figure 3 (c) and (d).
The paper reduces "the channel size"; the widths are those of the official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

STRIDE = 32  # of the last map
NORM_BIAS = 1e-4  # at the start of training
KERNEL_DEVIATION = 0.01  # of the first convolution and the classifier at the start of training


class ShuffleUnit(nn.Module):
    """Half of the channels pass through; the other half is convolved.

    The channels are shuffled by how they are split: the even ones pass through and come first.

    Args:
        channels: of input and output, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.main = nn.Sequential(*_pointwise(half, half), *_depthwise(half, 1), *_pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to the same shape."""
        return torch.cat([x[:, ::2], self.main(x[:, 1::2])], dim=1)


class DownsamplingShuffleUnit(nn.Module):
    """Both branches see the whole input and halve its size.

    Args:
        in_channels: of the input; one branch keeps them.
        out_channels: of the output, even and more than `in_channels`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.projection = nn.Sequential(*_depthwise(in_channels, 2), *_pointwise(in_channels, in_channels))
        self.main = nn.Sequential(
            *_pointwise(in_channels, half),
            *_depthwise(half, 2),
            *_pointwise(half, out_channels - in_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, out_channels, ceil(H/2), ceil(W/2))."""
        return torch.cat([self.projection(x), self.main(x)], dim=1)


class DecisionNetwork(nn.Module):
    """Classifies slices by what to do with them; five choices have 66,220 parameters, three 65,708.

    As in the official code the last map is averaged over one window of `input_size` // 32 pixels at its top
    left, so slices of 240 pixels, whose map has 8 x 8, are judged without its last row and column.

    Args:
        in_channels: image channels (BraTS: four modalities).
        num_choices: what there is to choose from: skip and each candidate.
        input_size: height and width of the slices.
        stem_width: channels after the first convolution.
        stage_widths: channels of the stages, even; each halves the size.
        depths: units of the stages.
        last_width: channels that the classifier sees.

    Raises:
        ValueError: `input_size` is less than 32.
    """

    def __init__(
        self,
        in_channels: int = 4,
        num_choices: int = 5,
        input_size: int = 240,
        stem_width: int = 12,
        stage_widths: Sequence[int] = (24, 48, 96),
        depths: Sequence[int] = (4, 8, 4),
        last_width: int = 256,
    ) -> None:
        super().__init__()
        if input_size < STRIDE:
            raise ValueError(f"input_size is {input_size}, which is less than {STRIDE}")
        self.input_size = input_size
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem_width),
            nn.ReLU(inplace=True),
        )
        self.max_pooling = nn.MaxPool2d(3, 2, 1)
        self.units = nn.Sequential()
        for (before, width), depth in zip(pairwise((stem_width, *stage_widths)), depths, strict=True):
            self.units.append(DownsamplingShuffleUnit(before, width))
            self.units.extend(ShuffleUnit(width) for _ in range(depth - 1))
        self.last = nn.Sequential(*_pointwise(stage_widths[-1], last_width))
        self.average_pooling = nn.AvgPool2d(input_size // STRIDE)
        self.classifier = nn.Linear(last_width, num_choices, bias=False)
        self._initialize()

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B, num_choices) of slices (B, in_channels, input_size, input_size).

        Raises:
            ValueError: the slices have another height or width.
        """
        if slices.shape[2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"The decision network is for {self.input_size} x {self.input_size} pixels, "
                f"not {slices.shape[2]} x {slices.shape[3]}."
            )
        x = self.units(self.max_pooling(self.stem(slices)))
        return self.classifier(self.average_pooling(self.last(x))[:, :, 0, 0])

    def _initialize(self) -> None:
        """Start as the official code does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _draw(module.weight, 1 / module.weight.shape[1])
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, NORM_BIAS)
        for kernel in (self.stem[0].get_parameter("weight"), self.classifier.weight):
            _draw(kernel, KERNEL_DEVIATION)


def _draw(kernel: Tensor, deviation: float) -> None:
    """Fill a kernel with normal numbers."""
    # Tensor.normal_ on the meta device would import PyTorch's compiler, which takes seconds.
    with torch.no_grad():
        kernel.copy_(torch.randn_like(kernel) * deviation)


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """1x1 convolution, batch normalisation and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    """3x3 convolution of each channel by itself and batch normalisation."""
    convolution = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]
