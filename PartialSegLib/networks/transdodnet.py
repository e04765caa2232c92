"""TransDoDNet: a Transformer decodes one query per task into the kernels of the dynamic head.

Xie, Zhang, Xia, Shen: Learning from partially labeled data for multi-organ and tumor segmentation, IEEE TPAMI
2023. The queries attend to each other, so they are decoded together and one pass serves all tasks (Figure 4).
For downstream tasks the paper keeps what encodes and decodes images, and gives it a plain head (Figure 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoder_decoder import DecoderFeatures
from .hybrid_backbone import STEM_STRIDE, DecoderStep, ResidualEncoder, activation, convolution_norm
from .layers.convolution import Conv3d
from .layers.deformable_attention import OffsetScale, SamplingPoints
from .layers.deformable_transformer import DeformableTransformer
from .layers.dynamic_head import apply_dynamic_head, dynamic_head_widths, num_head_parameters
from .layers.instance_norm import InstanceNorm3d
from .partial_label_network import PartialLabelNetwork, require_choice

FeatureMode = Literal["A", "B", "C"]
MAX_LEVELS = 3


class TransDoDNetFeatures(NamedTuple):
    """What all tasks share, and what each task gets.

    Attributes:
        decoder: (B, head_widths[0], D, H/2, W/2).
        queries: the decoded organ queries (B, num_tasks, width).
    """

    decoder: Tensor
    queries: Tensor


class TransDoDNetTrunk(PartialLabelNetwork):
    """What encodes and decodes images in TransDoDNet, on a 3-D ResNet-50; heads are those of subclasses.

    Input size: multiples of 16 voxels along D and of 32 along H and W.

    Args:
        num_queries: organ queries of the Transformer; 0 for its encoder alone.
        feature_channels: of the decoder's map.
        in_channels: image channels.
        width: channels of the Transformer, 96 to 768 in the paper's Table 6.
        encoder_layers: of the Transformer (Table 5).
        decoder_layers: of the Transformer (Table 5).
        num_levels: 1 to 3 coarsest outputs of the convolutional encoder that the Transformer sees (Table 7).
        num_heads: of every attention.
        num_points: that a head of the deformable attention samples in a level.
        feature_mode: what the decoder starts from: "A" convolutional features plus the Transformer's memory,
            "B" only the former, "C" only the latter (Figure 6, Table 8).
        negative_slope: of the activations outside the Transformer and the dynamic head. The official training
            script has 0, a ReLU; the official test script has 0.01, which does not fit what was trained.
        offset_scale: see `MultiScaleDeformableAttention`.
        planes: of the bottlenecks of the convolutional encoder's stages.
        depths: bottlenecks of these stages.
        decoder_widths: channels of the decoder from coarse to fine; the last ones are also the stem's.

    Raises:
        ValueError: an unknown mode, a number of levels other than 1 to 3, or a width the heads cannot share.
    """

    def __init__(
        self,
        num_queries: int,
        feature_channels: int,
        in_channels: int = 1,
        width: int = 192,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        num_levels: int = 3,
        num_heads: int = 8,
        num_points: int = 4,
        feature_mode: FeatureMode = "A",
        negative_slope: float = 0.0,
        offset_scale: OffsetScale = "constant",
        planes: Sequence[int] = (64, 128, 256, 320),
        depths: Sequence[int] = (3, 4, 6, 3),
        decoder_widths: Sequence[int] = (256, 256, 128, 64, 32),
    ) -> None:
        super().__init__()
        require_choice("feature_mode", feature_mode, get_args(FeatureMode))
        require_choice("offset_scale", offset_scale, get_args(OffsetScale))
        require_choice("num_levels", num_levels, range(1, MAX_LEVELS + 1))
        self.feature_channels = feature_channels
        self.patch_multiple = (2 ** len(planes), 2 ** (len(planes) + 1), 2 ** (len(planes) + 1))
        self.encoder = ResidualEncoder(in_channels, decoder_widths[-1], planes, depths, negative_slope)
        *skips, bottleneck = self.encoder.widths
        self.level_projections = nn.ModuleList(
            nn.Sequential(Conv3d(channels, width, 1), InstanceNorm3d(width))
            for channels in self.encoder.widths[-num_levels:]
        )
        self.transformer = DeformableTransformer(
            num_queries,
            width,
            encoder_layers,
            decoder_layers,
            num_levels,
            num_heads,
            num_points,
            offset_scale,
        )
        self.sources = nn.ModuleDict()
        for name, channels, modes in (("convolutional", bottleneck, "AB"), ("memory", width, "AC")):
            if feature_mode in modes:
                self.sources[name] = nn.Sequential(
                    *convolution_norm(channels, decoder_widths[0]), activation(negative_slope)
                )
        self.decoder = nn.ModuleList(
            DecoderStep(before, after, skip, negative_slope)
            for before, after, skip in zip(decoder_widths, decoder_widths[1:], reversed(skips), strict=False)
        )
        self.projection = nn.Sequential(
            *convolution_norm(decoder_widths[-1], feature_channels), activation(negative_slope)
        )

    def initialize_convolutions(self) -> None:
        """Kaiming-normal filters, as officially."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def decode(self, outputs: list[Tensor], memory: Tensor) -> Tensor:
        """The map that heads read (B, feature_channels, D, H/2, W/2).

        Args:
            outputs: of the encoder, from fine to coarse; the list is emptied.
            memory: the Transformer's coarsest level.
        """
        inputs = {"convolutional": outputs.pop(), "memory": memory}
        first, *rest = (source(inputs[name]) for name, source in self.sources.items())
        x = sum(rest, first)
        for step in self.decoder:
            x = step(x, outputs.pop())
        return self.projection(x)

    def sampling_points(self, patch: Tensor) -> SamplingPoints:
        """Where each voxel of the levels looks in the encoder's last layer, for pictures as Figure 7.

        The tokens are the voxels of all levels, from fine to coarse, each level in the order (D, H, W).

        Returns:
            Weights (B, tokens, heads, levels, points), and locations (B, tokens, heads, levels, points, 3) as
            fractions of the patch along (z, y, x), where values are really read: not around the token itself,
            because the official axes are permuted, see `token_references`.
        """
        points = self.transformer.sampling_points(self.levels(self.encoder(patch)))
        return SamplingPoints(points.locations.flip(-1), points.weights)

    def levels(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The coarsest outputs of the encoder, brought to the Transformer's width."""
        levels = outputs[-len(self.level_projections) :]
        return [project(level) for project, level in zip(self.level_projections, levels, strict=True)]


class TransDoDNet(TransDoDNetTrunk):
    """TransDoDNet; the defaults are the official network (39,049,941 parameters).

    Args:
        num_tasks: organ queries.
        width: channels of the Transformer.
        negative_slope: of the activations outside the Transformer and the dynamic head.
        head_widths: channels before and between the layers of the dynamic head, as many as it has layers
            (Tables 2 and 3).
        num_structures: output channels of the head (organ, tumour).
        trunk: see `TransDoDNetTrunk`.

    Raises:
        ValueError: as `TransDoDNetTrunk`, or a dynamic head without layers or channels.
    """

    def __init__(
        self,
        num_tasks: int = 7,
        width: int = 192,
        negative_slope: float = 0.0,
        head_widths: Sequence[int] = (8, 8, 8),
        num_structures: int = 2,
        **trunk: Any,
    ) -> None:
        widths = dynamic_head_widths(head_widths, num_structures)
        super().__init__(num_tasks, widths[0], width=width, negative_slope=negative_slope, **trunk)
        self.num_tasks = num_tasks
        self.num_structures = num_structures
        self.head_widths = widths
        self.controller = nn.Sequential(
            nn.Linear(width, width),
            activation(negative_slope),
            nn.Linear(width, num_head_parameters(widths)),
        )
        self.initialize_convolutions()

    def initialize_head(self, logit: float) -> None:
        """Start an untrained head from kernels that give about this logit everywhere."""
        weight, bias = (self.controller[-1].get_parameter(name) for name in ("weight", "bias"))
        with torch.no_grad():
            weight[-self.num_structures :] = 0
            bias[-self.num_structures :] = logit

    def forward_features(self, patch: Tensor) -> TransDoDNetFeatures:
        """Encode and decode patch (B, C, D, H, W), and decode the queries of all tasks."""
        outputs = self.encoder(patch)
        transformed = self.transformer(self.levels(outputs))
        return TransDoDNetFeatures(self.decode(outputs, transformed.memory[-1]), transformed.decoded[-1])

    def head_parameters(self, features: TransDoDNetFeatures, task_index: int) -> Tensor:
        """Parameters (B, P) generated from one decoded query (equation 14), ordered as DoDNet's."""
        weight = self.controller[0].get_parameter("weight")
        return self.controller(features.queries[:, task_index].to(weight.dtype))

    def forward_head(self, features: TransDoDNetFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W) of one task, computed at half of H and W and interpolated."""
        parameters = self.head_parameters(features, task_index)
        return _to_full_size(apply_dynamic_head(features.decoder, parameters, self.head_widths))

    def forward_heads(self, features: TransDoDNetFeatures, task_indices: Sequence[int]) -> Iterator[Tensor]:
        """Logits (1, num_structures, D, H, W) of several tasks of one image, which read its features once."""
        parameters = torch.cat([self.head_parameters(features, index) for index in task_indices])
        logits = apply_dynamic_head(features.decoder, parameters, self.head_widths)
        return (_to_full_size(of_task) for of_task in logits.split(1))


class DownstreamTransDoDNet(TransDoDNetTrunk):
    """TransDoDNet for a downstream task: no queries, no decoder of the Transformer, no dynamic head.

    Section 3.7 and Figure 5: convolutional encoder, Transformer encoder and convolutional decoder are reused,
    everything else is abandoned, and a new classification head is added at the end of the decoder, that is to
    its 8 channels (equation 6). What this head is the paper does not say; here it is a 1x1x1 convolution,
    whose logits are interpolated as those of the dynamic head.

    Args:
        num_tasks: all have the same output.
        num_structures: output channels.
        feature_channels: of the decoder's map.
        trunk: see `TransDoDNetTrunk`.

    Raises:
        ValueError: as `TransDoDNetTrunk`.
    """

    def __init__(
        self, num_tasks: int = 1, num_structures: int = 14, feature_channels: int = 8, **trunk: Any
    ) -> None:
        super().__init__(0, feature_channels, **trunk)
        self.num_tasks = num_tasks
        self.num_structures = num_structures
        self.head = Conv3d(feature_channels, num_structures, 1)
        self.initialize_convolutions()

    def initialize_head(self, logit: float) -> None:
        """Start an untrained head from about this logit everywhere."""
        nn.init.normal_(self.head.weight, std=1e-2)
        nn.init.constant_(self.head.get_parameter("bias"), logit)

    def forward_features(self, patch: Tensor) -> DecoderFeatures:
        """Encode and decode patch (B, C, D, H, W)."""
        outputs = self.encoder(patch)
        memory = self.transformer.encode(self.levels(outputs))
        return DecoderFeatures(self.decode(outputs, memory[-1]))

    def forward_head(self, features: DecoderFeatures, task_index: int) -> Tensor:
        """Logits (B, num_structures, D, H, W), whatever the task, from half of H and W."""
        return _to_full_size(self.head(features.decoder.to(self.head.weight.dtype)))


def _to_full_size(logits: Tensor) -> Tensor:
    """Interpolate (B, K, D, H/2, W/2) by slices: the same as trilinear, in a quarter of the time."""
    scale = tuple(float(stride) for stride in STEM_STRIDE[1:])
    slices = functional.interpolate(logits.flatten(1, 2), scale_factor=scale, mode="bilinear")
    return slices.unflatten(1, logits.shape[1:3])
