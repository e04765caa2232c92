"""Med-DANet version 2: skip a slice, segment a part of it, or all of it, with a quantised 2-D U-Net.

Med-DANet V2, WACV 2024 (arXiv 2310.18656), as the official code has it
(https://github.com/Rubics-Xuan/Med-DANet); version 1, of ECCV 2022, is in `slice_bank`. The network sees
windows of 128 x 128 pixels. The official test script takes one every 42 pixels of a slice, averages the
scores, applies a second softmax, averages over mirrored slices and takes the arg-max: that is not part of the
network but of a manifest, see `importers.meddanet.V2_INFERENCE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .decision_network import DecisionNetwork
from .quantized_unet2d import STEM_BITS, QuantizedUNet2d
from .slice_bank import CaseReport
from .slice_network import SliceNetwork, by_patch, slices_of
from .unet2d import segmentation_head

SIZE = 128  # height and width of the slices
CROP_SIZE = 96  # of the part that is segmented if a part is enough

WHOLE_COSTS = (94.371, 169.87, 169.868, 314.644, 319.247)
CROP_COSTS = (53.085, 95.551, 95.553, 169.871, 185.94)
"""Millions of multiply-adds at the four stages and in the decoder, as the official code estimates them."""


class Choice(IntEnum):
    """What the decision network chooses from."""

    SKIP = 0
    CROP = 1
    WHOLE = 2


class SliceSegmentation(NamedTuple):
    """What version 2 makes of slices.

    Attributes:
        logits: (B, num_classes, 128, 128), before the softmax; 0 where a slice is skipped.
        choices: (B,), see `Choice`.
        gflops: (B,), the official estimate of the arithmetic, less for fewer bits; 0 for skipped slices.
    """

    logits: Tensor
    choices: Tensor
    gflops: Tensor

    @property
    def scores(self) -> Tensor:
        """The official output: a softmax, but 0 for all classes, background too, where a slice is skipped."""
        kept = self.choices != Choice.SKIP
        return self.logits.softmax(dim=1) * kept[:, None, None, None]


class JudgedSlices(NamedTuple):
    """What is kept of a patch.

    Attributes:
        logits: (B, num_classes, D, 128, 128).
        choices: (B, D), see `Choice`.
        gflops: (B, D), estimated.
    """

    logits: Tensor
    choices: Tensor
    gflops: Tensor


class ChosenSegmentation(NamedTuple):
    """Slices of one choice.

    Attributes:
        logits: (B, num_classes, 128, 128), before the softmax.
        bits: (B, 4), of the kernels of each stage.
        gflops: (B,), estimated.
    """

    logits: Tensor
    bits: Tensor
    gflops: Tensor


class MedDANetV2(SliceNetwork):
    """With four image channels this is the official network (1,750,908 parameters).

    Skipped slices have logits of 0. The official code gives them scores of 0, and a softmax of our logits the
    same score to every class; in a mean with other windows that adds one number to all classes, which
    neither the second softmax nor the arg-max sees.

    For inference only: rounded kernels have no gradient.

    Args:
        in_channels: image channels (BraTS: FLAIR, T1 with contrast, T1, T2).
        num_classes: output channels, the first of them background.
        base_width: channels of the U-Net at full resolution.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, base_width: int = 16) -> None:
        super().__init__([num_classes], SIZE)
        self.num_classes = num_classes
        self.decision_network = DecisionNetwork(in_channels, len(Choice), SIZE)
        self.action_network = DecisionNetwork(in_channels, 2, SIZE)
        self.unet = QuantizedUNet2d(in_channels, num_classes, base_width)
        self.crop_head = segmentation_head(base_width, num_classes)
        self.whole_head = segmentation_head(base_width, num_classes)

    def forward_features(self, patch: Tensor) -> JudgedSlices:
        """Judge and segment the slices of patch (B, in_channels, D, 128, 128).

        On the "meta" device, where arithmetic is counted without an image, nothing can be chosen: every slice
        is segmented whole, so the count is an upper bound.

        Raises:
            ValueError: the patch has another height or width, or the network is in training mode.
        """
        if self.training:
            raise ValueError("version 2 is for inference only, rounded kernels have no gradient")
        slices = slices_of(patch)
        if patch.is_meta:
            choices = self.decision_network(slices).argmax(dim=1)
            whole = self.segment_whole(slices)
            judged = SliceSegmentation(whole.logits, choices, whole.gflops)
        else:
            with torch.autocast(patch.device.type, enabled=False):
                judged = self.segment(slices)
        logits, choices, gflops = (by_patch(values, patch) for values in judged)
        return JudgedSlices(logits.transpose(1, 2), choices, gflops)

    def decisions(self, features: JudgedSlices) -> Tensor:
        """Choice and estimated arithmetic (B, D, 2) for the slices of a patch."""
        return torch.stack([features.choices.float(), features.gflops.float()], dim=-1)

    def describe_decisions(self, decisions: Sequence[Tensor]) -> dict[str, Any]:
        """Share of the windows for each choice, and FLOPs in thousand millions, see `CaseReport`.

        FLOPs are twice the official estimate, which counts multiply-adds, without those of decision and
        action network. Windows of mirrored slices count too; the official code leaves these out.
        """
        rows = torch.cat([patch.flatten(0, -2) for patch in decisions]).float()
        choices, gflops = rows.unbind(dim=1)
        options = tuple(choice.name.lower() for choice in Choice)
        return CaseReport(options, tuple(choices.int().tolist()), tuple((2e9 * gflops).tolist())).describe()

    def segment(self, slices: Tensor) -> SliceSegmentation:
        """Judge and segment slices (B, in_channels, 128, 128).

        Raises:
            ValueError: the slices have another height or width.
        """
        choices = self.decision_network(slices).argmax(dim=1)
        logits = slices.new_zeros(len(slices), self.num_classes, SIZE, SIZE)
        gflops = slices.new_zeros(len(slices))
        for choice, segment in ((Choice.CROP, self.segment_crop), (Choice.WHOLE, self.segment_whole)):
            chosen = choices == choice
            if chosen.any():
                result = segment(slices[chosen])
                logits[chosen] = result.logits
                gflops[chosen] = result.gflops
        return SliceSegmentation(logits, choices, gflops)

    def segment_whole(self, slices: Tensor) -> ChosenSegmentation:
        """Segment all of slices (B, in_channels, 128, 128)."""
        features = self.unet.features(slices)
        logits = self.whole_head(features.decoder)
        gflops = estimated_gflops(features.bits.to(logits.dtype), WHOLE_COSTS)
        return ChosenSegmentation(logits, features.bits, gflops)

    def segment_crop(self, slices: Tensor) -> ChosenSegmentation:
        """Segment the part of slices (B, in_channels, 128, 128) that the action network points at.

        The features around that part are zeros, so the head decides there by its biases.
        """
        positions = self.action_network(slices).sigmoid()
        features = self.unet.features(cut(slices, positions))
        logits = self.crop_head(paste(features.decoder, positions))
        gflops = estimated_gflops(features.bits.to(logits.dtype), CROP_COSTS)
        return ChosenSegmentation(logits, features.bits, gflops)


def estimated_gflops(bits: Tensor, costs: Sequence[float]) -> Tensor:
    """The official estimate (B,), for the official sizes, in thousands of millions of multiply-adds.

    Args:
        bits: (B, 4), floating, of the kernels of each stage; its cost is that fraction of 32 bits.
        costs: `WHOLE_COSTS` or `CROP_COSTS`; the last one, of the decoder, counts in full.
    """
    *stages, decoder = costs
    factors = bits / STEM_BITS
    return (factors @ factors.new_tensor(stages) + decoder) / 1000


def cut(slices: Tensor, positions: Tensor) -> Tensor:
    """Cut 96 x 96 pixels out of slices (B, C, 128, 128), interpolated linearly.

    Args:
        slices: to cut from.
        positions: (B, 2), where the upper left pixel lies along y and x, as fractions of what is left over.
    """
    y, x = positions.unbind(dim=1)
    return _shifted(slices, x, y, CROP_SIZE)


def paste(features: Tensor, positions: Tensor) -> Tensor:
    """Put features (B, C, 96, 96) back into slices (B, C, 128, 128) of zeros.

    As in the official code x and y are swapped: what was cut at (y, x) is put at (x, y), both in pixels from
    the upper left. Checkpoints were trained that way.

    Args:
        features: of what was cut out.
        positions: (B, 2), as `cut` had them.
    """
    border = SIZE - CROP_SIZE
    x, y = positions.unbind(dim=1)
    return _shifted(functional.pad(features, (0, border, 0, border)), -x, -y, SIZE)


def _shifted(images: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Read size x size pixels of images (B, C, 128, 128), with zeros around them.

    Args:
        images: to read from.
        x: (B,), of the first pixel, as a fraction of 32 pixels.
        y: as `x`.
        size: of the result.
    """
    scale = size / SIZE  # grids go from -1 to 1 across an image
    shift = 2 * (SIZE - CROP_SIZE) / SIZE
    matrices = images.new_zeros(len(images), 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = torch.stack([x, y], dim=1) * shift - (1 - scale)
    grid = functional.affine_grid(matrices, [len(images), 1, size, size], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
