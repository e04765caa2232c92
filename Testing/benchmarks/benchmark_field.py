"""`make bench-field`: our sessions beside nnU-Net, MONAI's loop and DoDNet's evaluation, in one run.

Every measurement is a process of its own with its own peak memory; repetitions of one lie between those of
the others, and medians are compared. Seconds are those of the work from file to file; importing packages and
loading the model are left out on all sides. nnU-Net runs in an environment of its own, with the same plans
and weights, which our importer reads from the folder that nnU-Net would have left. Weights are random: Dice
between two sides says how far the computations agree, on masks like noise.

What would take hours is extrapolated, and says so: flips from one flip, and DoDNet on phantoms from patches.
With the engine "auto" compiling the network counts; with "openvino" it is part of loading the model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import measuring
import torch
from field_cases import REAL, available_cases
from field_details import agreements, write_details
from field_figures import Figures
from field_goals import ROWS, Row
from field_plan import SECTIONS, Plan

SCRATCH = measuring.ROOT / "runs" / "field"
PEER = measuring.ROOT / ".venv-field" / "bin" / "python"
MADE_HERE = ("images", "models", "results")


def main() -> int:
    """Measure, then print the table."""
    parser = arguments()
    options = parser.parse_args()
    if options.cases and not available_cases(options.cases):
        parser.error(f"the CT {REAL} is not beside this repository; give --cases phantom-300")
    scratch = options.scratch / ("quick" if options.quick else "full")
    if not options.resume:
        for name in MADE_HERE:
            shutil.rmtree(scratch / name, ignore_errors=True)
    figures = Figures(scratch / "figures.json", options.resume)
    plan = plan_of(options, scratch)
    sections = options.only or list(SECTIONS)
    measurements = [one for section in SECTIONS if section in sections for one in SECTIONS[section](plan)]
    repetitions = options.repetitions or (1 if options.quick else 3)
    figures.measure(measurements, repetitions, options.long_seconds)
    rows = [row for section in ROWS if section in sections for row in ROWS[section](plan, figures)]
    scores = agreements(plan, figures)
    write_report(plan, figures, rows, scores)
    if not options.quick:
        keep(options, figures, rows, scores)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny networks and phantoms: shows that everything works")
    add("--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    add("--cases", nargs="+", help=f"CTs: {REAL}, phantom-300, phantom-600 (default: the first two)")
    add("--repetitions", type=int, help="rounds (3; quick: 1)")
    add("--long-seconds", type=float, default=120, help="what takes longer is measured once (120)")
    add("--extrapolate", action="store_true", help="never run nnU-Net mirrored, 25 minutes on two cores")
    add("--resume", action="store_true", help="go on with the run before; what failed is done again")
    add("--engine", default="auto", help="of our sessions: auto, torch, openvino")
    add("--model", default="trunk-7tasks", help="the bundled model")
    add("--organ", default="spleen", help="the one task: liver, kidney, pancreas or spleen")
    add("--threads", type=int, default=torch.get_num_threads(), help="of every process (all cores)")
    add("--peer-python", type=Path, default=PEER, help="Python of the environment that has nnU-Net")
    add("--scratch", type=Path, default=SCRATCH, help="folder for images, models and results")
    return parser


def plan_of(options: argparse.Namespace, scratch: Path) -> Plan:
    """The settings of the run."""
    kind, lengths = ("tiny", (24, 36, 48)) if options.quick else ("phantom", (100, 200, 400, 600))
    cases = options.cases or (["tiny-48", "tiny-60"] if options.quick else [REAL, "phantom-300"])
    cases = available_cases(cases)
    return Plan(
        scratch=scratch.absolute(),
        cases=cases,
        mirrored=[case for case in cases if case in (REAL, "tiny-48") and not options.extrapolate],
        voxel_cases=[f"{kind}-{slices}" for slices in lengths],
        bundled_case="tiny-60" if options.quick else "phantom-300",
        gpu_case=("tiny-48" if options.quick else "phantom-500") if torch.cuda.is_available() else None,
        quick=options.quick,
        engine=options.engine,
        model=options.model,
        organ=options.organ,
        threads=options.threads,
        peer_python=str(options.peer_python.absolute()),
    )


def write_report(plan: Plan, figures: Figures, rows: list[Row], scores: dict[str, dict[str, float]]) -> None:
    """Print the table of goals, the figures of each case, and Dice between results."""
    lines = [
        f"{measuring.processor()}, {plan.threads} threads, torch {torch.__version__}, engine {plan.engine}",
        "",
        "| against | goal | measured | reached |",
        "|---|---|---|---|",
        *map(str, rows),
        *write_details(figures),
    ]
    for pair, dices in scores.items():
        listed = ", ".join(f"{structure} {score:.4f}" for structure, score in dices.items())
        lines += ["", f"Dice, {pair}: {listed or 'nothing found by either'}."]
    sys.stdout.write("\n".join(lines) + "\n")


def keep(
    options: argparse.Namespace, figures: Figures, rows: list[Row], scores: dict[str, dict[str, float]]
) -> None:
    """Append all figures to the file that keeps those of `make bench`, too."""
    measuring.keep(
        {
            "benchmark": "field",
            "options": {name: str(value) for name, value in vars(options).items()},
            "torch": torch.__version__,
            "goals": [vars(row) for row in rows],
            "dice": scores,
            "figures": {key: figures.kept[key] for key in figures.kept},
        }
    )


if __name__ == "__main__":
    sys.exit(main())
