"""An auxiliary head that names the tissue of single voxels; it teaches the features and is then thrown away.

Synthetic images come with a label for every voxel. The one-task losses use little of it: a head sees one or
two structures. Naming the tissue of sampled voxels from the features makes a short training get much further;
the tasks themselves are still learned from partially labelled cases.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from ..phantom import LESION_KINDS, Tissue

_LESIONS_AND_SITES = {int(t) for kind in LESION_KINDS.values() for t in (kind.tissue, *kind.sites)}


class TissueHead(nn.Sequential):
    """Two fully connected layers from the features of a voxel to the scores of all tissues.

    Args:
        channels: of the features.
        width: of the hidden layer.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__(nn.Linear(channels, width), nn.ReLU(inplace=True), nn.Linear(width, len(Tissue)))
        self.watched: Tensor | None = None

    def watch(self, layer: nn.Module) -> None:
        """Keep what flows into a layer of the network, in every later forward pass, as `watched`.

        The layer that makes the features leaves few channels; what flows into it can tell more tissues apart.
        """

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.watched = inputs[0].float()

        layer.register_forward_pre_hook(keep)

    def loss(self, features: Tensor, voxels: Tensor, tissues: Tensor) -> Tensor:
        """Mean cross-entropy of the sampled voxels of one image.

        Args:
            features: (1, C, D, H, W).
            voxels: (N) int64, indices into the flattened image.
            tissues: (N) int64, what is there.
        """
        rows = features[0].permute(1, 2, 3, 0).reshape(-1, features.shape[1])
        return functional.cross_entropy(self(rows.index_select(0, voxels)), tissues)


def sample_voxels(
    tissues: np.ndarray,
    number: int,
    rng: np.random.Generator,
    power: float = 0.5,
    lesion_focus: float = 1.0,
) -> np.ndarray:
    """Draw about `number` voxels, from each tissue in proportion to a power of its volume.

    Args:
        tissues: (z, y, x) uint8.
        number: how many, before rounding up for each tissue.
        rng: random generator.
        power: 0.5 takes the square root; 0 draws equally many voxels of every tissue.
        lesion_focus: this many times more voxels of lesions and of the tissues in which they grow.

    Returns:
        (N) int64, indices into the flattened array; voxels of rare tissues may occur more than once.
    """
    flat = tissues.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=len(Tissue))
    ends = np.cumsum(counts)
    shares = np.where(counts > 0, counts.astype(float) ** power, 0)
    shares[sorted(_LESIONS_AND_SITES)] *= lesion_focus
    wanted = np.ceil(number * shares / shares.sum()).astype(int)
    drawn = [
        order[rng.integers(end - count, end, size)]
        for count, end, size in zip(counts, ends, wanted, strict=True)
        if count
    ]
    return np.concatenate(drawn).astype(np.int64)
