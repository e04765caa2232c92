"""The Transformer of TransDoDNet: an encoder of image tokens and a decoder of organ queries (section 3.3).

Residual connections are scaled as in deep norm (Wang et al. 2022), post-norm: the factor depends on the
numbers of layers alone. The official flag named deepnorm changes the initialisation only, never the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .deformable_attention import MultiScaleDeformableAttention, OffsetScale, SamplingPoints, Shape
from .position_encoding import volume_position_encoding

FEEDFORWARD_FACTOR = 4


class TransformerOutput(NamedTuple):
    """Encoded levels and decoded queries.

    Attributes:
        memory: of each level (B, width, D, H, W).
        decoded: the queries after each layer of the decoder (layers, B, queries, width); the last one counts.
        reference: the queries' positions (1, queries, 3), fractions in the order (x, y, z).
    """

    memory: list[Tensor]
    decoded: Tensor
    reference: Tensor


class FeedForward(nn.Sequential):
    """Two fully connected layers with a ReLU between them, the hidden one four times as wide."""

    def __init__(self, width: int) -> None:
        hidden = FEEDFORWARD_FACTOR * width
        super().__init__(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))

    def initialize(self, gain: float) -> None:
        """Xavier-normal matrices with this gain."""
        for layer in (self[0], self[2]):
            nn.init.xavier_normal_(layer.get_parameter("weight"), gain)


class EncoderLayer(nn.Module):
    """Every token attends to points of all levels (equation 12).

    Args:
        attention: of the tokens to the levels.
        width: channels.
        residual_scale: alpha of equation 12.
    """

    def __init__(self, attention: MultiScaleDeformableAttention, width: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width)
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Map tokens (B, N, width) to as many; position (1, N, width), reference (1, N, 3)."""
        seen = self.attention(tokens + position, reference, tokens, shapes)
        tokens = self.attention_norm(tokens * self.residual_scale + seen)
        return self.feedforward_norm(tokens * self.residual_scale + self.feedforward(tokens))


class DecoderLayer(nn.Module):
    """The queries attend to each other, then to points of the encoder's memory (equation 13).

    Args:
        attention: of the queries to the memory.
        width: channels.
        num_heads: of the attention among queries.
        residual_scale: alpha of equation 13.
    """

    def __init__(
        self, attention: MultiScaleDeformableAttention, width: int, num_heads: int, residual_scale: float
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.self_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.self_attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width)
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[Shape],
    ) -> Tensor:
        """Map queries (B, M, width) to as many; position like them, memory (B, N, width)."""
        among = queries + position
        seen = self.self_attention(among, among, queries, need_weights=False)[0]
        queries = self.self_attention_norm(queries * self.residual_scale + seen)
        seen = self.attention(queries + position, reference, memory, shapes)
        queries = self.attention_norm(queries * self.residual_scale + seen)
        return self.feedforward_norm(queries * self.residual_scale + self.feedforward(queries))


class DeformableTransformer(nn.Module):
    """Encoder and decoder; all queries are decoded together and see each other.

    Args:
        num_queries: one per task; 0 for the encoder alone.
        width: channels, a multiple of 6 (three axes, sine and cosine) and of `num_heads`.
        encoder_layers: at least 1.
        decoder_layers: at least 1; the encoder's residual factor depends on it, with a decoder or without.
        num_levels: feature maps.
        num_heads: of every attention.
        num_points: sampled per head and level.
        offset_scale: see `MultiScaleDeformableAttention`.

    Raises:
        ValueError: the width is no such multiple.
    """

    def __init__(
        self,
        num_queries: int,
        width: int = 192,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        num_levels: int = 3,
        num_heads: int = 8,
        num_points: int = 4,
        offset_scale: OffsetScale = "constant",
    ) -> None:
        super().__init__()
        if width % 6 or width % num_heads:
            raise ValueError(f"width {width} is no multiple of 6 and of the {num_heads} heads")
        encoder_scale = 0.81 * (encoder_layers**4 * decoder_layers) ** (1 / 16)
        decoder_scale = (3 * decoder_layers) ** (1 / 4)

        def attention() -> MultiScaleDeformableAttention:
            return MultiScaleDeformableAttention(width, num_levels, num_heads, num_points, offset_scale)

        self.level_embedding = nn.Parameter(torch.empty(num_levels, width))
        if num_queries:
            self.query_embedding = nn.Parameter(torch.empty(num_queries, 2 * width))
            self.query_reference = nn.Linear(width, 3)
        self.encoder = nn.ModuleList(
            EncoderLayer(attention(), width, encoder_scale) for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(attention(), width, num_heads, decoder_scale)
            for _ in range(decoder_layers if num_queries else 0)
        )
        self.initialize(encoder_layers, decoder_layers)

    def initialize(self, encoders: int, decoders: int) -> None:
        """Deep norm's start: Xavier-normal matrices, those that only pass values on with a smaller gain."""
        for layer in [*self.encoder, *self.decoder]:
            in_encoder = isinstance(layer, EncoderLayer)
            gain = 0.87 * (encoders**4 * decoders) ** (-1 / 16) if in_encoder else (12 * decoders) ** (-1 / 4)
            layer.attention.initialize(gain)
            layer.feedforward.initialize(gain)
            if isinstance(layer, DecoderLayer):
                nn.init.xavier_normal_(layer.self_attention.get_parameter("in_proj_weight"))
                nn.init.xavier_normal_(layer.self_attention.out_proj.weight)
        if len(self.decoder):
            nn.init.xavier_normal_(self.query_reference.weight)
            nn.init.zeros_(self.query_reference.bias)
        nn.init.normal_(self.level_embedding)
        if len(self.decoder):
            nn.init.normal_(self.query_embedding)

    def forward(self, levels: Sequence[Tensor]) -> TransformerOutput:
        """Encode levels, from fine to coarse (B, width, D, H, W) each, and decode the queries from them."""
        shapes = [level.shape[2:] for level in levels]
        tokens = self._encode(levels, shapes)
        return TransformerOutput(_of_levels(tokens, shapes), *self._decode(tokens, shapes))

    def encode(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The memory alone, shaped as the levels, which are those of `forward`."""
        shapes = [level.shape[2:] for level in levels]
        return _of_levels(self._encode(levels, shapes), shapes)

    def _encode(self, levels: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Tensor:
        """The tokens of all levels (B, N, width), encoded."""
        tokens, position, reference = self._tokens(levels)
        for layer in self.encoder:
            tokens = layer(tokens, position, reference, shapes)
        return tokens

    def sampling_points(self, levels: Sequence[Tensor]) -> SamplingPoints:
        """Where the tokens look in the last layer of the encoder (Figure 7 of the paper); see `forward`."""
        shapes = [level.shape[2:] for level in levels]
        tokens, position, reference = self._tokens(levels)
        for layer in self.encoder[:-1]:
            tokens = layer(tokens, position, reference, shapes)
        attention = cast(EncoderLayer, self.encoder[-1]).attention
        return attention.sampling_points(tokens + position, reference, shapes)

    def _tokens(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Voxels as tokens (B, N, width), their position encodings (1, N, width) and references (1, N, 3)."""
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions, references = [], []
        for level, embedding in zip(levels, self.level_embedding, strict=True):
            encoding = volume_position_encoding(level.shape[2:], level.shape[1], level.device)
            positions.append(encoding.flatten(0, 2).to(tokens.dtype) + embedding)
            references.append(token_references(level))
        return tokens, torch.cat(positions)[None], torch.cat(references)[None]

    def _decode(self, memory: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, Tensor]:
        """The queries after each layer (layers, B, M, width), and their references (1, M, 3)."""
        position, start = self.query_embedding.chunk(2, dim=1)
        reference = self.query_reference(position).sigmoid()[None]
        queries, outputs = start.expand(memory.shape[0], -1, -1), []
        for layer in self.decoder:
            queries = layer(queries, position, reference, memory, shapes)
            outputs.append(queries)
        return torch.stack(outputs), reference


def _of_levels(tokens: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Tokens (B, N, width) as the voxels of their levels (B, width, D, H, W)."""
    parts = tokens.transpose(1, 2).split([shape.numel() for shape in shapes], dim=2)
    return [part.unflatten(2, tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def token_references(level: Tensor) -> Tensor:
    """Positions from which the voxels of a level (B, C, D, H, W) look around: (D * H * W, 3) as (x, y, z).

    They are fractions of the volume, but permuted as in the official code: it hands (d, w, h) to
    `grid_sample`, which takes them for (x, y, z). So a voxel looks around the point at x = d, y = w, z = h,
    not around itself. Checkpoints were trained like this, so it has to stay. Always float32, as there.
    """
    d, h, w = ((torch.arange(size, device=level.device) + 0.5) / size for size in level.shape[2:])
    d, h, w = torch.meshgrid(d, h, w, indexing="ij")
    return torch.stack([d, w, h], dim=-1).flatten(0, 2)
