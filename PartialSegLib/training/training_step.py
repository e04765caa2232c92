"""The loss of a batch, as one forward pass, so that several processes can share its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import PartialLabelNetwork
from ..patches.feature_cache import map_tensors
from .cases import Cases
from .config import TrainingConfig
from .loop.phased_run import mixed_precision
from .loop.workers import Workers
from .losses import LOSSES, Prediction
from .tissue_head import TissueHead


class TrainingStep(nn.Module):
    """Network, auxiliary head and loss.

    The features of an image are computed once, the head once for each of its cases.

    Args:
        network: in training mode.
        tissue_head: None where the configuration has none.
        config: of the run.
        workers: processes over which losses of whole batches are summed.
    """

    def __init__(
        self,
        network: PartialLabelNetwork,
        tissue_head: TissueHead | None,
        config: TrainingConfig,
        workers: Workers,
    ) -> None:
        super().__init__()
        self.network = network
        self.tissue_head = tissue_head
        self.config = config
        self.workers = workers
        self.structure_weights = config.loss.structure_weights
        deep = bool(config.loss.deep_supervision)
        self.encode: Callable[[Tensor], list[Any]] = network.forward_levels if deep else self._finest_level
        if config.compile:
            self.encode = torch.compile(self.encode)

    def forward(self, batch: Sequence[Cases], step: int) -> Tensor:
        """What some cases add to the loss of a step of the run, a scalar: they are one of its parts."""
        device, tissue = self.workers.device, self.config.tissue
        images = torch.stack([cases.image.to(device, non_blocking=True) for cases in batch])
        images = images.to(memory_format=torch.channels_last_3d)
        levels = self._levels(images)
        loss, parts = images.new_zeros(()), self.config.accumulate
        if tissue is not None and self.tissue_head is not None:
            loss = tissue.weight / parts * self._tissue_loss(levels[0], batch)
        if tissue is None or step >= tissue.iterations:
            supervised = self._supervised_loss(levels, batch)
            loss = loss + (supervised if LOSSES[self.config.loss.kind].is_summed else supervised / parts)
        return loss

    def _finest_level(self, images: Tensor) -> list[Any]:
        return [self.network.forward_features(images)]

    def _levels(self, images: Tensor) -> list[Any]:
        """Features (B, …) of the supervised levels, finest first, in float32."""
        with self._autocast(True):
            levels = self.encode(images)
        return [map_tensors(Tensor.float, features) for features in levels]

    def _autocast(self, enabled: bool) -> torch.autocast:
        """Convolutions in the precision of the run."""
        return mixed_precision(self.config.precision, self.workers.device, enabled)

    def _tissue_loss(self, features: Any, batch: Sequence[Cases]) -> Tensor:
        """Mean over the images of the auxiliary loss."""
        assert self.tissue_head is not None
        watched = self.tissue_head.watched
        read = watched if watched is not None else features[0]
        losses = [
            self.tissue_head.loss(
                read[i : i + 1], cases.voxels.to(read.device), cases.tissues.to(read.device)
            )
            for i, cases in enumerate(batch)
        ]
        return torch.stack(losses).mean()

    def _supervised_loss(self, levels: list[Any], batch: Sequence[Cases]) -> Tensor:
        """The loss of the cases at each level, weighted."""
        weights = self.config.loss.deep_supervision or (1.0,)
        losses = [
            weight / sum(weights) * self._level_loss(features, batch, level)
            for level, (weight, features) in enumerate(zip(weights, levels, strict=False))
            if weight
        ]
        return torch.stack(losses).sum()

    def _level_loss(self, features: Any, batch: Sequence[Cases], level: int) -> Tensor:
        predictions = [
            self._prediction(map_tensors(lambda t, i=i: t[i : i + 1], features), cases, number, level)  # type: ignore[misc] # default binds i
            for i, cases in enumerate(batch)
            for number in range(len(cases.tasks))
        ]
        return LOSSES[self.config.loss.kind].compute(predictions, self.config.loss, self.workers)

    def _prediction(self, features: Any, cases: Cases, number: int, level: int) -> Prediction:
        """Logits and labels of one case of an image; labels are brought to the level's size."""
        task = int(cases.tasks[number])
        with self._autocast(self.network.convolves_in_head):
            logits = self.network.forward_level_head(features, task, level)[0]
        channels, size = logits.shape[0], logits.shape[1:]
        target = _of_size(cases.target_of(number, channels, logits.device), size)
        known = None
        if cases.ignored is not None:
            known = ~_of_size(cases.ignored[None].to(logits.device, non_blocking=True), size).flatten()
        annotated = cases.annotated[number, :channels].to(logits.device)
        weights = self._channel_weights(task, channels).to(logits.device) if self.structure_weights else None
        return Prediction(task, logits.float().flatten(1), target.flatten(1), annotated, known, weights)

    def _channel_weights(self, task: int, channels: int) -> Tensor:
        """How much each channel of a task counts, (channels)."""
        weights = torch.ones(channels)
        for structure, channel in self.config.trained_tasks[task]["structures"].items():
            weights[channel] = self.structure_weights.get(structure, 1.0)
        return weights


def _of_size(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (K, D, H, W) bool at another size, by nearest neighbours, as nnU-Net's deep supervision."""
    if masks.shape[1:] == torch.Size(size):
        return masks
    return functional.interpolate(masks[None].float(), list(size), mode="nearest-exact")[0] > 0.5
