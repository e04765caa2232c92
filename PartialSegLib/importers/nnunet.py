"""Names of the weights of nnU-Net version 2's networks, and weights that nnU-Net stores under several names.

Isensee et al.: nnU-Net, Nature Methods 2021; https://github.com/MIC-DKFZ/nnUNet and
https://github.com/MIC-DKFZ/dynamic-network-architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError

FIRST_NAMES = {
    r"^decoder\.encoder\.": "encoder.",  # the decoder holds the encoder
    r"\.all_modules\.0\.": ".conv.",  # version 2 keeps each layer of a unit twice
    r"\.all_modules\.1\.": ".norm.",
    r"\.all\.0\.": ".conv.",  # so does version 1, with a dropout between the two
    r"\.all\.2\.": ".norm.",
}

UNIT_NAMES = {
    r"^((?:stem|encoder|decoder)\..*?)0\.(weight|bias)$": r"\1conv.\2",
    r"^((?:stem|encoder|decoder)\..*?)1\.(weight|bias)$": r"\1norm.\2",
}

DECODER_NAMES = {
    r"^decoder\.(\d+)\.(\d+)\.": r"decoder.stages.\1.convs.\2.",
    r"^upsampling\.": "decoder.transpconvs.",
    r"^heads\.": "decoder.seg_layers.",
}

UNET_NAMES = {
    **UNIT_NAMES,
    **DECODER_NAMES,
    r"^encoder\.(\d+)\.(\d+)\.": r"encoder.stages.\1.0.convs.\2.",
}

RESIDUAL_ENCODER_UNET_NAMES = {
    **UNIT_NAMES,
    **DECODER_NAMES,
    r"^stem\.": "encoder.stem.convs.0.",
    r"^encoder\.(\d+)\.(\d+)\.": r"encoder.stages.\1.blocks.\2.",
    r"\.unit([12])\.": r".conv\1.",
    r"\.shortcut\.": ".skip.",
}


def without_duplicates(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Keep one of the names that nnU-Net gives to the same weights, after checking that they are the same.

    Args:
        weights: official name to tensor.

    Raises:
        InputError: two names of one tensor hold different values; both are named.
    """
    result: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value in weights.items():
        first = key
        for pattern, replacement in FIRST_NAMES.items():
            first = re.sub(pattern, replacement, first)
        if first in result and not _equal(result[first], value):
            raise InputError(
                f"the keys {names[first]!r} and {key!r} should hold the same weights but differ; "
                "choose the file that training saved."
            )
        result.setdefault(first, value)
        names.setdefault(first, key)
    return result


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.equal(other)
