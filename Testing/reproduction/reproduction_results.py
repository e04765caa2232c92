"""What `make reproduce` measures of a method, and its tables."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib import InferenceSession, load_model, read_volume
from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.evaluation import dice, hausdorff95
from PartialSegLib.training.collection import Collection

Result = dict[str, Any]


def result_of(packages: dict[str, Path], collection: Collection) -> Result:
    """Dice and HD95 on the test cases, each for its own task; parameters, FLOPs and seconds for all tasks."""
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sessions = {path: InferenceSession(load_model(path), "cpu") for path in dict.fromkeys(packages.values())}
    seconds = []
    for case in collection.split("test"):
        data_set = collection.data_sets[case.data_set]
        image = read_volume(collection.path(case.image))
        started = time.perf_counter()
        found = {}
        for session in sessions.values():
            session.set_image(image)
            found[session] = session.predict()
        seconds.append(time.perf_counter() - started)
        segmentation = found[sessions[packages[data_set.task]]]
        assert case.label is not None
        labels = read_volume(collection.path(case.label), any_modality=True).array
        for structure, values in data_set.structures.items():
            truth = np.isin(labels, values)
            keys = [(data_set.task, structure), ("all", structure)]
            mask = next(segmentation[key] for key in keys if key in segmentation)
            if truth.any():
                distance = hausdorff95(mask, truth, image.spacing)
                scores[f"{data_set.task}/{structure}"].append((dice(mask, truth), distance))
    networks = [session.model for session in sessions.values()]
    return {
        "dice": {key: float(np.mean([d for d, _ in values])) for key, values in scores.items()},
        "hd95": {key: float(np.median([h for _, h in values])) for key, values in scores.items()},
        "parameters": sum(p.numel() for model in networks for p in model.network.parameters()),
        "gflops": sum(
            count_patch_flops(m.network, m.manifest.inference.patch_size, len(m.manifest.tasks)).total
            for m in networks
        )
        / 1e9,
        "seconds": float(np.median(seconds)),
    }


def mean_dice(result: Result, organs: bool) -> float:
    """Mean over organs or over tumours."""
    chosen = [dice for key, dice in result["dice"].items() if key.endswith("tumor") != organs]
    return float(np.mean(chosen)) if chosen else float("nan")


def table(results: dict[str, list[Result]]) -> str:
    """One line for each method: mean and spread over the seeds."""
    lines = [
        "| method | organs, Dice % | tumours, Dice % | structures missed in half of the cases "
        "| HD95 mm of the others (median) | parameters | GFLOPs of a patch, all tasks "
        "| s a CT, all tasks | runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        organs, tumors = ([100 * mean_dice(run, flag) for run in runs] for flag in (True, False))
        distances = np.array([list(run["hd95"].values()) for run in runs])
        is_missed = np.isinf(distances)
        lines.append(
            f"| {name} | {_mean(organs)} | {_mean(tumors)} | "
            f"{is_missed.sum(axis=1).mean():.0f} | {_median(distances[~is_missed])} | "
            f"{runs[0]['parameters']:,} | {runs[0]['gflops']:.2f} | "
            f"{np.median([run['seconds'] for run in runs]):.2f} | {len(runs)} |"
        )
    return "\n".join(lines)


def structure_table(results: dict[str, list[Result]]) -> str:
    """Dice % of every structure, mean over the seeds."""
    keys = list(next(iter(results.values()))[0]["dice"])
    lines = ["| method | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, runs in results.items():
        values = [f"{100 * np.mean([run['dice'][key] for run in runs]):.0f}" for key in keys]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _median(values: np.ndarray) -> str:
    return f"{np.median(values):.0f}" if values.size else "–"


def _mean(values: list[float]) -> str:
    if np.isnan(values).all():
        return "–"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"
