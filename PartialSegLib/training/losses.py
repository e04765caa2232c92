"""Losses of partially labelled cases: what a data set does not annotate changes neither loss nor gradient.

Each takes the predictions of a batch. With several processes (`across`), what is summed over the batch is
summed over the batches of all of them, so that a run does not depend on how many there are. Means over what
is annotated are taken in each process by itself: with `average` "channels", and with a softmax whose Dice is
not joint, a run does depend on which cases come together in a process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .config import Loss
from .loop.workers import Workers

TINY = 1e-7  # keeps 0/0 away where a class has neither prediction nor target
SOFTMAX_EPSILON = 1e-5  # of nnU-Net version 2's Dice


class Prediction(NamedTuple):
    """The logits of one case, and what is known of it; V voxels.

    Attributes:
        task: index of its task.
        logits: (K, V) float32.
        target: (K, V) bool or float.
        annotated: (K) bool.
        known: (V) bool; None where every voxel has been labelled.
        weights: (K), how much each channel counts; None where all count alike.
    """

    task: int
    logits: Tensor
    target: Tensor
    annotated: Tensor
    known: Tensor | None = None
    weights: Tensor | None = None


def dice_and_cross_entropy(predictions: Sequence[Prediction], options: Loss, across: Workers) -> Tensor:
    """Dice plus binary cross-entropy of the annotated channels (DoDNet, equation 8).

    The mean over the annotated channels of a case, then over the cases. DoDNet's code takes the mean over the
    cases that have a channel first, then over the channels (`average` "channels"). Paper and code smooth the
    denominator of Dice only (`smooth_numerator` false), so that an empty target costs 1 whatever is
    predicted; with the numerator too, an empty prediction of it costs nothing.

    Two further cross-entropies, weight 0 in the paper: `foreground_weight`, the mean over the foreground of
    each channel, lets small structures leave the state in which nothing is predicted; `background_weight`,
    the sum over the background weighted by the probability there, over the false and the true volume, sees
    false lesions, which the plain mean sees as a few of very many voxels. Over the false volume alone it
    would weigh little but the borders of large organs, and draw them inwards. What a channel costs is
    multiplied by its weight (`structure_weights`, 1 in the paper).

    Returns:
        Scalar; 0 when nothing is annotated.
    """
    costs: dict[int, list[Tensor]] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        channels, cost = _channel_costs(prediction, options)
        for channel, value in zip(channels, cost, strict=True):
            costs[channel if options.average == "channels" else number].append(value)
    if not costs:
        return _nothing(predictions)
    return torch.stack([torch.stack(values).mean() for values in costs.values()]).mean()


def _channel_costs(prediction: Prediction, options: Loss) -> tuple[list[int], Tensor]:
    """The annotated channels of a case and their costs (N)."""
    chosen, truth = _annotated(prediction)
    known = _known(prediction)
    probability = chosen.sigmoid() * known
    overlap, total = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    above = options.dice_epsilon if options.smooth_numerator else 0.0
    dice = 1 - (2 * overlap + above) / (total + options.dice_epsilon).clamp_min(TINY)
    entropy = functional.binary_cross_entropy_with_logits(chosen, truth, reduction="none") * known
    cost = dice + _mean(entropy, known)
    if options.foreground_weight:
        cost = cost + options.foreground_weight * (entropy * truth).sum(1) / truth.sum(1).clamp_min(1)
    if options.background_weight:
        weight = probability.detach() * (1 - truth)
        size = weight.sum(1) + truth.sum(1)
        cost = cost + options.background_weight * (entropy * weight).sum(1) / size.clamp_min(1)
    if prediction.weights is not None:
        cost = cost * prediction.weights[prediction.annotated]
    return prediction.annotated.nonzero()[:, 0].tolist(), cost


def class_adaptive(predictions: Sequence[Prediction], options: Loss, across: Workers) -> Tensor:
    """Binary cross-entropy minus Dice, summed over the classes that are annotated (MultiTalent, equation 2).

    Dice is taken jointly over all cases of the batch that have the class; the official code takes it for each
    case (`joint_dice` false). Losses are summed, not averaged, so that the loss of a class does not depend on
    how many others its data set has.
    """
    entropy = _nothing(predictions)
    sums: dict[tuple[int, int], Tensor] = {}
    for number, prediction in enumerate(predictions):
        chosen, truth = _annotated(prediction)
        known = _known(prediction)
        loss = functional.binary_cross_entropy_with_logits(chosen, truth, reduction="none") * known
        entropy = entropy + _mean(loss, known).sum()
        probability = chosen.sigmoid() * known
        rows = torch.stack([(probability * truth).sum(1), probability.sum(1) + truth.sum(1)], 1)
        for channel, row in zip(prediction.annotated.nonzero()[:, 0].tolist(), rows, strict=True):
            key = (prediction.task, channel) if options.joint_dice else (-1 - number, channel)
            sums[key] = sums.get(key, torch.zeros_like(row)) + row
    if not options.joint_dice:
        return across.size * (entropy - _dice(list(sums.values()), predictions).sum())
    return across.size * entropy - _dice(across.summed_by_key(sums, _nothing(predictions)), predictions).sum()


def softmax_dice_and_cross_entropy(
    predictions: Sequence[Prediction], options: Loss, across: Workers
) -> Tensor:
    """Cross-entropy minus mean Dice of the classes under a softmax (nnU-Net version 2, as in FLARE23).

    Channel 0 is the background; where targets overlap, the later channel wins. Classes that a case does not
    annotate are counted as background: their probabilities are added to its (the target-adaptive loss of
    Fang and Yan, IEEE TMI 2020, a baseline of DoDNet's section 4.3). Where all are annotated this is plain
    cross-entropy and Dice.
    """
    entropies, rows = [], []
    for prediction in predictions:
        classes, log_probability = _merged_classes(prediction)
        known = _known(prediction)
        chosen = log_probability.gather(0, classes[None])[0]
        entropies.append(-_mean((chosen * known)[None], known)[0])
        truth = functional.one_hot(classes, len(log_probability)).T * known
        probability = log_probability.exp() * known
        row = torch.stack([(probability * truth).sum(1), probability.sum(1) + truth.sum(1)], 1)
        rows.append(row * prediction.annotated[:, None])
    entropy, annotated = torch.stack(entropies).mean(), torch.stack([p.annotated for p in predictions])
    if options.joint_dice:
        sums, counted = across.summed(torch.stack(rows).sum(0)), across.summed(annotated.sum(0).float()) > 0
    else:
        sums, counted = torch.stack(rows).flatten(0, 1), annotated.flatten()
    scores = (2 * sums[:, 0] + SOFTMAX_EPSILON) / (sums[:, 1] + SOFTMAX_EPSILON)
    counted = counted & _foreground_channels(annotated, options.joint_dice)
    return entropy - scores[counted].sum() / counted.sum().clamp_min(1)


def _merged_classes(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The class of each voxel (V), and log-probabilities (K, V), channel 0 with what is not annotated.

    The rows of what is not annotated stay as they are; no class of a voxel points to them.
    """
    annotated = prediction.annotated.clone()
    annotated[0] = True
    order = torch.arange(len(annotated), device=annotated.device)[:, None]
    classes = (prediction.target.bool() & annotated[:, None]).long().mul(order).amax(0)
    logs = prediction.logits.log_softmax(0)
    background = ~annotated
    background[0] = True
    merged = logs[background].logsumexp(0)
    rows = [merged if channel == 0 else logs[channel] for channel in range(len(logs))]
    return classes, torch.stack(rows)


def _foreground_channels(annotated: Tensor, joint: bool) -> Tensor:
    foreground = torch.ones(annotated.shape[1], dtype=torch.bool, device=annotated.device)
    foreground[0] = False
    return foreground if joint else foreground.repeat(annotated.shape[0])


def _annotated(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Logits and target (N, V) of the annotated channels; what nobody has labelled is no foreground."""
    truth = prediction.target[prediction.annotated].to(prediction.logits.dtype)
    return prediction.logits[prediction.annotated], truth * _known(prediction)


def _known(prediction: Prediction) -> Tensor:
    """(V) or (1): 1 where a voxel has been labelled."""
    if prediction.known is None:
        return prediction.logits.new_ones(1)
    return prediction.known.to(prediction.logits.dtype)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean (N) over the labelled voxels of values (N, V), which are 0 elsewhere."""
    voxels = values.shape[1] if known.numel() == 1 else known.sum().clamp_min(1)
    return values.sum(1) / voxels


def _dice(sums: list[Tensor], predictions: Sequence[Prediction]) -> Tensor:
    """Dice (N) from overlaps and totals, N pairs."""
    if not sums:
        return _nothing(predictions)[None]
    overlap, total = torch.stack(sums).T
    return 2 * overlap / total.clamp_min(TINY)


def _nothing(predictions: Sequence[Prediction]) -> Tensor:
    """0, with a gradient of 0."""
    return predictions[0].logits.sum() * 0


class LossKind(NamedTuple):
    """A loss, and what a training step has to know of it.

    Attributes:
        compute: from the predictions of a batch, the options, and the processes that share the batch.
        is_summed: over the cases of a batch, not averaged.
        can_join_dice: whether Dice may be that of all cases of a batch together (`joint_dice`).
    """

    compute: Callable[[Sequence[Prediction], Loss, Workers], Tensor]
    is_summed: bool = False
    can_join_dice: bool = False


LOSSES = {
    "dice and cross-entropy": LossKind(dice_and_cross_entropy),
    "class-adaptive": LossKind(class_adaptive, is_summed=True, can_join_dice=True),
    "softmax": LossKind(softmax_dice_and_cross_entropy, can_join_dice=True),
}
