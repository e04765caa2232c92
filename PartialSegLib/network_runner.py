"""Runs a network on patches: device, precision, memory layout, and the activation of its logits."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor

from .feature_cache import Features, all_finite
from .model import Model
from .task import Task

logger = logging.getLogger(__name__)


class NetworkRunner:
    """A model's network, copied to a device: `encode` a patch once, then `score` it for any task.

    Args:
        model: stays as it is.
        device: where to run.
        dtype: of the convolutions; where float16 or bfloat16 overflow, the patch is encoded again in float32.
    """

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self.inference = model.manifest.inference
        self.network: Any = copy.deepcopy(model.network).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if hasattr(self.network, "fold_weights"):  # filters that are the same for every patch
            self.network.fold_weights()

    def encode(self, patch: Tensor) -> Features:
        """Task-free features of a patch (D, H, W)."""
        batch = patch[None, None].contiguous(memory_format=torch.channels_last_3d)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            if self.dtype != torch.float32:
                with torch.autocast(self.device.type, self.dtype):
                    features = self.network.forward_features(batch)
                if all_finite(features):
                    return features
                logger.warning("A patch overflowed in %s and is encoded in float32.", self.dtype)
            return self.network.forward_features(batch)

    def score(self, features: Features, task_index: int, task: Task) -> Tensor:
        """What is blended for one task: scores (channels, D, H, W), or logits if the manifest blends these.

        The channels are those of the task's structures in their order; for softmax all channels of the head.
        """
        logits = self._logits(features, task_index)[0]
        if self.inference.activation == "sigmoid":
            logits = logits[list(task.structures.values())]
        return logits if self.inference.blend == "logits" else self._activate(logits)

    def _logits(self, features: Features, task_index: int) -> Tensor:
        """Float32, unless the head holds most of the convolutions."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            if self.dtype != torch.float32 and self.network.convolves_in_head:
                with torch.autocast(self.device.type, self.dtype):
                    logits = self.network.forward_head(features, task_index).float()
                if all_finite(logits):
                    return logits
            return self.network.forward_head(features, task_index)

    def structure_scores(self, blended: Tensor, task: Task) -> dict[str, Tensor]:
        """Per structure of a task the scores (D, H, W) that are compared with `threshold`.

        For sigmoid the probability; for softmax the lead, of the probability or the logit as they were
        blended, over the best other channel: both decide like argmax.
        """
        if self.inference.activation == "sigmoid":
            if self.inference.blend == "logits":
                blended = blended.float().sigmoid()
            return dict(zip(task.structures, blended, strict=True))
        best, second = blended.topk(2, dim=0).values
        return {
            structure: blended[channel] - torch.where(blended[channel] == best, second, best)
            for structure, channel in task.structures.items()
        }

    @property
    def decides_by_winner(self) -> bool:
        """Whether a voxel belongs to the structure with the highest score, and to no other."""
        return self.inference.activation == "softmax"

    @property
    def threshold(self) -> float:
        """A voxel belongs to a structure when its score is greater."""
        return 0.5 if self.inference.activation == "sigmoid" else 0.0

    def _activate(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.inference.activation == "sigmoid" else logits.softmax(dim=0)
