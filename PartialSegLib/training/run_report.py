"""The report at the end of a run: `report.md` with tables, curves and validation patches."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from ..files.json_fields import to_json
from ..files.output_files import replacing
from ..manifest import Manifest
from ..model import build_network
from .loop.run_log import LOG_FILE, VALIDATION_FILE, duration, read_rows
from .validation import PICTURE_FILE

REPORT_FILE, CURVES_FILE = "report.md", "curves.png"
LEGEND_LINES = 25  # beside curves

Losses = dict[str, list[float]]


class ReportedConfig(Protocol):
    """What the report reads of a configuration, a dataclass that becomes JSON.

    Attributes:
        batch_size: images or slices a step, of all processes together.
    """

    @property
    def batch_size(self) -> int: ...  # noqa: D102


def write_report(
    folder: Path,
    config: ReportedConfig,
    manifest: Manifest,
    validated_on: str = "",
    *,
    items: str = "images",
    stages: Mapping[str, int] | None = None,
) -> Path:
    """Write the report of a finished run from its logs, and return its path.

    Args:
        folder: of the run, with log.csv and validation.csv.
        config: of the run.
        manifest: of its package.
        validated_on: what Dice was taken on, as in "16 patches of 5 cases, placed on the foreground; …".
        items: what a batch is made of.
        stages: steps of each stage with a loss of its own, one after the other; None for one loss.
    """
    steps = read_rows(folder / LOG_FILE)
    validations = read_rows(folder / VALIDATION_FILE)
    losses = _losses(steps, stages)
    validated_on = validated_on or "validation data of an earlier part of the run"
    label = "Dice on " + validated_on.partition(";")[0].replace(", ", ",\n")
    pictures = [CURVES_FILE] if _draw_curves(folder / CURVES_FILE, losses, validations, label) else []
    pictures += [PICTURE_FILE] if (folder / PICTURE_FILE).exists() else []
    text = "\n\n".join(
        [
            f"# {manifest.title or manifest.name} {manifest.version}",
            "Research use only; not a medical device.",
            _summary(f"{len(steps):,} of {config.batch_size} {items}", manifest, steps, losses),
            _dice_table(validations, validated_on),
            *(f"![{name}]({name})" for name in pictures),
            "## Configuration",
            f"```json\n{json.dumps(to_json(config), indent=2)}\n```",
        ]
    )
    with replacing(folder / REPORT_FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder / REPORT_FILE


def _losses(steps: list[dict[str, str]], stages: Mapping[str, int] | None) -> Losses:
    """The loss of every step by stage; "" is the only one."""
    if stages is None:
        return {"": [float(row["loss"]) for row in steps]}
    names, ends = list(stages), list(accumulate(stages.values()))
    losses: Losses = {}
    for row in steps:
        stage = names[bisect_left(ends, int(row["step"]))]
        losses.setdefault(stage, []).append(float(row["loss"]))
    return losses


def _summary(count: str, manifest: Manifest, steps: list[dict[str, str]], losses: Losses) -> str:
    """A table of what was trained, and how long it took."""
    parameters = sum(p.numel() for p in build_network(manifest.network).parameters())
    waits, ends = [float(row["waited"]) for row in steps], [float(row["seconds"]) for row in steps]
    seconds = sum(
        end - max(0.0, begin) for begin, end in zip([0.0, *ends], ends, strict=False) if end > begin
    )
    rows = {
        "network": f"{manifest.network.architecture}, {parameters:,} parameters",
        "steps": count,
        "time": duration(seconds),
        "waiting for data": f"{np.mean(waits):.3f} s a step, {100 * sum(waits) / max(seconds, 1e-9):.0f} %",
    }
    for stage, values in losses.items():
        name = f"loss of the {stage}" if stage else "loss"
        rows[f"{name} in the first tenth"] = f"{_mean_of(values, first=True):.4f}"
        rows[f"{name} in the last tenth"] = f"{_mean_of(values, first=False):.4f}"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _mean_of(values: list[float], *, first: bool) -> float:
    tenth = max(1, len(values) // 10)
    return float(np.mean(values[:tenth] if first else values[-tenth:]))


def _dice_table(validations: list[dict[str, str]], validated_on: str) -> str:
    """Dice of every structure at the last validation, and its best one, below what it was taken on."""
    if not validations:
        return "The run was not validated."
    curves = _dice_curves(validations)
    lines = [
        f"Dice on {validated_on}.",
        "",
        "| task | structure | Dice | best | at step |",
        "|---|---|---|---|---|",
    ]
    for (task, structure), curve in curves.items():
        step, best = max(curve, key=lambda point: point[1])
        lines.append(f"| {task} | {structure} | {curve[-1][1]:.3f} | {best:.3f} | {step} |")
    return "\n".join(lines)


def _dice_curves(validations: list[dict[str, str]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, Dice) by (task, structure)."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for row in validations:
        curves[row["task"], row["structure"]].append((int(row["step"]), float(row["dice"])))
    return curves


def _draw_curves(path: Path, losses: Losses, validations: list[dict[str, str]], label: str) -> bool:
    """Draw losses, smoothed, and Dice over the steps; false where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, first = figure.add_subplot(1, 2 if validations else 1, 1), 0
    width = max(1, min(map(len, losses.values())) // 50)
    for stage, values in losses.items():
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        left.plot(np.arange(len(smooth)) + first + width, smooth, label=stage)
        first += len(values)
    if len(losses) > 1:
        left.legend(fontsize=7)
    left.set(xlabel="step", ylabel=f"loss, mean of {width} steps")
    if validations:
        right = figure.add_subplot(1, 2, 2)
        curves = _dice_curves(validations)
        for (task, structure), curve in curves.items():
            right.plot(*zip(*curve, strict=True), marker=".", label=f"{task}: {structure}")
        right.set(xlabel="step", ylabel=label, ylim=(0, 1))
        figure.legend(
            *right.get_legend_handles_labels(),
            fontsize=7,
            loc="outside right upper",
            ncols=1 + (len(curves) - 1) // LEGEND_LINES,
        )
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=90)
    return True
