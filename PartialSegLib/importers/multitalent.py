"""MultiTalent's networks and the official names of their weights.

Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein: MultiTalent: A Multi-Dataset Approach to Medical Image
Segmentation, MICCAI 2023; https://github.com/MIC-DKFZ/MultiTalent.
"""

from __future__ import annotations

from ..manifest import NetworkSpec

UNET = NetworkSpec("UNet", {})

RESIDUAL_ENCODER_UNET = NetworkSpec("ResidualEncoderUNet", {})

UNET_NAMES = {
    r"^encoder\.5\.(\d)\.": r"conv_blocks_context.5.\1.0.",  # the bottleneck nests its units like the decoder
    r"^encoder\.(\d)\.": r"conv_blocks_context.\1.",
    r"^decoder\.(\d)\.(\d)\.": r"conv_blocks_localization.\1.\2.0.",
    r"^(conv_blocks_.*)\.(\d)\.0\.(\w+)$": r"\1.blocks.\2.conv.\3",
    r"^(conv_blocks_.*)\.(\d)\.1\.(\w+)$": r"\1.blocks.\2.instnorm.\3",
    r"^upsampling\.": "tu.",
    r"^heads\.": "seg_outputs.",
}

RESIDUAL_ENCODER_UNET_NAMES = {
    r"^stem\.0\.": "encoder.initial_conv.",
    r"^stem\.1\.": "encoder.initial_norm.",
    r"^encoder\.(\d)\.(\d)\.": r"encoder.stages.\1.convs.\2.",
    r"\.unit([12])\.0\.": r".conv\1.",
    r"\.unit([12])\.1\.": r".norm\1.",
    r"\.shortcut\.0\.": ".downsample_skip.",
    r"^decoder\.(\d)\.(\d)\.0\.": r"decoder.stages.\1.convs.\2.conv.",
    r"^decoder\.(\d)\.(\d)\.1\.": r"decoder.stages.\1.convs.\2.norm.",
    r"^upsampling\.": "decoder.tus.",
    r"^heads\.": "decoder.deep_supervision_outputs.",
}
