"""The papers' comparisons in miniature, for `make reproduce`: same data, same budget, one table.

Seven partially labelled data sets of phantoms in the proportions of MOTS, small networks, minutes instead of
days. A result is kept in its run's folder (`result.json`), so a second call goes on where the first stopped.
`--known docs/reproduction` takes the results behind the tables of the documentation instead of making them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from reproduction_results import Result, result_of, structure_table, table

from PartialSegLib.__main__ import main as partialseg
from PartialSegLib.files.json_fields import from_json
from PartialSegLib.training import TrainingConfig, train
from PartialSegLib.training.collection import Collection, DataSet
from PartialSegLib.training.data_sets.mots import MOTS
from PartialSegLib.training.data_sets.phantom_mots import (
    PhantomMots,
    make_phantom_collection,
    make_phantom_mots,
)

logger = logging.getLogger("reproduce")

SPACING = (12.0, 12.0, 12.0)
PHANTOMS = PhantomMots(184, (10.0, 10.0, 10.0), (43, 34, 43), seed=7, phase="portal venous")
PATCH = [32, 32, 32]
STEPS, BATCH = 1500, 2
LOSS = {"foreground_weight": 0.01}  # with 0.3 networks for many tasks mark all organs for each, see the docs
SEEDS = (1, 2, 3)
WIDTHS = {"widths": [8, 16, 32, 64, 64], "depths": [1, 1, 1, 1, 1], "groups": 4}
# as officially, two channels in a group: alone in it, a constant channel such as a task's would be lost
ORGANS = {"liver", "kidney", "hepatic_vessel", "pancreas", "spleen"}

TASKS = [
    {
        "name": part.data_set.task,
        "structures": {s: int(s.endswith("tumor")) for s in part.data_set.structures},
    }
    for part in MOTS
]
NAMES = [task["name"] for task in TASKS]
CLASSES = {
    name: number + 1 for number, name in enumerate(dict.fromkeys(s for t in TASKS for s in t["structures"]))
}

SOFTMAX = {"activation": "softmax", "blend": "logits"}
METHODS: dict[str, dict[str, Any]] = {
    "Multi-Nets": {"network": "CondNONetwork"},
    "Multi-Head": {"network": "MultiHeadNetwork", "network_arguments": WIDTHS},
    "TAL": {
        "network": "CondNONetwork", "loss": {"kind": "softmax"}, "inference": SOFTMAX, "initial_logit": None,
        "network_arguments": {**WIDTHS, "num_structures": len(CLASSES) + 1},
        "tasks": [{"name": "all", "structures": CLASSES}],
    },
    "Cond-NO": {"network": "CondNONetwork"},
    "Cond-Input": {"network": "CondInputNetwork"},
    "Cond-Dec": {"network": "CondDecNetwork"},
    "DoDNet": {"network": "DoDNet"},
    "TransDoDNet": {
        "network": "TransDoDNet",
        "network_arguments": {
            "width": 48, "planes": [8, 16, 32, 40], "depths": [1, 1, 1, 1], "encoder_layers": 2,
            "decoder_layers": 2, "decoder_widths": [64, 64, 32, 16, 8],
        },
    },
    "MultiTalent": {
        "network": "UNet", "initial_logit": None,
        "network_arguments": {
            "widths": [8, 16, 32, 64, 64], "kernel_sizes": [[3, 3, 3]] * 5,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 4], "depths": [1] * 5, "decoder_depths": [1] * 4,
            "task_channels": [len(task["structures"]) for task in TASKS], "head_bias": True,
        },
        "loss": {"kind": "class-adaptive", "deep_supervision": [8, 4, 2, 1]},
        "collection": {"case_sampling": "sqrt"}, "phases": {"gradient_clip": 12.0},
        "tasks": [
            {"name": t["name"], "structures": {s: i for i, s in enumerate(t["structures"])}} for t in TASKS
        ],
    },
}  # fmt: skip
HEADS = {
    f"DoDNet, head of {depth} layers, width {width}": {
        "network": "DoDNet", "network_arguments": {**WIDTHS, "head_widths": [width] * depth}
    }
    for depth, width in ((2, 8), (4, 8), (3, 4), (3, 16))
}  # fmt: skip


ABDOMEN = {
    "liver": 1,
    "kidney": 2,
    "spleen": 3,
    "pancreas": 4,
    "stomach": 5,
    "colon": 6,
    "gallbladder": 7,
}
FEW, TEST = 8, 16  # cases of the downstream data set

Results = dict[str, list[Result]]
"""By method, a result for each seed."""


@dataclass(frozen=True)
class Runs:
    """What is to be run, and where results are kept.

    Attributes:
        output: has a folder for each run.
        known: a folder with results that are not made again, `RUN.json` each; None for none.
        seeds: a run of each method for each of them.
        steps: of each method.
    """

    output: Path
    known: Path | None
    seeds: tuple[int, ...]
    steps: int

    @cached_property
    def mots(self) -> Collection:
        """The phantoms that all methods are trained and tested on, made when a run first needs them."""
        return make_phantom_mots(self.output / "phantoms", PHANTOMS)

    def folder(self, name: str) -> Path:
        """The folder of a run."""
        return self.output / name.replace(" ", "-").replace(",", "")

    def package(self, name: str) -> Path:
        """The package that a run has left.

        Raises:
            SystemExit: there is none.
        """
        package = self.folder(name) / "package"
        if not package.exists():
            raise SystemExit(f"There is no package of {name} in {self.output}; run the part methods first.")
        return package

    def result(self, folder: Path, run: Callable[[], Result]) -> Result:
        """The result of the run in a folder, which is made if it is not kept."""
        kept = self.kept_result(folder)
        if kept is None:
            logger.info("%s", folder.name)
            kept = run()
            (folder / "result.json").write_text(json.dumps(kept, indent=1))
        return kept

    def kept_result(self, folder: Path) -> Result | None:
        """The result of the run in a folder if there is one."""
        paths = [folder / "result.json", *([self.known / f"{folder.name}.json"] if self.known else [])]
        return next((json.loads(path.read_text()) for path in paths if path.exists()), None)


def config_of(
    method: dict[str, Any], output: Path, data: Path, seed: int, steps: int, **changes: Any
) -> TrainingConfig:
    """The configuration of a run: what all methods share, and what is the method's own."""
    phase = {
        "iterations": steps, "optimizer": "adamw", "learning_rate": 0.004, "warm_up": 20,
        "weight_decay": 0.01, "gradient_clip": 1.0,
    }  # fmt: skip
    values: dict[str, Any] = {
        "output": str(output),
        "package": {
            "name": "miniature", "version": "0.1.0", "title": "Miniature", "license": "Apache-2.0",
            "tasks": method.get("tasks", TASKS),
        },
        "network": method["network"], "network_arguments": method.get("network_arguments", WIDTHS),
        "preprocessing": {
            "orientation": "SAR", "spacing": SPACING, "clip": [-250, 300], "subtract": 50, "divide": 100,
            "pad_value": -1000,
        },
        "inference": {"patch_size": PATCH, "overlap": 0.25, **method.get("inference", {})},
        "collection": {
            "collection": str(data / "collection.json"), "prepared": str(data / "prepared"),
            "place": "voxel", "foreground": 0.66, "validation_patches": 0, "augmentation": "dodnet",
            **method.get("collection", {}),
        },
        "batch_size": BATCH, "loss": {**LOSS, **method.get("loss", {})},
        "phases": [{**phase, **method.get("phases", {})}], "initial_logit": method.get("initial_logit", -2.0),
        "ema_decay": 0.98, "precision": "float32", "checkpoint_every": 100, "seed": seed, "workers": 0,
        **changes,
    }  # fmt: skip
    return from_json(TrainingConfig, values)


def packages_of(
    name: str, method: dict[str, Any], folder: Path, data: Path, seed: int, steps: int
) -> dict[str, Path]:
    """Train a method; for each task the package that segments it. Multi-Nets share the steps."""
    if name != "Multi-Nets":
        return dict.fromkeys(NAMES, train(config_of(method, folder, data, seed, steps)))
    packages = {}
    for task in NAMES:
        own = folder / task.replace(" ", "-")
        packages[task] = train(config_of(method, own, data, seed, steps // len(NAMES), only_tasks=[task]))
    return packages


def compare(methods: dict[str, dict[str, Any]], runs: Runs) -> Results:
    """Run what has not been run yet, seed by seed, and return the results by method."""
    results: Results = defaultdict(list)
    for seed in runs.seeds:
        for name, method in methods.items():
            folder = runs.folder(f"{name}-{seed}")

            def run(
                name: str = name, method: dict[str, Any] = method, folder: Path = folder, seed: int = seed
            ) -> Result:
                data = runs.mots.folder
                return result_of(packages_of(name, method, folder, data, seed, runs.steps), runs.mots)

            results[name].append(runs.result(folder, run))
    return results


def transfer(runs: Runs) -> Results:
    """A few cases with all of seven organs: from scratch, and from the DoDNet of the same seed."""
    data = runs.output / "abdomen"
    rules = {structure: (value,) for structure, value in ABDOMEN.items()}
    part = (DataSet("phantom-abdomen", "abdomen", rules), FEW, TEST)
    collection = make_phantom_collection("abdomen", data, [part], replace(PHANTOMS, seed=8))
    method = {
        **METHODS["TAL"], "network_arguments": {**WIDTHS, "num_structures": len(ABDOMEN) + 1},
        "tasks": [{"name": "abdomen", "structures": ABDOMEN}],
    }  # fmt: skip
    results: Results = defaultdict(list)
    for seed in runs.seeds:
        for name, start in (("from scratch", None), ("from DoDNet on MOTS", f"DoDNet-{seed}")):
            folder = runs.folder(f"abdomen-{name}-{seed}")

            def run(folder: Path = folder, start: str | None = start, seed: int = seed) -> Result:
                changes = {"transfer": {"package": str(runs.package(start))}} if start else {}
                config = config_of(method, folder, data, seed, runs.steps // 3, **changes)
                return result_of({"abdomen": train(config)}, collection)

            results[name].append(runs.result(folder, run))
    return results


def pseudo_labels(runs: Runs) -> Results:
    """The softmax network on partial labels alone, and with organs that DoDNet has labelled."""
    organs = [option for organ in sorted(ORGANS) for option in ("--structure", organ)]
    results: Results = defaultdict(list)
    for seed in runs.seeds:
        alone = runs.kept_result(runs.folder(f"TAL-{seed}"))
        if alone is None:
            raise SystemExit(f"There is no result of TAL-{seed}; run the part methods first.")
        results["partial labels only (TAL)"].append(alone)
        folder = runs.folder(f"TAL-pseudo-labels-{seed}")

        def run(folder: Path = folder, seed: int = seed) -> Result:
            path = folder / "data" / "collection.json"
            files = [str(runs.mots.folder / "collection.json"), "-o", str(path)]
            teacher = str(runs.package(f"DoDNet-{seed}"))
            code = partialseg(["pseudo-label", *files, "--model", teacher, *organs, "--device", "cpu"])
            if code:
                raise SystemExit(code)
            package = train(config_of(METHODS["TAL"], folder, folder / "data", seed, runs.steps))
            return result_of(dict.fromkeys(NAMES, package), runs.mots)

        results["with pseudo-labels of the organs"].append(runs.result(folder, run))
    return results


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/reproduction"))
    parser.add_argument("--known", type=Path, help="folder with results (RUN.json) not to make again")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each method (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="some of them")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="some of them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    chosen = {name: method for name, method in METHODS.items() if name in options.methods}
    PARTS["methods"] = partial(compare, chosen)
    runs = Runs(options.output, options.known, tuple(options.seeds), options.steps)
    for part in options.parts:
        show(PARTS[part](runs))


def show(results: Results) -> None:
    """Write the two tables of a comparison."""
    sys.stdout.write(f"\n{table(results)}\n\n{structure_table(results)}\n")
    sys.stdout.flush()


PARTS: dict[str, Callable[[Runs], Results]] = {
    "methods": partial(compare, METHODS),
    "heads": partial(compare, HEADS),
    "transfer": transfer,
    "pseudo-labels": pseudo_labels,
}


if __name__ == "__main__":
    main()
