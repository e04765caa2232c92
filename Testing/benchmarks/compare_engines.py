"""One patch of each network by every engine, as one Markdown table.

Called as `python Testing/benchmarks/compare_engines.py`.

Networks of official size have random weights, the bundled model its own. Seconds are processor time of this
process over its threads, which other work on the machine disturbs little; each engine takes the precision it
takes by itself, and one row is PyTorch in float32, as on processors without bfloat16. Errors are those of the
features relative to that row. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from time import perf_counter, process_time

import torch
from benchmark_networks import OFFICIAL, random_model

from PartialSegLib.engines.calibration import calibration_patches
from PartialSegLib.engines.network_runner import NetworkRunner
from PartialSegLib.model import Model, load_model
from PartialSegLib.patches.feature_cache import feature_tensors
from PartialSegLib.pytorch.devices import choose_precision

CPU = torch.device("cpu")
BUNDLED = "trunk-7tasks"
ENGINES = (("torch", "float32"), ("torch", "auto"), ("openvino", "auto"), ("openvino-int8", "auto"))
HEADER = ("network", "engine", "precision", "s to start", "s a patch", "processor s a patch", "error")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=[*OFFICIAL, BUNDLED], choices=[*OFFICIAL, BUNDLED])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sys.stdout.write(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|\n")
    for name in options.networks:
        model = load_model(BUNDLED) if name == BUNDLED else random_model(OFFICIAL[name])
        for row in rows(name, model, options.repetitions):
            sys.stdout.write(f"| {' | '.join(row)} |\n")
            sys.stdout.flush()
    return 0


@torch.inference_mode()
def rows(name: str, model: Model, repetitions: int) -> Iterator[tuple[str, ...]]:
    """A row for each engine."""
    patch = next(iter(calibration_patches(model.manifest))).flip(2)
    exact: list[torch.Tensor] = []
    for engine, precision in ENGINES:
        dtype = choose_precision(CPU, precision)
        start = perf_counter()
        runner = NetworkRunner(model, CPU, dtype, engine)
        started = perf_counter() - start
        features = feature_tensors(runner.encode(patch))
        exact = exact or features
        seconds, processor = fastest(runner, patch, repetitions)
        error = max(
            float((one.float() - other.float()).norm() / other.float().norm())
            for one, other in zip(features, exact, strict=True)
        )
        figures = (f"{started:.1f}", f"{seconds:.2f}", f"{processor:.2f}", f"{error:.3f}")
        yield (name, runner.engine, str(dtype).removeprefix("torch."), *figures)


def fastest(runner: NetworkRunner, patch: torch.Tensor, repetitions: int) -> tuple[float, float]:
    """Seconds and processor seconds of encoding a patch, the least of some."""
    seconds, processor = [], []
    for _ in range(repetitions):
        started, used = perf_counter(), process_time()
        runner.encode(patch)
        seconds.append(perf_counter() - started)
        processor.append(process_time() - used)
    return min(seconds), min(processor)


if __name__ == "__main__":
    sys.exit(main())
