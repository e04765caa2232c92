"""Batch normalisation over the batch of all processes; PyTorch's own (SyncBatchNorm) is for GPUs alone.

Ioffe and Szegedy: Batch normalization, ICML 2015. With it several processes train as one with all of the
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .workers import Workers


class SharedBatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, with the mean and variance of all processes in training; weights have its names.

    Args:
        num_features: channels.
        workers: the processes of the run, each with as many pixels.
    """

    def __init__(self, num_features: int, workers: Workers) -> None:
        super().__init__(num_features)
        self.workers = workers

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, num_features, H, W), in float32 whatever its type."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.to(self.weight.dtype)
            count = self.workers.size * x.numel() // x.shape[1]
            mean = self.workers.summed(values.sum(dim=(0, 2, 3))) / count
            centered = values - mean[:, None, None]
            variance = self.workers.summed(centered.square().sum(dim=(0, 2, 3))) / count
            self._remember(mean, variance * count / (count - 1))
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics for inference towards those of the batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def share_batch_norm(network: nn.Module, workers: Workers) -> None:
    """Let every `nn.BatchNorm2d` of a network see the batch of all processes."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(child.num_features, workers)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
