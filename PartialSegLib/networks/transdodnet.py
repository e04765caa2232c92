"""TransDoDNet: a Transformer decodes one query per task into the kernels of the dynamic head.

Xie, Zhang, Xia, Shen: Learning from partially labeled data for multi-organ and tumor segmentation, IEEE TPAMI
2023. The queries attend to each other, so they are decoded together and one pass serves all tasks (Figure 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .deformable_attention import OffsetScale, SamplingPoints
from .deformable_transformer import DeformableTransformer
from .dynamic_head import apply_dynamic_head, dynamic_head_widths, num_head_parameters
from .hybrid_backbone import STEM_STRIDE, DecoderStep, ResidualEncoder, activation, convolution_norm
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


class TransDoDNet(PartialLabelNetwork):
    """TransDoDNet on a 3-D ResNet-50; the defaults are the official network (39,049,941 parameters).

    Input size: multiples of 16 voxels along D and of 32 along H and W.

    Args:
        num_tasks: organ queries.
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
        head_widths: channels before and between the layers of the dynamic head, as many as it has layers
            (Tables 2 and 3).
        num_structures: output channels of the head (organ, tumour).

    Raises:
        ValueError: an unknown mode, a number of levels other than 1 to 3, a width the heads cannot share, or
            a dynamic head without layers or channels.
    """

    def __init__(
        self,
        num_tasks: int = 7,
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
        head_widths: Sequence[int] = (8, 8, 8),
        num_structures: int = 2,
    ) -> None:
        super().__init__()
        require_choice("feature_mode", feature_mode, get_args(FeatureMode))
        require_choice("offset_scale", offset_scale, get_args(OffsetScale))
        require_choice("num_levels", num_levels, range(1, MAX_LEVELS + 1))
        self.num_tasks = num_tasks
        self.num_structures = num_structures
        self.head_widths = dynamic_head_widths(head_widths, num_structures)
        self.feature_channels = self.head_widths[0]
        self.patch_multiple = (2 ** len(planes), 2 ** (len(planes) + 1), 2 ** (len(planes) + 1))
        self.encoder = ResidualEncoder(in_channels, decoder_widths[-1], planes, depths, negative_slope)
        *skips, bottleneck = self.encoder.widths
        self.level_projections = nn.ModuleList(
            nn.Sequential(nn.Conv3d(channels, width, 1), nn.InstanceNorm3d(width, affine=True))
            for channels in self.encoder.widths[-num_levels:]
        )
        self.transformer = DeformableTransformer(
            num_tasks, width, encoder_layers, decoder_layers, num_levels, num_heads, num_points, offset_scale
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
            *convolution_norm(decoder_widths[-1], self.feature_channels), activation(negative_slope)
        )
        self.controller = nn.Sequential(
            nn.Linear(width, width),
            activation(negative_slope),
            nn.Linear(width, num_head_parameters(self.head_widths)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def initialize_head(self, logit: float) -> None:
        """Start an untrained head from kernels that give about this logit everywhere."""
        weight, bias = (self.controller[-1].get_parameter(name) for name in ("weight", "bias"))
        with torch.no_grad():
            weight[-self.num_structures :] = 0
            bias[-self.num_structures :] = logit

    def forward_features(self, patch: Tensor) -> TransDoDNetFeatures:
        """Encode and decode patch (B, C, D, H, W), and decode the queries of all tasks."""
        outputs = self.encoder(patch)
        transformed = self.transformer(self._levels(outputs))
        inputs = {"convolutional": outputs.pop(), "memory": transformed.memory[-1]}
        first, *rest = (source(inputs[name]) for name, source in self.sources.items())
        x = sum(rest, first)
        for step in self.decoder:
            x = step(x, outputs.pop())
        return TransDoDNetFeatures(self.projection(x), transformed.decoded[-1])

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

    def sampling_points(self, patch: Tensor) -> SamplingPoints:
        """Where each voxel of the levels looks in the encoder's last layer, for pictures as Figure 7.

        The tokens are the voxels of all levels, from fine to coarse, each level in the order (D, H, W).

        Returns:
            Weights (B, tokens, heads, levels, points), and locations (B, tokens, heads, levels, points, 3) as
            fractions of the patch along (z, y, x), where values are really read: not around the token itself,
            because the official axes are permuted, see `token_references`.
        """
        points = self.transformer.sampling_points(self._levels(self.encoder(patch)))
        return SamplingPoints(points.locations.flip(-1), points.weights)

    def _levels(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The coarsest outputs of the encoder, brought to the Transformer's width."""
        levels = outputs[-len(self.level_projections) :]
        return [project(level) for project, level in zip(self.level_projections, levels, strict=True)]


def _to_full_size(logits: Tensor) -> Tensor:
    """Interpolate (B, K, D, H/2, W/2) by slices: the same as trilinear, in a quarter of the time."""
    scale = tuple(float(stride) for stride in STEM_STRIDE[1:])
    slices = functional.interpolate(logits.flatten(1, 2), scale_factor=scale, mode="bilinear")
    return slices.unflatten(1, logits.shape[1:3])
