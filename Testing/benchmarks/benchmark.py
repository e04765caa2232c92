"""`make bench`: seconds and memory of every stage, and the same network in MONAI's loop, in one run.

Every case runs in a process of its own, so that its peak memory is its own. Seconds differ between machines
and days; compare the ratios within one run. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark_networks
import measuring
import numpy as np
import torch
from measuring import peak_memory_mb, seconds_of, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import PartialSegLib
from PartialSegLib.evaluation import dice
from PartialSegLib.patches.sliding_window import pad_to_patch
from PartialSegLib.phantom import make_phantom
from PartialSegLib.processing.postprocessing import apply_postprocessing
from PartialSegLib.processing.restoration import restore

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct_abdomen_contrast_dicom"
REPETITIONS = 3
STAGES = ("preprocess", "encode", "head", "restore")


def main() -> int:
    """Run all cases and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="trunk-7tasks")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        network = benchmark_networks.OFFICIAL.get(options.case)
        result = measure(options.case, options.model) if network is None else measure_network(options.case)
        measuring.report(result)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cases = [str(REAL_CT)] if REAL_CT.exists() else []
        phantom = Path(folder) / "phantom_300x512x512.nii.gz"
        PartialSegLib.write_volume(phantom, make_phantom(1, (1.5, 0.75, 0.75), (300, 512, 512)).volume)
        results = [_in_own_process(case, options.model) for case in [*cases, str(phantom)]]
    add_ratios(results)
    sys.stdout.write(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n"
    )
    write_table(results)
    networks = [_in_own_process(name, options.model) for name in benchmark_networks.OFFICIAL]
    write_table(networks)
    measuring.keep(
        {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "figures": results + networks,
        }
    )
    return 0


def _in_own_process(case: str, model: str) -> dict[str, Any]:
    return measuring.in_own_process([sys.executable, __file__, "--model", model, "--case", case])


def measure(case: str, model_name: str) -> dict[str, Any]:
    """All figures of one image; medians over interleaved repetitions."""
    result: dict[str, Any] = {"case": Path(case).name}
    volume = timed(result, "read", lambda: PartialSegLib.read_volume(case))
    result["voxels"] = "x".join(map(str, volume.shape))
    model = PartialSegLib.load_model(model_name)
    tasks = [task.name for task in model.manifest.tasks]
    rounds: list[dict[str, float]] = []
    for _ in range(REPETITIONS):
        session = PartialSegLib.InferenceSession(model, "cpu")
        seconds: dict[str, float] = {}
        timed(seconds, "first task", lambda: (session.set_image(volume), session.predict(tasks[0])))  # noqa: B023
        result["patches encoded"] = session.patches_encoded
        seconds |= {f"first task: {stage}": session.timings[stage] for stage in STAGES}
        further = [seconds_of(lambda: session.predict(task)) for task in tasks[1:]]  # noqa: B023
        seconds["further task"] = statistics.mean(further)
        session = PartialSegLib.InferenceSession(model, "cpu", cache_bytes=0)
        ours = timed(seconds, "all tasks", lambda: (session.set_image(volume), session.predict())[1])  # noqa: B023
        seconds |= {f"all tasks: {stage}": session.timings[stage] for stage in STAGES}
        result.setdefault("peak memory MB", peak_memory_mb())  # before MONAI takes any
        record: dict[str, float] = {}
        theirs = monai_masks(model, volume, range(len(tasks)), record)
        seconds["MONAI loop, all tasks"] = sum(record[stage] for stage in ("preprocess", "loop", "restore"))
        rounds.append(seconds)
    result |= {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    with tempfile.TemporaryDirectory() as folder:
        timed(result, "write", lambda: PartialSegLib.write_segmentation(Path(folder) / "a.seg.nrrd", ours))
    result |= convolution_share(model)
    result["Dice with MONAI"] = min(dice(ours[key], theirs[key]) for key in ours.keys())  # noqa: SIM118
    return result


def monai_masks(
    model: Any, volume: PartialSegLib.Volume, numbers: Sequence[int], record: dict[str, Any]
) -> dict[tuple[str, str], np.ndarray]:
    """Tasks of a model in MONAI's sliding window, in float32; features are shared by all heads here, too.

    Preparing the image and restoring the masks is done by the library.

    Args:
        model: with sigmoid heads of two channels.
        volume: the image.
        numbers: of the tasks.
        record: gets the seconds of preprocess, loop, network (within the loop) and restore, and the patches.
    """
    from monai.inferers import sliding_window_inference

    session = PartialSegLib.InferenceSession(model, "cpu", precision="float32", selection="off")
    timed(record, "preprocess", lambda: session.set_image(volume))
    prepared = session._require_selected().image.prepared
    inference, network = model.manifest.inference, model.network
    tensor = pad_to_patch(prepared.tensor, inference.patch_size, prepared.background)
    record["patches"] = 0

    def scores_of(patch: Tensor) -> Tensor:
        features = network.forward_features(patch)
        return torch.cat([network.forward_head(features, number) for number in numbers], dim=1).sigmoid()

    def predictor(patch: Tensor) -> Tensor:
        record["patches"] += len(patch)
        return timed(record, "network", lambda: scores_of(patch))

    def loop() -> Tensor:
        with torch.inference_mode():
            return sliding_window_inference(
                tensor[None, None], inference.patch_size, 1, predictor, inference.overlap, mode="gaussian"
            )[0]

    scores = timed(record, "loop", loop)
    tasks = [model.manifest.tasks[number] for number in numbers]
    return timed(record, "restore", lambda: _restored(scores, tasks, prepared, volume.shape))


def _restored(
    scores: Tensor, tasks: Sequence[Any], prepared: Any, shape: tuple[int, int, int]
) -> dict[tuple[str, str], np.ndarray]:
    """The masks of tasks with two channels each, on the grid of the image."""
    masks = {}
    depth, height, width = prepared.tensor.shape
    for index, task in enumerate(tasks):
        channels = {s: scores[2 * index + c][:depth, :height, :width] for s, c in task.structures.items()}
        for structure, score in apply_postprocessing(channels, task.postprocessing, 0.5).items():
            box, mask = restore(score, prepared, 0.5)
            masks[task.name, structure] = np.zeros(shape, bool)
            masks[task.name, structure][box] = mask
    return masks


def measure_network(name: str) -> dict[str, Any]:
    """One patch of an official network with random weights, and what a CT of 512 x 512 x 300 would take."""
    official = benchmark_networks.OFFICIAL[name]
    model = benchmark_networks.random_model(official)
    result = {"case": name, **benchmark_networks.facts(official, model)}
    with torch.inference_mode():
        features = PartialSegLib.InferenceSession(model, "cpu")._runner.encode(
            torch.zeros(official.patch_size)
        )
    result["features of a patch in float16, MB"] = sum(part.numel() * 2 for part in features) / 1e6
    result["peak memory MB"] = peak_memory_mb()
    share = convolution_share(model, repetitions=2)
    result["seconds of a patch"] = result["GFLOPs of a patch"] / share["encode GFLOP/s"]
    result |= share
    result["encoding the case, extrapolated"] = result["seconds of a patch"] * result["patches of the case"]
    return result


def convolution_share(model: Any, repetitions: int = 7, engine: str = "auto") -> dict[str, Any]:
    """Encoding one patch against its convolutions alone, these in PyTorch and the session's precision."""
    layered = PartialSegLib.InferenceSession(model, "cpu", engine="torch")._runner
    network, dtype = layered.network, layered.dtype
    patch = torch.randn(*model.manifest.inference.patch_size)
    layers: list[tuple[nn.Conv3d | nn.ConvTranspose3d, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: layers.append((module, inputs[0].detach()))
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and name != "controller"
    ]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layered.encode(patch)
    for hook in hooks:
        hook.remove()
    calls = [(x.to(dtype), m.weight.to(dtype), m) for m, x in layers]

    def convolutions() -> None:
        for x, weight, module in calls:
            transposed = isinstance(module, nn.ConvTranspose3d)
            function = nn.functional.conv_transpose3d if transposed else nn.functional.conv3d
            function(x, weight, None, module.stride, module.padding)

    runner = PartialSegLib.InferenceSession(model, "cpu", engine=engine)._runner
    with torch.inference_mode():
        runner.encode(patch)  # an engine may compile the network at first
        pairs = [
            (seconds_of(lambda: runner.encode(patch)), seconds_of(convolutions)) for _ in range(repetitions)
        ]
    encode, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    flops = counter.get_total_flops()
    return {
        "engine": runner.engine,
        "encode GFLOP/s": flops / encode / 1e9,
        "convolutions alone GFLOP/s": flops / alone / 1e9,
        "encode / alone": alone / encode,
    }


def add_ratios(results: list[dict[str, Any]]) -> None:
    """What is compared between machines."""
    for result in results:
        result["further / first"] = result["further task"] / result["first task"]
        result["all / first"] = result["all tasks"] / result["first task"]
        result["MONAI / ours"] = result["MONAI loop, all tasks"] / result["all tasks"]


def write_table(results: list[dict[str, Any]]) -> None:
    """Print the figures, one column per case, as a Markdown table."""
    lines = ["| | " + " | ".join(result["case"] for result in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for name in results[0]:
        if name != "case":
            cells = [f"{r[name]:.3g}" if isinstance(r[name], float) else str(r[name]) for r in results]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    sys.exit(main())
