"""Transfer of weights: a network for new tasks starts from what another one has learned.

DoDNet, section 4.4: an encoder-decoder for BCV's 13 organs, with a new last layer, starts from MOTS.
TransDoDNet, section 3.7: convolutional encoder, Transformer encoder and convolutional decoder are reused,
everything else is abandoned, and a new head is added. MultiTalent, section 2.2: the new segmentation heads
are warmed up on what was learned from 13 data sets, then the whole network is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model import Model, load_model
from ..networks import Ensemble, PartialLabelNetwork

TASK_PARTS: dict[str, tuple[str, ...]] = {
    "CondDecNetwork": ("head",),
    "CondInputNetwork": ("stem", "head"),
    "CondNONetwork": ("head",),
    "DoDNet": ("controller",),
    "DownstreamTransDoDNet": ("head",),
    "MedDANet": ("bank.networks.*.head",),
    "MedDANetV2": ("unet.head", "crop_head", "whole_head"),
    "MultiHeadNetwork": ("decoders",),
    "ResidualEncoderUNet": ("heads",),
    "STUNet": ("heads",),
    "SwinUNETR": ("network.out",),
    "TransDoDNet": (
        "controller",
        "transformer.decoder",
        "transformer.query_embedding",
        "transformer.query_reference",
    ),
    "UNet": ("heads",),
}
"""For each architecture but ensembles the parts that belong to its tasks, and start anew for others."""


@dataclass(frozen=True)
class TransferReport:
    """What happened to each weight of a network, by their names in its `state_dict`.

    Attributes:
        taken: copied as they are.
        adapted: first convolutions, brought to another number of image channels.
        fresh: left as they were.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a log: how many, and of which modules the others are."""
        text = f"{len(self.taken)} weights taken"
        for names, word in ((self.adapted, "adapted"), (self.fresh, "fresh")):
            modules = dict.fromkeys(map(_layer, names))
            text += f", {len(names)} {word}" + (f" ({', '.join(modules)})" if names else "")
        return text


def transfer_weights(
    network: PartialLabelNetwork, package_or_model: str | Path | Model, parts: Sequence[str] | None = None
) -> TransferReport:
    """Copy into a network every layer of another one that fits it by name, kind and shape.

    A first convolution with another number of image channels is adapted, see `with_image_channels`.

    Args:
        network: of any architecture, such as one for new tasks; changed in place.
        package_or_model: a model package, by name or folder, or a loaded one.
        parts: modules of the network to take, such as "encoder" or "decoder.0"; * stands for anything, and
            "*" alone takes the heads as well. None takes everything but `TASK_PARTS`.

    Raises:
        InputError: no weight fits, the network has not such a part, or the package cannot be loaded; the
            network is then as it was.
    """
    source = package_or_model if isinstance(package_or_model, Model) else load_model(package_or_model)
    own = network.state_dict()
    wanted = _wanted_names(network, own, parts)
    taken, adapted = _fitting_weights(network, source, wanted)
    if not taken and not adapted:
        raise InputError(
            f"No weight of model {source.manifest.name} ({source.manifest.network.architecture}) fits "
            f"{type(network).__name__}; choose a model of the same architecture and widths."
        )
    with torch.no_grad():
        for name, value in (taken | adapted).items():
            own[name].copy_(value)
    fresh = (name for name in own if name not in taken and name not in adapted)
    return TransferReport(tuple(taken), tuple(adapted), tuple(fresh))


def _fitting_weights(
    network: PartialLabelNetwork, source: Model, wanted: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the wanted weights those that fit as they are, and those that are adapted, by name.

    A layer is taken as a whole: the bias of filters that do not fit means nothing.
    """
    own, weights = network.state_dict(), source.network.state_dict()
    image_channels = source.manifest.network.arguments.get("in_channels", 1)
    task_parts = _task_parts(network)
    common = [
        name for name in wanted if name in weights and _kind(network, name) is _kind(source.network, name)
    ]
    taken = {name: weights[name] for name in common if weights[name].shape == own[name].shape}
    adapted = {
        name: with_image_channels(weights[name], own[name].shape[1])
        for name in common
        if name not in taken
        and _reads_image(weights[name], image_channels, own[name].shape)
        and not _belongs_to(name, task_parts)
    }
    misfits = {_layer(name) for name in common if name not in taken and name not in adapted}
    return _outside(misfits, taken), _outside(misfits, adapted)


def _task_parts(network: PartialLabelNetwork) -> tuple[str, ...]:
    """The parts of a network that belong to its tasks; of an ensemble those of each member."""
    if isinstance(network, Ensemble):
        return tuple(f"members.*.{part}" for part in _task_parts(network.networks[0]))
    return TASK_PARTS[type(network).__name__]


def _outside(layers: Collection[str], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if _layer(name) not in layers}


def _layer(name: str) -> str:
    """Name of the module that holds a weight."""
    return name.rpartition(".")[0]


def with_image_channels(weight: Tensor, channels: int) -> Tensor:
    """The filters (C_out, C_in, ...) of a first convolution for an image of another number of channels.

    TransDoDNet, section 4.5, for the four channels of BraTS: "we extend the channels in the first layer and
    initialize them by copying the weights of the first channel". It does not say that the copies are divided
    by their number. Here they are, so that an image whose channels are all the same gives the same
    activations. Normalisation takes such a factor away; it matters where there is none, as in the first
    shortcut of STU-Net. Weight-standardised filters, as in DoDNet, have no scale of their own and lose the
    division: activations of the first convolution grow with the number of channels, as in the paper.

    Returns:
        (C_out, channels, ...), the same filter for each channel: the sum over the former ones by the number
        of the new ones.
    """
    return (weight.sum(1, keepdim=True) / channels).repeat_interleave(channels, 1)


def _wanted_names(
    network: PartialLabelNetwork, names: Collection[str], parts: Sequence[str] | None
) -> list[str]:
    """Names of the weights in these parts, or in all but those of tasks."""
    if parts is None:
        task_parts = _task_parts(network)
        return [name for name in names if not _belongs_to(name, task_parts)]
    for part in parts:
        if not any(_belongs_to(name, [part]) for name in names):
            known = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"{type(network).__name__} has no part '{part}'; its parts are {known}.")
    return [name for name in names if _belongs_to(name, parts)]


def _belongs_to(name: str, parts: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for part in parts for pattern in (part, f"{part}.*"))


def _kind(network: nn.Module, name: str) -> type[nn.Module]:
    """Class of the module that holds a weight: the scale of a normalisation is no filter."""
    return type(network.get_submodule(_layer(name)))


def _reads_image(weight: Tensor, image_channels: int, shape: torch.Size) -> bool:
    """Whether these are filters of an image with so many channels, and differ from the shape in no more."""
    reads = weight.ndim > 3 and weight.shape[1] == image_channels
    return reads and weight.shape[:1] + weight.shape[2:] == shape[:1] + shape[2:]
