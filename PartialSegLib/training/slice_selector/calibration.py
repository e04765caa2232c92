"""Thresholds of a decision network, chosen for recall, and what it reaches with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import nn

from ...decision_spec import DecisionSpec
from ...patches.slice_selection import keep_slices, slice_scores
from .trunks import TrunkSlices

Figures = dict[str, dict[str, float]]


def choose_thresholds(
    network: nn.Module, images: Sequence[TrunkSlices], spec: DecisionSpec, recall: float, margin: float
) -> tuple[float, ...]:
    """The highest threshold of each task that keeps enough of the slices it needs, less a margin.

    A needed slice is kept when the highest score within `dilation` slices of it reaches the threshold.

    Args:
        network: in evaluation mode.
        images: not those it was trained on.
        spec: how slices are seen; its thresholds are not used.
        recall: share of needed slices kept, at least.
        margin: logit taken off each threshold then, since other images may be harder.

    Returns:
        For each task a threshold; 0, which keeps everything, for a task that no image needs.
    """
    reached: list[list[np.ndarray]] = [[] for _ in range(images[0].needed.shape[1])]
    for image in images:
        scores = slice_scores(network, image.squares.float(), spec)
        best = ndimage.maximum_filter1d(scores, 2 * spec.dilation + 1, axis=1)
        for task, values in enumerate(reached):
            values.append(best[task, image.needed[:, task]])
    return tuple(_lowered(np.concatenate(values), recall, margin) for values in reached)


def selection_figures(
    network: nn.Module, images: Sequence[TrunkSlices], spec: DecisionSpec, names: Sequence[str]
) -> Figures:
    """What the selection reaches on images.

    Returns:
        By task: the number of slices `needed`, the share of them kept (`recall`), the share of the others
        that is skipped (`skipped_of_unneeded`), and the share of all slices that is `skipped`; nothing at all
        without images.
    """
    if not images:
        return {}
    kept = [keep_slices(slice_scores(network, image.squares.float(), spec), spec) for image in images]
    chosen = np.concatenate(kept, axis=1)
    needed = np.concatenate([image.needed for image in images]).T
    return {name: _figures(chosen[task], needed[task]) for task, name in enumerate(names)}


def _figures(kept: np.ndarray, needed: np.ndarray) -> dict[str, float]:
    figures: dict[str, float] = {"needed": int(needed.sum()), "skipped": round(float(1 - kept.mean()), 4)}
    if needed.any():
        figures["recall"] = round(float(kept[needed].mean()), 5)
    if not needed.all():
        figures["skipped_of_unneeded"] = round(float(1 - kept[~needed].mean()), 4)
    return figures


def _lowered(reached: np.ndarray, recall: float, margin: float) -> float:
    if not len(reached):
        return 0.0
    score = float(np.quantile(reached.astype(float), 1 - recall, method="lower"))
    odds = score / (1 - score) * np.exp(-margin) if score < 1 else np.inf
    return float(np.floor(odds / (1 + odds) * 1e6) / 1e6) if np.isfinite(odds) else 1.0
