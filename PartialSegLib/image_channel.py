"""The channels of an image: one in a CT, several where sequences of MR are read together, as in BraTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from .errors import InputError
from .files.json_fields import require


@dataclass(frozen=True)
class ImageChannel:
    """One channel of the image that a network reads.

    Attributes:
        name: such as CT or t1ce; data sets name their channels alike.
        normalization: "HU" clips and scales as `Preprocessing` says. "z-score" takes off the mean and divides
            by the standard deviation, both over the voxels that are not 0 in any of the z-scored channels,
            and leaves 0 outside: MR has no unit, and in data sets such as BraTS all around the brain is 0.
            So do nnU-Net (Isensee et al., Nature Methods 2021, supplementary note 2) and Med-DANet's code.
    """

    name: str
    normalization: Literal["HU", "z-score"] = "z-score"

    def __post_init__(self) -> None:
        """Refuse a channel without a name."""
        require(bool(self.name.strip()), "name: expected the name of the channel, got an empty text")


ONE_CT: Final = (ImageChannel("CT", "HU"),)


def check_one_ct(model: str, channels: tuple[ImageChannel, ...]) -> None:
    """Refuse images that are more, or something else, than one CT.

    Args:
        model: name of the model that reads them.
        channels: of its images.

    Raises:
        InputError: they are not one channel in HU.
    """
    if [channel.normalization for channel in channels] != ["HU"]:
        names = ", ".join(channel.name for channel in channels)
        raise InputError(
            f"Model {model} reads images with the channels {names}, and only images with one channel in HU "
            "can be segmented here; choose a model for CT."
        )
