"""STU-Net as in FLARE23, and the official names of its weights.

Huang et al.: STU-Net, arXiv 2304.06716; https://github.com/Ziyan-Huang/FLARE23.
"""

from __future__ import annotations

from ..manifest import NetworkSpec

FLARE23_NETWORK = NetworkSpec("STUNet", {})

OFFICIAL_NAMES = {
    r"^encoder\.": "conv_blocks_context.",
    r"^decoder\.": "conv_blocks_localization.",
    r"^upsampling\.(\d)\.0\.": r"upsample_layers.\1.conv.",
    r"^heads\.": "seg_outputs.",
    r"\.unit([12])\.0\.": r".conv\1.",
    r"\.unit([12])\.1\.": r".norm\1.",
    r"\.shortcut\.": ".conv3.",
}
