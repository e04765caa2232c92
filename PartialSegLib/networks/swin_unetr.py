"""Swin UNETR: a shifted-window Transformer encodes, convolutions decode; MultiTalent's third network.

Hatamizadeh et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images,
BrainLes 2021; used with partially labelled data by Ulrich et al.: MultiTalent, MICCAI 2023, section 2.2. The
network itself is MONAI's, an optional package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .encoder_decoder import DecoderFeatures, SharedHeadNetwork
from .unet import MULTITALENT_TASK_CHANNELS

HALVINGS = 5  # of the image: once by the tokens, four times by merging them


class SwinUNETR(SharedHeadNetwork):
    """The defaults are MultiTalent's network (62,188,913 parameters; 62.19 million in its Table 4).

    The paper "adopted the default network topology" and trained with patches of 96 x 192 x 192 voxels of
    1.5 x 1 x 1 mm. It does not name the feature size: 48, Swin UNETR's own, gives its number of parameters.

    The weights have MONAI's names behind "network.", so those of a checkpoint only need this prefix.

    Input size: multiples of 32 voxels on each axis, more than 32 on one of them, because one voxel has no
    variance to normalise with.

    Args:
        task_channels: number of output channels of each task, in their order.
        in_channels: image channels.
        feature_size: channels at full resolution and of the tokens, a multiple of 12.
        depths: Swin blocks of the four stages.
        num_heads: of the windowed attention in the four stages.

    Raises:
        ImportError: MONAI or einops, which it needs, is missing.
        ValueError: `feature_size` is no multiple of 12.
    """

    def __init__(
        self,
        task_channels: Sequence[int] = MULTITALENT_TASK_CHANNELS,
        in_channels: int = 1,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
    ) -> None:
        super().__init__(task_channels, feature_size)
        self.patch_multiple = (2**HALVINGS,) * 3
        build = _monai_network()
        with _LinspaceOnCpu():
            self.network = build(
                in_channels=in_channels,
                out_channels=sum(task_channels),
                feature_size=feature_size,
                depths=depths,
                num_heads=num_heads,
            )
        self.network.out = _KeptAside(self.network.out)

    def forward_features(self, patch: Tensor) -> DecoderFeatures:
        """Encode and decode patch (B, C, D, H, W) without knowing the task."""
        return DecoderFeatures(self.network(patch))

    def head_convolutions(self) -> list[nn.Conv3d]:
        """The only one: MONAI's network has no deep supervision."""
        return [cast(nn.Conv3d, self.network.out.conv.conv)]


class _KeptAside(nn.Module):
    """MONAI's last block, under its names but not applied, so that MONAI's forward ends with the features."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv = block.conv

    def forward(self, features: Tensor) -> Tensor:
        return features


class _LinspaceOnCpu(TorchFunctionMode):
    """MONAI reads drop rates from `torch.linspace`, whose values the "meta" device does not have."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({**kwargs, "device": "cpu"} if func is torch.linspace else kwargs))


def _monai_network() -> Callable[..., Any]:
    """MONAI's class, imported only here: it takes seconds, and few need it."""
    try:
        import einops  # noqa: F401 (MONAI names it only when the network runs)
        from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
    except ImportError as error:
        advice = """pip install monai einops, in Slicer's console slicer.util.pip_install("monai einops")"""
        raise ImportError(f"SwinUNETR needs MONAI and einops ({error}); install them by {advice}") from None
    return MonaiSwinUNETR
