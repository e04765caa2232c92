"""What each effort costs and finds, as one Markdown table.

Called as `python Testing/benchmarks/measure_effort.py --phantoms 8`.

A coarse model looks at held-out phantoms first, a fine one where it is uncertain. By default both are the
bundled model, the fine one with patches that overlap by half. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from statistics import mean
from time import perf_counter
from typing import NamedTuple

from PartialSegLib.evaluation import dice
from PartialSegLib.inference.region_selection import CoarsePass
from PartialSegLib.model import Model, load_model
from PartialSegLib.phantom import Phantom
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.session import InferenceSession
from PartialSegLib.structures import structure_or_tissue
from PartialSegLib.training.held_out import held_out_phantom

EFFORTS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
HEADER = ("effort", "Dice of organs", "Dice of lesions", "patches of a task", "patches encoded", "seconds")


class Run(NamedTuple):
    """One image: Dice by "task/structure", share of patches, seconds.

    Attributes:
        organs: of structures that are there and no lesions, vessels among them.
        lesions: of those that are there.
        visited: mean over the tasks of the share of all patches that the fine model visits for it.
        encoded: share of all patches that it visits for any task.
        seconds: from the volume to all masks, the coarse pass included.
    """

    organs: list[float]
    lesions: list[float]
    visited: float
    encoded: float
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coarse", default="trunk-7tasks", metavar="NAME|PATH")
    parser.add_argument("--fine", default="trunk-7tasks", metavar="NAME|PATH")
    parser.add_argument("--mirror", action="store_true", help="average the fine model over flips")
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="of the fine model's patches (%(default)s)"
    )
    parser.add_argument("--trust-nothing", action="store_true", help="as of CoarsePass")
    parser.add_argument("--phantoms", type=int, default=8, metavar="N")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    coarse, fine = load_model(options.coarse), load_model(options.fine)
    runs: dict[str, list[Run]] = {}
    for number in range(options.phantoms):
        phantom = held_out_phantom(number)
        for name, region_from in _looks(coarse, options.trust_nothing):
            session = InferenceSession(
                fine,
                options.device,
                cache_bytes=0,
                overlap=options.overlap,
                mirror=options.mirror,
                region_from=region_from,
            )
            runs.setdefault(name, []).append(measure(session, phantom))
    sys.stdout.write(
        f"{options.phantoms} phantoms; coarse {coarse.manifest.name}, fine {fine.manifest.name}, "
    )
    sys.stdout.write(f"overlap {options.overlap}, {'mirrored' if options.mirror else 'not mirrored'}\n\n")
    sys.stdout.write(table(runs))
    return 0


def _looks(coarse: Model, trust_nothing: bool) -> Iterable[tuple[str, CoarsePass | None]]:
    for effort in EFFORTS:
        yield f"{effort:g}", CoarsePass(coarse, trust_nothing=trust_nothing, effort=effort)
    yield "no coarse model", None


def measure(session: InferenceSession, phantom: Phantom) -> Run:
    """Segment one phantom with all tasks."""
    start = perf_counter()
    session.set_image(phantom.volume)
    found = session.predict()
    seconds = perf_counter() - start
    selection = found.provenance["selection"]
    shares = [task["patches"]["visited"] / task["patches"]["of"] for task in selection["tasks"].values()]
    encoded = selection["patches"]["visited"] / selection["patches"]["of"]
    return Run(
        _dice(found, phantom, is_lesion=False),
        _dice(found, phantom, is_lesion=True),
        mean(shares),
        encoded,
        seconds,
    )


def _dice(found: Segmentation, phantom: Phantom, is_lesion: bool) -> list[float]:
    """Of every mask of one kind whose structure is there."""
    truths = {
        key: phantom.mask(key[1]) for key in found if structure_or_tissue(key[1]).is_lesion == is_lesion
    }
    return [dice(found[key], truth) for key, truth in truths.items() if truth.any()]


def table(runs: dict[str, list[Run]]) -> str:
    """A Markdown table; Dice is the mean over all masks of all phantoms."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for name, measured in runs.items():
        organs, lesions = ([value for run in measured for value in run[kind]] for kind in (0, 1))
        lines.append(
            (
                name,
                f"{mean(organs):.4f}" if organs else "",
                f"{mean(lesions):.4f}" if lesions else "",
                f"{mean(run.visited for run in measured):.0%}",
                f"{mean(run.encoded for run in measured):.0%}",
                f"{mean(run.seconds for run in measured):.2f}",
            )
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
