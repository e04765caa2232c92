"""3-D convolution that takes PyTorch's fast way on CPUs for single small images, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGE = 20480
"""Up to so many values (batch x channels x slices x rows) PyTorch 2.13 convolves a single float32 image by
matrix products, up to seven times slower than oneDNN. It does not count columns, for the rule is that of 2-D
images. A batch of two takes the fast way."""

_FEW = 100
"""Voxels from which other ways are faster."""

_plain = ContextVar("_plain", default=False)


@contextmanager
def left_to_pytorch() -> Iterator[None]:
    """Within it, in this thread, networks take PyTorch's own ways.

    For measuring with a small patch: other ways are taken, and cost other memory, by the size of an image.
    """
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def is_left_to_pytorch() -> bool:
    """Whether only PyTorch's own ways may be taken: so while a network is compiled or exported, too."""
    known = getattr(torch.compiler, "is_compiling", None)  # PyTorch 2.2 cannot say
    return _plain.get() or (known is not None and known())


def _is_float32_on_cpu(x: Tensor) -> bool:
    """Whether an image is convolved now, on a CPU, in float32."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or is_left_to_pytorch():
        return False
    try:
        return not torch.is_autocast_enabled("cpu")
    except TypeError:  # PyTorch 2.2 has a function for each kind of device
        return not torch.is_autocast_cpu_enabled()


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`: same function, same parameters, same gradient; zeros around the image.

    A single small float32 image on a CPU is convolved as a batch of its two halves, each with a rim of the
    other: oneDNN's way in a PyTorch that would not choose it, in training and inference alike. Kernels of one
    voxel are a matrix product of the channels, which lie last.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_float32_on_cpu(input) or input.shape[2:].numel() < _FEW:
            return super()._conv_forward(input, weight, bias)
        if self._is_pointwise(input):
            channels_last = functional.linear(input.movedim(1, -1), weight.flatten(1), bias)
            return channels_last.movedim(-1, 1)
        if self._is_slow(input):
            return self._convolve_halves(input, weight, bias)
        return super()._conv_forward(input, weight, bias)

    def _is_pointwise(self, x: Tensor) -> bool:
        """Whether convolving x (B, C, D, H, W) is a matrix product of its last axis in memory."""
        ones = (1, 1, 1)
        plain = self.kernel_size == ones == self.stride and self.padding == (0, 0, 0) and self.groups == 1
        return plain and x.is_contiguous(memory_format=torch.channels_last_3d)

    def _is_slow(self, x: Tensor) -> bool:
        """Whether PyTorch would convolve x (B, C, D, H, W) by matrix products although oneDNN can."""
        return (
            len(x) == 1
            and x.shape[1:4].numel() <= _LARGE
            and self.padding_mode == "zeros"
            and isinstance(self.padding, tuple)
            and self.dilation == (1, 1, 1)
            and self.groups == 1
            and torch.backends.mkldnn.is_available()
        )

    def _convolve_halves(self, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The upper and the lower half of the result's slices; of an odd number they share one."""
        rim, *rims = (int(size) for size in self.padding)
        size, step = self.kernel_size[0], self.stride[0]
        padded = functional.pad(image, (0, 0, 0, 0, rim, rim))
        depth = (padded.shape[2] - size) // step + 1
        half = -(-depth // 2)
        seen, start = (half - 1) * step + size, (depth - half) * step
        halves = torch.cat([padded[:, :, :seen], padded[:, :, start : start + seen]])
        upper, lower = functional.conv3d(halves, weight, bias, self.stride, (0, *rims)).split(1)
        return torch.cat([upper, lower[:, :, 2 * half - depth :]], dim=2)
