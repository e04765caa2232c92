"""How a network does during its training: Dice on fixed patches, and a picture of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..files.output_files import replacing
from ..manifest import Manifest
from ..networks import PartialLabelNetwork
from .cases import Cases
from .patches.collection_cases import CollectionCases

Scores = dict[tuple[str, str], float]

PICTURE_FILE = "validation.png"
SHOWN = 8  # patches in a picture


class Shown(NamedTuple):
    """A patch in the picture: title, image, and masks of what is labelled and what was found, (z, y, x)."""

    title: str
    image: np.ndarray
    labelled: np.ndarray
    found: np.ndarray


def predicted_masks(logits: Tensor, activation: Literal["sigmoid", "softmax"]) -> Tensor:
    """Masks (K, D, H, W) bool of logits (K, D, H, W): above 0.5, or the highest channel."""
    if activation == "sigmoid":
        return logits > 0
    order = torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return logits.argmax(0, keepdim=True) == order


def describe_validation(cases: Dataset[Cases] | None) -> str:
    """What a run is validated on, as in "16 patches of 5 cases, placed on the foreground"; "" for nothing."""
    if cases is None:
        return ""
    if not isinstance(cases, CollectionCases):
        return f"{len(cases)} patches of synthetic images"  # type: ignore[arg-type] # it has a length
    order = cases.order or []
    cases_seen = "1 case" if len(set(order)) == 1 else f"{len(set(order))} cases"
    return (
        f"{len(order)} patches of {cases_seen}, placed on the foreground; whole cases usually have less, see "
        "`partialseg data evaluate`"
    )


@torch.no_grad()
def validate(
    network: PartialLabelNetwork,
    images: Iterable[Cases],
    manifest: Manifest,
    device: torch.device,
    picture: Path | None = None,
) -> Scores:
    """Dice of the annotated structures, each over the labelled voxels of all patches together.

    Args:
        network: in evaluation mode, on the device.
        images: patches with labels.
        manifest: of the model.
        device: where the network is.
        picture: file for a picture of the first patches; None draws none.

    Returns:
        Dice by (task, structure); structures that no patch has are left out, also where some are found.
    """
    overlap: dict[tuple[str, str], int] = defaultdict(int)
    labelled: dict[tuple[str, str], int] = defaultdict(int)
    total: dict[tuple[str, str], int] = defaultdict(int)
    shown = []
    for cases in images:
        features = network.forward_features(cases.image[None].to(device))
        for index, target, annotated in zip(cases.tasks.tolist(), cases.target, cases.annotated, strict=True):
            task, logits = manifest.tasks[index], network.forward_head(features, index)[0]
            masks = predicted_masks(logits, manifest.inference.activation).cpu()
            if cases.ignored is not None:
                masks, target = masks & ~cases.ignored, target & ~cases.ignored
            channels = {name: channel for name, channel in task.structures.items() if annotated[channel]}
            for structure, channel in channels.items():
                key = task.name, structure
                overlap[key] += int((masks[channel] & target[channel]).sum())
                labelled[key] += int(target[channel].sum())
                total[key] += int(masks[channel].sum() + target[channel].sum())
            drawn = [part[list(channels.values())].any(0).numpy() for part in (target, masks)]
            shown.append(Shown(task.name, cases.image[0].numpy(), *drawn))
    if picture is not None and shown:
        draw_patches(picture, shown[:SHOWN], manifest)
    return {key: 2 * overlap[key] / total[key] for key in total if labelled[key] > 0}


def draw_patches(path: Path, patches: list[Shown], manifest: Manifest) -> None:
    """A picture of patches, each in the slice with most foreground: labels green, what was found red.

    As radiologists look at them: the front is up and the right of the patient on the left, where the slices
    are axial. Nothing is drawn where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    letters, (_, height, width) = manifest.preprocessing.orientation, manifest.preprocessing.spacing
    figure = Figure(figsize=(2.4 * len(patches), 2.9), layout="constrained")
    figure.suptitle("green: labelled, red: found", fontsize=9)
    for number, (title, image, labelled, found) in enumerate(patches):
        axes = figure.add_subplot(1, len(patches), number + 1)
        plane = int((labelled.sum((1, 2)) + found.sum((1, 2))).argmax())
        axes.imshow(image[plane], cmap="gray", aspect=height / width)
        for mask, color in ((labelled, "lime"), (found, "red")):
            if mask[plane].any() and not mask[plane].all():
                axes.contour(mask[plane], [0.5], colors=color, linewidths=1)
        if letters[1] == "A":
            axes.invert_yaxis()
        if letters[2] == "R":
            axes.invert_xaxis()
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=100)
