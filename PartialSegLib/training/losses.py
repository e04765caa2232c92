"""DoDNet's loss: Dice plus binary cross-entropy over the annotated channels only."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def partial_label_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    dice_epsilon: float = 1.0,
    foreground_weight: float = 0.0,
    background_weight: float = 0.0,
) -> Tensor:
    """Dice + BCE of the channels that are annotated (DoDNet, equation 8), as a mean over these channels.

    The paper and the official code smooth the denominator of the Dice loss only, so that an empty target
    costs 1 whatever is predicted; here the numerator too, and an empty prediction of it costs nothing.

    Args:
        logits: (B, K, D, H, W), float32.
        target: (B, K, D, H, W), bool or float.
        annotated: (B, K), bool; the other channels change neither the loss nor its gradient.
        dice_epsilon: smoothing, in voxels.
        foreground_weight: of an additional cross-entropy, the mean over the foreground of each channel; 0 is
            the paper's loss. It lets small structures leave the state in which nothing is predicted.
        background_weight: of an additional cross-entropy, the mean over the background of each channel,
            weighted by its probability there; 0 is the paper's loss. The plain mean sees a false lesion
            as a few of very many voxels, and Dice is nearly flat where the target is empty.

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
    cross_entropy = functional.binary_cross_entropy_with_logits(chosen, truth, reduction="none")
    foreground = (cross_entropy * truth).sum(1) / truth.sum(1).clamp_min(1)
    weight = probability.detach() * (1 - truth)
    background = (cross_entropy * weight).sum(1) / weight.sum(1).clamp_min(1)
    extra = foreground_weight * foreground + background_weight * background
    return (dice + cross_entropy.mean(1) + extra).mean()
