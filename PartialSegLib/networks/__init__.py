"""The networks: tensors in, tensors out; they know shapes and task indices, no files and no anatomy."""

from __future__ import annotations

from .conditional import CondDecNetwork, CondInputNetwork, CondNONetwork
from .dodnet import DoDNet
from .ensemble import Ensemble
from .meddanet import MedDANet
from .meddanet_v2 import MedDANetV2
from .multi_head import MultiHeadNetwork
from .partial_label_network import PartialLabelNetwork
from .residual_encoder_unet import ResidualEncoderUNet
from .single_networks import SINGLE_NETWORKS
from .stunet import STUNet
from .swin_unetr import SwinUNETR
from .transdodnet import DownstreamTransDoDNet, TransDoDNet
from .unet import UNet

__all__ = [
    "NETWORKS",
    "SINGLE_NETWORKS",
    "CondDecNetwork",
    "CondInputNetwork",
    "CondNONetwork",
    "DoDNet",
    "DownstreamTransDoDNet",
    "Ensemble",
    "MedDANet",
    "MedDANetV2",
    "MultiHeadNetwork",
    "PartialLabelNetwork",
    "ResidualEncoderUNet",
    "STUNet",
    "SwinUNETR",
    "TransDoDNet",
    "UNet",
]

NETWORKS: dict[str, type[PartialLabelNetwork]] = {**SINGLE_NETWORKS, "Ensemble": Ensemble}
