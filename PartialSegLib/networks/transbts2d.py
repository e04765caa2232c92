"""The 2-D version of TransBTS: a U-Net with a Transformer between its encoder and its decoder.

Wang et al.: Med-DANet, ECCV 2022, section 4.1: candidate M3 is "the light version of 2D TransBTS with 1-layer
Transformer" and M4 has "the original 4-layer Transformer"; 3-D: Wang et al.: TransBTS, MICCAI 2021. There is
no official code in 2-D, and the paper has no sizes. Taken over from 3-D: encoder and decoder of the modified
U-Net (`unet2d`), a 3 x 3 convolution as linear projection to 512 channels, a learned encoding of positions,
8 heads, pre-normalised layers, and a feature mapping back to the channels of the encoder. The hidden width of
the feed-forward networks follows from Table 3: there a layer takes (4.98 - 2.36) / 3 = 0.873 thousand million
multiply-adds for 128 x 128 pixels; it takes 0.872 with 2,048 hidden channels, 1.409 with the 4,096 of 3-D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .unet2d import PreActivationBlock2d, UNetDecoder2d, UNetEncoder2d, segmentation_head

REDUCTION = 8  # of height and width by the encoder
DROPOUT = 0.1  # in the Transformer


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward network, each on the layer-normalised input and added to it.

    Args:
        width: of the tokens, a multiple of `num_heads`.
        num_heads: of the attention.
        hidden_width: of the feed-forward network.
    """

    def __init__(self, width: int, num_heads: int, hidden_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.input_projection = nn.Linear(width, 3 * width)
        self.output_projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(DROPOUT)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden_width),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden_width, width),
            nn.Dropout(DROPOUT),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, width) to the same shape."""
        tokens = tokens + self.dropout(self.output_projection(self._attend(self.attention_norm(tokens))))
        return tokens + self.feed_forward(tokens)

    def _attend(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.input_projection(tokens).chunk(3, dim=2)
        )
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return attended.transpose(1, 2).flatten(2)


class TransBTS2d(nn.Module):
    """Candidates M3 (`num_layers` 1) and M4 (4) of Med-DANet's model bank.

    A slice of 128 x 128 pixels takes 2.30 (M3) and 4.92 (M4) thousand million multiply-adds; Table 3 of the
    paper has 2.36 and 4.98 as FLOPs per inference, for the reason at `UNet2d`.

    Args:
        in_channels: image channels.
        num_classes: output channels, the first of them background.
        num_layers: of the Transformer.
        input_size: height and width of the slices, a multiple of 8; each position has its own encoding.
        base_width: channels of the convolutional part at full resolution.
        width: of the tokens.
        num_heads: of the attention.
        hidden_width: of the feed-forward networks.

    Raises:
        ValueError: `input_size` is no multiple of 8, or `width` none of `num_heads`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        num_classes: int = 4,
        num_layers: int = 4,
        input_size: int = 128,
        base_width: int = 16,
        width: int = 512,
        num_heads: int = 8,
        hidden_width: int = 2048,
    ) -> None:
        super().__init__()
        for name, number, divisor in (("input_size", input_size, REDUCTION), ("width", width, num_heads)):
            if number % divisor:
                raise ValueError(f"{name} is {number}, which is no multiple of {divisor}")
        self.input_size = input_size
        self.encoder = UNetEncoder2d(in_channels, base_width)
        bottleneck = self.encoder.widths[-1]
        self.linear_projection = nn.Sequential(
            nn.BatchNorm2d(bottleneck), nn.ReLU(inplace=True), nn.Conv2d(bottleneck, width, 3, padding=1)
        )
        self.position_encoding = nn.Parameter(torch.zeros(1, (input_size // REDUCTION) ** 2, width))
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(
            *(TransformerLayer(width, num_heads, hidden_width) for _ in range(num_layers)),
            nn.LayerNorm(width),
        )
        self.feature_mapping = nn.Sequential(
            *_convolution_unit(width, bottleneck),
            *_convolution_unit(bottleneck, bottleneck),
            PreActivationBlock2d(bottleneck, bias=True),
        )
        self.decoder = UNetDecoder2d(self.encoder.widths)
        self.head = segmentation_head(base_width, num_classes)

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B, num_classes, input_size, input_size) of slices (B, in_channels, input_size, input_size).

        Raises:
            ValueError: the slices have another height or width.
        """
        size = self.input_size
        if slices.shape[2:] != (size, size):
            raise ValueError(
                f"This TransBTS is for {size} x {size} pixels, not {slices.shape[2]} x {slices.shape[3]}."
            )
        *skips, bottleneck = self.encoder(slices)
        projected = self.linear_projection(bottleneck)
        tokens = projected.flatten(2).transpose(1, 2) + self.position_encoding
        tokens = self.layers(self.dropout(tokens))
        mapped = self.feature_mapping(tokens.transpose(1, 2).contiguous().view_as(projected))
        return self.head(self.decoder([*skips, mapped]))


def _convolution_unit(in_channels: int, out_channels: int) -> list[nn.Module]:
    """3x3 convolution, batch normalisation and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
