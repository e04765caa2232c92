"""Networks with one decoder for all tasks: told the task at the input, in the decoder, or not at all.

Baselines of DoDNet (Zhang et al., CVPR 2021, section 4.3 and Table 6), with its encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from .encoder_decoder import DecoderFeatures
from .layers.blocks import WeightStandardizedConv3d, norm_relu, projection, upsample_add
from .partial_label_network import require_choice
from .pre_activation_network import (
    DODNET_DEPTHS,
    DODNET_GROUPS,
    DODNET_WIDTHS,
    EncoderFeatures,
    PreActivationDecoder,
    PreActivationNetwork,
    SegmentationLayer,
    append_channels,
    decoder_steps,
)

Encoding = Literal["value", "one-hot"]
"""How a task becomes channels: one of a value, or one for each task."""


class CondNONetwork(PreActivationNetwork):
    """Cond-NO: nothing tells the network the task, so its output is the same for all (17,286,050 parameters).

    DoDNet's paper shows with it that a network needs to know the task (Dice 60.37 instead of 75.64).

    With one task it is three other networks of the paper. Trained on one data set it is one of the
    Multi-Nets. With `num_structures` channels for background and all structures, under a softmax, it is the
    network of the target adaptive loss (TAL; Fang, Yan: Multi-organ segmentation over partially labeled
    datasets with multi-scale feature abstraction, IEEE TMI 2020), which is a matter of the training alone.
    With the channels of BCV's 13 organs it is the network for the downstream task (section 4.4).

    Args:
        num_tasks: all have the same output.
        in_channels: image channels.
        widths: channels of the stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        num_structures: output channels (organ, tumour).
        groups: groups of every group normalisation.
    """

    def __init__(
        self,
        num_tasks: int = 7,
        in_channels: int = 1,
        widths: Sequence[int] = DODNET_WIDTHS,
        depths: Sequence[int] = DODNET_DEPTHS,
        num_structures: int = 2,
        groups: int = DODNET_GROUPS,
    ) -> None:
        super().__init__(num_tasks, num_structures, in_channels, widths, depths, groups)
        self.feature_channels = widths[0]
        self.decoder = PreActivationDecoder(widths, groups)
        self.head = SegmentationLayer(widths[0], num_structures, groups)

    def forward_features(self, patch: Tensor) -> DecoderFeatures:
        """Encode and decode patch (B, C, D, H, W)."""
        *skips, x = self.encode(patch)
        return DecoderFeatures(self.decoder(x, skips))

    def forward_head(self, features: DecoderFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W), whatever the task."""
        return self.head(*self.to_weight_type(features.decoder))


class ImageFeatures(NamedTuple):
    """What is free of the task where the input tells it.

    Attributes:
        image: the patch itself (B, C, D, H, W).
    """

    image: Tensor


class CondInputNetwork(PreActivationNetwork):
    """Cond-Input: the one-hot task joins the image as further input channels (17,292,098 parameters).

    Chen et al., reference 2 of DoDNet's paper, which describes it in section 3.3. Nothing is free of the
    task, so the features are the patch and the head is the whole network: a session keeps no more than the
    image, and every task costs what the first one costs.

    Args:
        num_tasks: length of the one-hot task encoding.
        in_channels: image channels; the first convolution reads `in_channels + num_tasks`.
        widths: channels of the stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        num_structures: output channels (organ, tumour).
        groups: groups of every group normalisation.
    """

    convolves_in_head = True

    def __init__(
        self,
        num_tasks: int = 7,
        in_channels: int = 1,
        widths: Sequence[int] = DODNET_WIDTHS,
        depths: Sequence[int] = DODNET_DEPTHS,
        num_structures: int = 2,
        groups: int = DODNET_GROUPS,
    ) -> None:
        super().__init__(num_tasks, num_structures, in_channels + num_tasks, widths, depths, groups)
        self.feature_channels = in_channels
        self.decoder = PreActivationDecoder(widths, groups)
        self.head = SegmentationLayer(widths[0], num_structures, groups)

    def forward_features(self, patch: Tensor) -> ImageFeatures:
        """Nothing but patch (B, C, D, H, W)."""
        return ImageFeatures(patch)

    def forward_head(self, features: ImageFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W): encode and decode the image with the task."""
        (image,) = self.to_weight_type(features.image)
        *skips, x = self.encode(append_channels(image, encode_task(task_index, self.num_tasks, "one-hot")))
        return self.head(self.decoder(x, skips))


class CondDecNetwork(PreActivationNetwork):
    """Cond-Dec: every 3x3x3 convolution of the decoder sees the task (17,299,874 parameters).

    Dmitriev, Kaufman: Learning multi-class segmentations from single-class datasets, CVPR 2019: a table gives
    each task a value, which joins the intermediate activations of the decoder as a constant channel. Their
    values are not in DoDNet's paper; here they are evenly spaced from -1 to 1. DoDNet's own one-hot encoding
    is the alternative.

    The features are the maps of the encoder: for the default widths 43 instead of DoDNet's 8 values for each
    voxel of a patch. Every task costs a decoder.

    Args:
        num_tasks: that the encoding distinguishes.
        in_channels: image channels.
        widths: channels of the stages, from full resolution to the bottleneck.
        depths: residual blocks of each encoder stage.
        num_structures: output channels (organ, tumour).
        groups: groups of every group normalisation.
        encoding: "value", one channel, or "one-hot", as many channels as there are tasks.

    Raises:
        ValueError: an unknown encoding.
    """

    convolves_in_head = True

    def __init__(
        self,
        num_tasks: int = 7,
        in_channels: int = 1,
        widths: Sequence[int] = DODNET_WIDTHS,
        depths: Sequence[int] = DODNET_DEPTHS,
        num_structures: int = 2,
        groups: int = DODNET_GROUPS,
        encoding: Encoding = "value",
    ) -> None:
        require_choice("encoding", encoding, get_args(Encoding))
        super().__init__(num_tasks, num_structures, in_channels, widths, depths, groups)
        self.feature_channels = widths[0]
        self.encoding: Encoding = encoding
        channels = len(encode_task(0, num_tasks, encoding))
        self.decoder = nn.ModuleList(
            ConditionedBlock(*step, channels, groups) for step in decoder_steps(widths)
        )
        self.head = SegmentationLayer(widths[0], num_structures, groups)

    def forward_features(self, patch: Tensor) -> EncoderFeatures:
        """Encode patch (B, C, D, H, W)."""
        return EncoderFeatures(*self.encode(patch))

    def forward_head(self, features: EncoderFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W): decode the features for one task."""
        task = encode_task(task_index, self.num_tasks, self.encoding)
        *skips, x = self.to_weight_type(*features)
        for block in self.decoder:
            x = block(upsample_add(x, skips.pop()), task)
        return self.head(x)


class ConditionedBlock(nn.Module):
    """A pre-activation residual block whose two 3x3x3 convolutions also read constant channels.

    They join behind normalisation and ReLU, which would take the constant away.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        task_channels: constant ones.
        groups: groups of every group normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, task_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.Sequential(*norm_relu(in_channels, groups))
        self.convolution1 = WeightStandardizedConv3d(in_channels + task_channels, out_channels)
        self.norm2 = nn.Sequential(*norm_relu(out_channels, groups))
        self.convolution2 = WeightStandardizedConv3d(out_channels + task_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else projection(in_channels, out_channels, groups)

    def forward(self, x: Tensor, task: Sequence[float]) -> Tensor:
        """Map x (B, C_in, D, H, W) to (B, C_out, D, H, W), given the values of the constant channels."""
        y = self.convolution1(append_channels(self.norm1(x), task))
        return self.convolution2(append_channels(self.norm2(y), task)) + self.shortcut(x)


def encode_task(task_index: int, num_tasks: int, encoding: Encoding) -> list[float]:
    """The values of the constant channels that tell a task.

    Raises:
        IndexError: there is no such task.
    """
    place = range(num_tasks)[task_index]
    if encoding == "value":
        return [2 * place / max(num_tasks - 1, 1) - 1]
    return [float(place == task) for task in range(num_tasks)]
