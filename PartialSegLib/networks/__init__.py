"""The networks: tensors in, tensors out; they know shapes and task indices, no files and no anatomy."""

from __future__ import annotations

from .dodnet import DoDNet
from .partial_label_network import PartialLabelNetwork

__all__ = ["NETWORKS", "DoDNet", "PartialLabelNetwork"]

NETWORKS: dict[str, type[PartialLabelNetwork]] = {"DoDNet": DoDNet}
