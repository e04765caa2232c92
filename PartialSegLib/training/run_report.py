"""The report at the end of a run: `report.md` with tables, curves and validation patches."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Protocol

import numpy as np

from ..json_fields import to_json
from ..manifest import Manifest
from ..model import build_network
from ..output_files import replacing
from .run_log import LOG_FILE, VALIDATION_FILE, duration, read_rows
from .validation import PICTURE_FILE

REPORT_FILE, CURVES_FILE = "report.md", "curves.png"


class ReportedConfig(Protocol):
    """What the report reads of a configuration, a dataclass that becomes JSON.

    Attributes:
        batch_size: images a step, of all processes together.
    """

    @property
    def batch_size(self) -> int: ...  # noqa: D102


def write_report(folder: Path, config: ReportedConfig, manifest: Manifest) -> Path:
    """Write the report of a finished run from its logs, and return its path.

    Args:
        folder: of the run, with log.csv and validation.csv.
        config: of the run.
        manifest: of its package.
    """
    steps = read_rows(folder / LOG_FILE)
    validations = read_rows(folder / VALIDATION_FILE)
    pictures = [CURVES_FILE] if _draw_curves(folder / CURVES_FILE, steps, validations) else []
    pictures += [PICTURE_FILE] if (folder / PICTURE_FILE).exists() else []
    text = "\n\n".join(
        [
            f"# {manifest.title or manifest.name} {manifest.version}",
            "Research use only; not a medical device.",
            _summary(config, manifest, steps),
            _dice_table(validations),
            *(f"![{name}]({name})" for name in pictures),
            "## Configuration",
            f"```json\n{json.dumps(to_json(config), indent=2)}\n```",
        ]
    )
    with replacing(folder / REPORT_FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder / REPORT_FILE


def _summary(config: ReportedConfig, manifest: Manifest, steps: list[dict[str, str]]) -> str:
    """A table of what was trained, and how long it took."""
    parameters = sum(p.numel() for p in build_network(manifest.network).parameters())
    losses = [float(row["loss"]) for row in steps]
    waits, ends = [float(row["waited"]) for row in steps], [float(row["seconds"]) for row in steps]
    seconds = sum(
        end - max(0.0, begin) for begin, end in zip([0.0, *ends], ends, strict=False) if end > begin
    )
    rows = {
        "network": f"{manifest.network.architecture}, {parameters:,} parameters",
        "steps": f"{len(steps):,} of {config.batch_size} images",
        "time": duration(seconds),
        "waiting for data": f"{np.mean(waits):.3f} s a step, {100 * sum(waits) / max(seconds, 1e-9):.0f} %",
        "loss in the first tenth": f"{_mean_of(losses, first=True):.4f}",
        "loss in the last tenth": f"{_mean_of(losses, first=False):.4f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _mean_of(values: list[float], *, first: bool) -> float:
    tenth = max(1, len(values) // 10)
    return float(np.mean(values[:tenth] if first else values[-tenth:]))


def _dice_table(validations: list[dict[str, str]]) -> str:
    """Dice of every structure at the last validation, and its best one."""
    if not validations:
        return "The run was not validated."
    curves = _dice_curves(validations)
    lines = ["| task | structure | Dice | best | at step |", "|---|---|---|---|---|"]
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


def _draw_curves(path: Path, steps: list[dict[str, str]], validations: list[dict[str, str]]) -> bool:
    """Draw loss, smoothed, and Dice over the steps; false where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(11, 4), layout="constrained")
    left = figure.add_subplot(1, 2 if validations else 1, 1)
    losses = np.array([float(row["loss"]) for row in steps])
    width = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    left.plot(np.arange(len(smooth)) + width, smooth)
    left.set(xlabel="step", ylabel=f"loss, mean of {width} steps")
    if validations:
        right = figure.add_subplot(1, 2, 2)
        for (task, structure), curve in _dice_curves(validations).items():
            right.plot(*zip(*curve, strict=True), marker=".", label=f"{task}: {structure}")
        right.set(xlabel="step", ylabel="Dice on validation patches", ylim=(0, 1))
        right.legend(fontsize=7, loc="lower right")
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=90)
    return True
