"""The losses of Med-DANet: of its model bank, and of its decision network.

Wang et al.: Med-DANet, ECCV 2022, section 3.3, equations 5 to 7.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..loop.workers import ALONE, Workers

EPSILON = 1e-5  # of the official code of version 2; the paper has none


def softmax_dice_loss(logits: Tensor, labels: Tensor, workers: Workers = ALONE) -> Tensor:
    """Equation 5: the sum over the classes but background of 1 - 2 |P and T| / (|P| + |T|).

    The paper counts "the number of segmentation classes" C; the official code of version 2 leaves background
    out, pools the pixels of all slices of the batch, and adds 1e-5 to the denominator, so that a class that
    no slice of the batch has costs 1. So does this.

    Args:
        logits: (B, C, H, W), background first; P is their softmax.
        labels: T (B, H, W) int64, class of each pixel.
        workers: processes that share the batch.
    """
    probability = logits.softmax(dim=1).transpose(0, 1).flatten(1)
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 0).flatten(1).to(probability.dtype)
    pixels = [(probability * truth).sum(1), probability.sum(1) + truth.sum(1)]
    overlap, total = workers.summed(torch.stack(pixels))
    return (1 - 2 * overlap / (total + EPSILON))[1:].sum()


def candidate_loss(
    logits: Tensor, labels: Tensor, cross_entropy_weight: float = 0.0, workers: Workers = ALONE
) -> Tensor:
    """Loss of one candidate of the bank: the Dice loss, and a cross-entropy if it is asked for.

    The paper (section 4.1) has the Dice loss alone, so has the official code of version 2. On small batches
    it starts slowly where a class is rare; the mean cross-entropy of the pixels helps there.

    Args:
        logits: (B, C, H, W), background first.
        labels: (B, H, W) int64, class of each pixel.
        cross_entropy_weight: of the cross-entropy; 0 is the paper's loss.
        workers: processes that share the batch; the cross-entropy is that of this process.
    """
    loss = softmax_dice_loss(logits, labels, workers)
    if cross_entropy_weight > 0:
        loss = loss + cross_entropy_weight * functional.cross_entropy(logits, labels)
    return loss


def decision_loss(logits: Tensor, choices: Tensor, weights: Tensor) -> Tensor:
    """Equation 7: the weighted cross-entropy, as a plain mean over the slices.

    Args:
        logits: (B, n + 1), skip first.
        choices: (B) int64, what should be chosen.
        weights: w (n + 1).
    """
    return functional.cross_entropy(logits, choices, weights, reduction="none").mean()


def bank_loss(losses: list[Tensor], num_candidates: int) -> Tensor:
    """Equation 6: the sum of the candidates' losses divided by their number n.

    n stays the same when candidates have left: the ratio of loss and weight decay of the others stays too.
    """
    return torch.stack(losses).sum() / num_candidates
