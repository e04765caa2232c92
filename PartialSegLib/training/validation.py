"""How a network does during its training: Dice on fixed patches, and a picture of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..manifest import Task
from ..networks import PartialLabelNetwork
from ..output_files import replacing
from .cases import Cases

Scores = dict[tuple[str, str], float]


def predicted_masks(logits: Tensor, activation: Literal["sigmoid", "softmax"]) -> Tensor:
    """Masks (K, D, H, W) bool of logits (K, D, H, W): above 0.5, or the highest channel."""
    if activation == "sigmoid":
        return logits > 0
    order = torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return logits.argmax(0, keepdim=True) == order


@torch.no_grad()
def validate(
    network: PartialLabelNetwork,
    images: Iterable[Cases],
    tasks: tuple[Task, ...],
    activation: Literal["sigmoid", "softmax"],
    device: torch.device,
    picture: Path | None = None,
) -> Scores:
    """Dice of the annotated structures, each over the voxels of all patches together.

    Args:
        network: in evaluation mode, on the device.
        images: patches with labels.
        tasks: of the model.
        activation: what turns logits into scores.
        device: where the network is.
        picture: file for a picture of the first patches; None draws none.

    Returns:
        Dice by (task, structure); structures that no patch has are left out.
    """
    overlap: dict[tuple[str, str], int] = defaultdict(int)
    total: dict[tuple[str, str], int] = defaultdict(int)
    rows = []
    for cases in images:
        features = network.forward_features(cases.image[None].to(device))
        for number, index in enumerate(cases.tasks.tolist()):
            masks = predicted_masks(network.forward_head(features, index)[0], activation).cpu()
            target, known = cases.target[number], cases.annotated[number]
            channels = {s: c for s, c in tasks[index].structures.items() if known[c]}
            for structure, channel in channels.items():
                key = tasks[index].name, structure
                overlap[key] += int((masks[channel] & target[channel]).sum())
                total[key] += int(masks[channel].sum() + target[channel].sum())
            shown = list(channels.values())
            rows.append((cases.image[0].numpy(), target[shown].any(0).numpy(), masks[shown].any(0).numpy()))
    if picture is not None and rows:
        draw_patches(picture, rows[:8])
    return {key: 2 * overlap[key] / total[key] for key in total if total[key] > 0}


def draw_patches(path: Path, rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """A picture of patches (z, y, x), each in the slice with most foreground: truth green, prediction red.

    Nothing is drawn where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(2.4 * len(rows), 2.6), layout="constrained")
    for number, (image, truth, found) in enumerate(rows):
        axes = figure.add_subplot(1, len(rows), number + 1)
        plane = int((truth.sum((1, 2)) + found.sum((1, 2))).argmax())
        axes.imshow(image[plane], cmap="gray")
        for mask, color in ((truth, "lime"), (found, "red")):
            if mask[plane].any() and not mask[plane].all():
                axes.contour(mask[plane], [0.5], colors=color, linewidths=1)
        axes.set_axis_off()
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=100)
