"""How a package does on phantoms it has never seen: `python -m PartialSegLib.training.held_out PACKAGE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..cli.terminal import progress_bar
from ..errors import InputError
from ..evaluation import dice
from ..files.output_files import replacing
from ..inference.patch_scoring import Progress
from ..manifest import MANIFEST_FILE, manifest_to_json, read_manifest
from ..model import load_model
from ..packages.installed import find_package
from ..phantom import PHASES, Phantom, make_phantom
from ..session import InferenceSession, ignore_progress
from .loop.exit_codes import exit_code_of

FIRST_SEED = 10_000_000_019  # training draws seeds below 2^32
SPACING = (3.0, 1.5, 1.5)
SHAPE = (128, 240, 280)
INTERRUPTED_MEASURING = "Interrupted; nothing was recorded."
_LESIONS = {
    "liver_tumor": 0.5, "kidney_tumor": 0.5, "pancreas_tumor": 0.5, "colon_tumor": 0.5, "lung_tumor": 0.5,
    "liver_cyst": 0.3, "kidney_cyst": 0.3,
}  # fmt: skip

Figures = dict[str, dict[str, float]]


def held_out_phantom(number: int) -> Phantom:
    """A phantom that training never draws, with some lesions; the contrast phases take turns."""
    return make_phantom(FIRST_SEED + number, SPACING, SHAPE, PHASES[number % len(PHASES)], _LESIONS)


def evaluate_held_out(
    package: Path | str,
    count: int,
    device: str = "cpu",
    engine: str = "auto",
    on_progress: Progress = ignore_progress,
) -> Figures:
    """Segment phantoms with all tasks and compare with their exact labels.

    Args:
        package: name or folder of a model package.
        count: number of phantoms.
        device: where to run.
        engine: as of `InferenceSession`.
        on_progress: called with phantoms done and in total.

    Returns:
        By "task/structure": the number of `cases` that have the structure, their mean `dice` and the `worst`;
        `false_ml` is the mean volume found in cases that do not have it.
    """
    session = InferenceSession(load_model(package), device, cache_bytes=0, engine=engine)
    scores: dict[str, list[float]] = defaultdict(list)
    false_ml: dict[str, list[float]] = defaultdict(list)
    for number in range(count):
        phantom = held_out_phantom(number)
        session.set_image(phantom.volume)
        segmentation = session.predict()
        for key in segmentation:
            name, truth = "/".join(key), phantom.mask(key[1])
            if truth.any():
                scores[name].append(dice(segmentation[key], truth))
            else:
                false_ml[name].append(segmentation.volume_ml(key))
        on_progress(number + 1, count)
    return {name: _summary(scores[name], false_ml[name]) for name in sorted({*scores, *false_ml})}


def _summary(scores: list[float], false_ml: list[float]) -> dict[str, float]:
    result: dict[str, float] = {"cases": len(scores)}
    if scores:
        result |= {"dice": round(float(np.mean(scores)), 3), "worst": round(min(scores), 3)}
    if false_ml:
        result["false_ml"] = round(float(np.mean(false_ml)), 2)
    return result


def record_figures(package: Path, figures: Figures, count: int) -> None:
    """Write the figures into the manifest of a package folder, under `training.held_out`."""
    manifest = read_manifest(package)
    held_out = {"phantoms": count, "first_seed": FIRST_SEED, "figures": figures}
    manifest = replace(manifest, training={**manifest.training, "held_out": held_out})
    with replacing(package / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps(manifest_to_json(manifest), indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training.held_out", description=__doc__)
    parser.add_argument("package", help="name or folder of a model package")
    parser.add_argument("--phantoms", type=int, default=24, help="how many (%(default)s)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.add_argument("--engine", default="auto", help="auto, torch, openvino, openvino-int8")
    parser.add_argument("--record", action="store_true", help="write the figures into the package's manifest")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _run(options), INTERRUPTED_MEASURING)


def _run(options: argparse.Namespace) -> None:
    package, count = options.package, options.phantoms
    if count < 1:
        raise InputError(f"--phantoms: expected at least 1, got {count}.")
    with progress_bar("phantom") as show:
        figures = evaluate_held_out(package, count, options.device, options.engine, show)
    if options.record:
        record_figures(find_package(package), figures, count)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
