"""DoDNet's loss: Dice plus binary cross-entropy over the annotated channels only."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def partial_label_loss(logits: Tensor, target: Tensor, annotated: Tensor, dice_epsilon: float = 1.0) -> Tensor:
    """Dice + BCE of the channels that are annotated (DoDNet, equation 4).

    The mean goes over the annotated channels; with the paper's epsilon in numerator and denominator an empty target with
    an empty prediction costs nothing (the official code has it in the denominator only, where it costs 1).

    Args:
        logits: (B, K, D, H, W), float32.
        target: (B, K, D, H, W), bool or float.
        annotated: (B, K), bool; the other channels change neither the loss nor its gradient.
        dice_epsilon: smoothing, in voxels.

    Returns:
        Scalar; 0 when nothing is annotated.
    """
    chosen, truth = logits[annotated].flatten(1), target[annotated].flatten(1).to(logits.dtype)
    if chosen.shape[0] == 0:
        return logits.sum() * 0
    probability = chosen.sigmoid()
    overlap = (probability * truth).sum(1)
    total = probability.sum(1) + truth.sum(1)
    dice = 1 - (2 * overlap + dice_epsilon) / (total + dice_epsilon)
    cross_entropy = functional.binary_cross_entropy_with_logits(chosen, truth, reduction="none").mean(1)
    return (dice + cross_entropy).mean()
