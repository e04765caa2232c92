"""The networks by name, each with one set of weights; an ensemble has several of one of them."""

from __future__ import annotations

from .conditional import CondDecNetwork, CondInputNetwork, CondNONetwork
from .dodnet import DoDNet
from .meddanet import MedDANet
from .meddanet_v2 import MedDANetV2
from .multi_head import MultiHeadNetwork
from .partial_label_network import PartialLabelNetwork
from .residual_encoder_unet import ResidualEncoderUNet
from .stunet import STUNet
from .swin_unetr import SwinUNETR
from .transdodnet import DownstreamTransDoDNet, TransDoDNet
from .unet import UNet

SINGLE_NETWORKS: dict[str, type[PartialLabelNetwork]] = {
    "CondDecNetwork": CondDecNetwork,
    "CondInputNetwork": CondInputNetwork,
    "CondNONetwork": CondNONetwork,
    "DoDNet": DoDNet,
    "DownstreamTransDoDNet": DownstreamTransDoDNet,
    "MedDANet": MedDANet,
    "MedDANetV2": MedDANetV2,
    "MultiHeadNetwork": MultiHeadNetwork,
    "ResidualEncoderUNet": ResidualEncoderUNet,
    "STUNet": STUNet,
    "SwinUNETR": SwinUNETR,
    "TransDoDNet": TransDoDNet,
    "UNet": UNet,
}
