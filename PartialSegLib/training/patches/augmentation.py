"""Augmentation: how often and how far patches are rotated, scaled, mirrored and disturbed; plain data.

`spatial_transform` and `intensities` do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from ...errors import InputError
from ...files.json_fields import require, require_at_least

Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges; each probability is for a whole patch, and the default does nothing.

    Scales are of the part of the volume that becomes the patch: above 1 makes anatomy smaller. They are one
    number for all axes, and as in nnU-Net rotations turn the grid of voxels, not millimetres.

    Attributes:
        rotation_probability: of a turn around all three axes.
        rotation: largest angle in degrees around each axis, drawn evenly from both directions.
        scale_probability: of another scale.
        scale: lowest and highest.
        scale_around_one: draw a scale below 1 in half of the cases, see `drawn_around_one`; else evenly.
        elastic_probability: of an elastic deformation, which is turned and scaled with the patch.
        elastic: lowest and highest magnitude, see `elastic_field`; with the default sigmas 900 moves voxels
            by 1.7 to 2.9 along each axis (root mean square), and in plane 200 by 2.5 to 3.6. The defaults
            are those of nnU-Net version 1 before its "moreDA", which turned them off; for slices it had 200.
        elastic_sigma: lowest and highest sigma in voxels of the Gaussian that makes it smooth.
        in_plane: turn around z alone, scale and deform y and x alone, for patches with thick slices ("dummy
            2-D").
        interpolation: of images turned, scaled or deformed, "linear" or "cubic" B-splines; labels take the
            nearest.
        mirror_probability: for each axis of `mirror_axes` on its own.
        mirror_axes: 0 = z, 1 = y, 2 = x.
        noise_probability, noise: white noise, and the range of its standard deviation.
        blur_probability, blur: Gaussian blur, and the range of its sigma in voxels.
        brightness_probability, brightness: intensities times a factor.
        shift_probability, shift: intensities plus a number with this standard deviation.
        contrast_probability, contrast: distances from the mean times a factor, inside the old range.
        low_resolution_probability, low_resolution: nearest voxels of a coarser grid, interpolated back
            linearly (cubically in batchgenerators); the factor is that of the grid, with `in_plane` along y
            and x alone.
        gamma_probability, gamma: intensities in [0, 1] to this power, below 1 in half of the cases; mean and
            deviation stay.
        inverted_gamma_probability: the same on negated intensities.
    """

    rotation_probability: float = 0.0
    rotation: float = 30.0
    scale_probability: float = 0.0
    scale: Range = (0.7, 1.4)
    scale_around_one: bool = False
    elastic_probability: float = 0.0
    elastic: Range = (0.0, 900.0)
    elastic_sigma: Range = (9.0, 13.0)
    in_plane: bool = False
    interpolation: Literal["linear", "cubic"] = "linear"
    mirror_probability: float = 0.0
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    noise_probability: float = 0.0
    noise: Range = (0.0, 0.1)
    blur_probability: float = 0.0
    blur: Range = (0.5, 1.0)
    brightness_probability: float = 0.0
    brightness: Range = (0.75, 1.25)
    shift_probability: float = 0.0
    shift: float = 0.1
    contrast_probability: float = 0.0
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: float = 0.0
    low_resolution: Range = (0.5, 1.0)
    gamma_probability: float = 0.0
    gamma: Range = (0.7, 1.5)
    inverted_gamma_probability: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that nothing can be drawn from."""
        for name, value in vars(self).items():
            if name.endswith("probability"):
                require(0 <= value <= 1, f"{name}: expected a probability from 0 to 1, got {value}")
            elif isinstance(value, tuple) and name != "mirror_axes":
                low, high = value
                positive = low >= 0 if name in ("noise", "blur", "elastic") else low > 0
                require(
                    positive and low <= high,
                    f"{name}: expected [lowest, highest] above 0, got {list(value)}",
                )
        require_at_least(self, rotation=0, shift=0)
        axes = set(self.mirror_axes)
        require(
            axes <= {0, 1, 2} and len(axes) == len(self.mirror_axes),
            f"mirror_axes: expected some of 0 (z), 1 (y), 2 (x), each once, got {list(self.mirror_axes)}",
        )


_BATCHGENERATORS = Augmentation(
    mirror_probability=0.5,
    noise_probability=0.1,
    blur_probability=0.2 * 0.5,  # times 0.5 for each channel
    brightness_probability=0.15,
    contrast_probability=0.15,
    low_resolution_probability=0.25 * 0.5,
)
_DODNET = replace(
    _BATCHGENERATORS, scale_probability=0.2, shift_probability=0.15 * 0.5, gamma_probability=0.15
)
_NNUNET = replace(
    _BATCHGENERATORS,
    rotation_probability=0.2,
    scale_probability=0.2,
    scale_around_one=True,
    gamma_probability=0.3,
    inverted_gamma_probability=0.1,
)

_TRANSDODNET = replace(_DODNET, scale=(0.85, 1.25), scale_around_one=True)
_FLARE23 = replace(_NNUNET, rotation=180.0, in_plane=True)

PRESETS: Final[dict[str, Augmentation]] = {
    "none": Augmentation(),
    "dodnet": _DODNET,
    "transdodnet": _TRANSDODNET,
    "transdodnet-paper": replace(_TRANSDODNET, rotation_probability=0.2, rotation=15.0),
    "nnunet": _NNUNET,
    "flare23": _FLARE23,
    "flare23-paper": replace(_FLARE23, elastic_probability=0.2, elastic=(0.0, 200.0)),
}
"""What the official codes do, with linear interpolation where TransDoDNet and nnU-Net take cubic splines.

"dodnet": the paper names none. "transdodnet": the paper (section 4.1) adds rotation without an angle or a
probability, the code does not rotate; "transdodnet-paper" takes those of the nnU-Net defaults that the code's
range of scales is from. "nnunet": nnU-Net's "moreDA", which has no elastic deformation, as in MultiTalent's
code. "flare23": what nnU-Net does with anisotropic patches; the paper (section 3.2) adds elastic deformation
without numbers, the code has none; "flare23-paper" takes those of nnU-Net's defaults for slices.
"""


def drawn_around_one(limits: Range, rng: np.random.Generator) -> float:
    """A factor below 1 in half of the cases, evenly on each side, as batchgenerators draws scales and gamma.

    Args:
        limits: lowest and highest; evenly between them if 1 is not.
        rng: random generator.
    """
    low, high = limits
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    return rng.uniform(low, high)


def monai_transforms() -> Any:
    """MONAI's transforms, imported only here: it takes seconds, and not every run augments.

    Raises:
        InputError: MONAI is missing.
    """
    try:
        import monai.transforms as transforms
    except ImportError as error:
        advice = """pip install ".[training]" in the repository's folder"""
        raise InputError(f"Augmentation needs MONAI ({error}); install it by {advice}.") from None
    return transforms
