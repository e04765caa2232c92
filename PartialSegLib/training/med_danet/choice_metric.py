"""What Med-DANet's decision network is taught: the best trade-off of Dice and cost for each slice.

Wang et al.: Med-DANet, ECCV 2022, section 3.2, equation 4. There is no official code of it: version 2 has
other choices and learns them through the segmentation loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks import MedDANet
from .slices import Slice

ALPHA = 0.001  # Table 4
SKIP = 0


@torch.no_grad()
def best_choices(network: MedDANet, batch: Slice, alpha: float = ALPHA) -> Tensor:
    """What equation 4 says (B) of the candidates on slices, see `choose_candidates`.

    Args:
        network: is in evaluation mode afterwards.
        batch: slices with labels, on the network's device.
        alpha: weight of the cost.
    """
    bank = network.eval().bank
    predictions = [candidate(batch.image).argmax(dim=1) for candidate in bank.networks]
    dice = [slice_dice(prediction, batch.labels, bank.num_classes) for prediction in predictions]
    decision, *costs = network.multiply_adds
    gigaflops = torch.tensor([cost - decision for cost in costs], device=batch.labels.device)
    foreground = (batch.labels > 0).sum(dim=(1, 2))
    return choose_candidates(torch.stack(dice, dim=1), gigaflops, foreground, alpha)


def choose_candidates(
    dice: Tensor, gigaflops: Tensor, foreground_pixels: Tensor, alpha: float = ALPHA
) -> Tensor:
    """The choice D of equation 4: 0 (skip) where a slice has no foreground, else 1 + the best candidate.

    The best has the largest (1 - alpha) * dice + alpha * softmax(1 / gigaflops); of equals, the first.

    The softmax depends on the unit of the cost, which the paper does not name at the equation. Its tables
    have thousand millions of multiply-adds as "FLOPs (G)", so these are meant here; in single FLOPs all
    candidates would cost the same.

    Args:
        dice: S (B, n) of each candidate on each slice.
        gigaflops: F (n), thousand millions of multiply-adds of each candidate for one slice.
        foreground_pixels: P (B), of all structures together.
        alpha: weight of the cost; the paper's best is 0.001, more makes the bank cheaper.

    Returns:
        (B) int64, from 0 to n.
    """
    cheapness = (1 / gigaflops).softmax(dim=0)
    best = ((1 - alpha) * dice + alpha * cheapness).argmax(dim=1) + 1
    return torch.where(foreground_pixels < 1, SKIP, best)


def slice_dice(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Dice (B) of each slice: the mean over the classes but background, S in equation 4.

    The paper does not say how classes are combined. A class that is neither predicted nor there counts 1, one
    that is predicted but not there 0, as in `evaluation.dice`.

    Args:
        prediction: (B, H, W), class of each pixel, background 0.
        labels: (B, H, W), as prediction.
        num_classes: with background.
    """
    scores = []
    for number in range(1, num_classes):
        predicted, true = (prediction == number).flatten(1), (labels == number).flatten(1)
        overlap, total = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
        scores.append(torch.where(total > 0, 2 * overlap / total.clamp_min(1), 1.0))
    return torch.stack(scores).mean(0)
