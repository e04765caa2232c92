"""The goals of `make bench-field`, and what of them the figures reach."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from field_figures import Figures
from field_plan import FLIPS, Plan, region_keys

TASKS = 7


@dataclass(frozen=True)
class Row:
    """A line of the table: what is compared, the goal, what was measured, and whether that reaches it."""

    against: str
    goal: str
    measured: str
    reached: bool | None = None

    def __str__(self) -> str:
        reached = {True: "yes", False: "**no**", None: "–"}[self.reached]
        return f"| {self.against} | {self.goal} | {self.measured} | {reached} |"


def faster(against: str, goal: float, theirs: float | None, ours: float | None, remark: str = "") -> Row:
    """Seconds of theirs as a multiple of ours, which should reach a goal."""
    wanted = f"≥ {goal:g} times"
    if not theirs or not ours:
        return Row(against, wanted, "not measured")
    measured = f"{theirs / ours:.1f} times ({theirs:.3g} s / {ours:.3g} s{remark and ', '}{remark})"
    return Row(against, wanted, measured, theirs / ours >= goal)


def below(against: str, goal: float, value: float | None, text: str, unit: str = "") -> Row:
    """A value that should not exceed a goal, and how it is written."""
    wanted = f"≤ {goal:g}{unit}"
    return (
        Row(against, wanted, "not measured") if value is None else Row(against, wanted, text, value <= goal)
    )


def nnunet_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """nnU-Net against ours, on each case."""
    for case in plan.cases:
        theirs, ours = f"{case}: nnU-Net", f"{case}: ours, default"
        same, mirrored = f"{case}: ours, like for like", f"{case}: nnU-Net, mirrored"
        total, network = figures.median(theirs, "total"), figures.median(theirs, "network")
        seconds, remark = figures.median(mirrored, "total"), ""
        if seconds is None and total is not None and network is not None:
            seconds, remark = total + (FLIPS - 1) * network, "extrapolated from one of 8 flips"
        name = "nnU-Net, STU-Net-B"
        default = figures.median(ours, "total")
        yield faster(f"{name}, mirrored, our defaults: {case}", 20, seconds, default, remark)
        like = figures.median(same, "total")
        yield faster(f"{name}, neither mirrored, same windows: {case}", 3, total, like)
        rounded = figures.median(f"{case}: ours, 8 bits", "total")
        yield faster(f"{name}, mirrored, ours rounded to 8 bits: {case}", 20, seconds, rounded, remark)
        yield faster(f"{name}, not mirrored, ours rounded to 8 bits: {case}", 3, total, rounded)
        outside = [figures.median(key, "outside the network") for key in (theirs, same)]
        yield faster(f"the same, outside the network: {case}", 10, *outside)
        yield _memory_row(
            case, figures.median(theirs, "peak memory MB"), figures.median(ours, "peak memory MB")
        )


def _memory_row(case: str, theirs: float | None, ours: float | None) -> Row:
    """The goal is set for the longest CT."""
    if not theirs or not ours:
        return Row(f"peak memory of nnU-Net: {case}", "≤ 1/3", "not measured")
    measured = f"{ours / theirs:.2f} ({ours:.0f} MB / {theirs:.0f} MB)"
    if not case.endswith("-600"):
        return Row(f"peak memory of nnU-Net: {case}", "none; ≤ 1/3 for 600 slices", measured)
    return Row(f"peak memory of nnU-Net: {case}", "≤ 1/3", measured, ours / theirs <= 1 / 3)


def region_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """One task, where the bundled model says where to look; nnU-Net does not mirror."""
    for case in plan.cases:
        seconds = figures.median(f"{case}: nnU-Net, one task", "total")
        yield from _region_rows(figures, f"nnU-Net, one task ({plan.organ})", seconds, case, "one task")


def _region_rows(figures: Figures, name: str, theirs: float | None, case: str, what: str) -> Iterator[Row]:
    """Ours with region selection in both ways, and how many patches each of them visits."""
    for key, selection in region_keys(case, what).items():
        visited, planned = figures.median(key, "patches"), figures.median(key, "patches planned")
        remark = "" if visited is None else f"{visited:.0f} of {planned:.0f} patches"
        how = "region selection" + (", patches planned anew" if selection == "fast" else "")
        yield faster(f"{name}, {how}: {case}", 10, theirs, figures.median(key, "total"), remark)


def dodnet_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """DoDNet in MONAI's loop, and evaluated as its authors do, against ours."""
    case, *others = plan.cases
    loop, ours = f"{case}: MONAI, DoDNet", f"{case}: ours, DoDNet"
    theirs = figures.median(loop, "total")
    name = "MONAI's sliding window, DoDNet, one task"
    yield faster(f"{name}, nothing skipped: {case}", 3, theirs, figures.median(ours, "total"))
    rounded = figures.median(f"{ours}, 8 bits", "total")
    yield faster(f"{name}, ours rounded to 8 bits: {case}", 3, theirs, rounded)
    yield from _region_rows(figures, name, theirs, case, "DoDNet")
    for other in others:
        seconds = _extrapolated(figures, loop, ours, f"{other}: ours, DoDNet, patches to visit")
        remark = "extrapolated from seconds of a patch"
        for goal, rival, what in zip(
            (3, 10), seconds[1:], ("nothing skipped", "region selection"), strict=True
        ):
            yield faster(f"{name}, {what}: {other}", goal, seconds[0], rival, remark)
    yield from _evaluation_rows(case, figures, loop, ours)


def _extrapolated(figures: Figures, loop: str, ours: str, visits: str) -> list[float | None]:
    """Seconds of another CT: MONAI's loop, ours without skipping, and with region selection."""
    planned, visited = figures.median(visits, "patches planned"), figures.median(visits, "patches")
    before, coarse = figures.median(visits, "preprocess"), figures.median(visits, "coarse pass")
    theirs, same = per_patch(figures, loop, ("loop",)), per_patch(figures, ours, ("encode", "head"))
    if planned is None or visited is None or before is None or coarse is None or not theirs or not same:
        return [None, None, None]
    return [before + planned * theirs, before + planned * same, before + coarse + visited * same]


def per_patch(figures: Figures, key: str, stages: tuple[str, ...]) -> float | None:
    """Seconds that a patch takes in some stages together."""
    found = [
        sum(run[stage] for stage in stages) / run["patches"] for run in figures.runs(key) if run["patches"]
    ]
    return statistics.median(found) if found else None


def _evaluation_rows(case: str, figures: Figures, loop: str, ours: str) -> Iterator[Row]:
    """A full pass for each task, and each of its 8 flips, as DoDNet's authors run it."""
    one = _times(figures, loop, {"loop": FLIPS})
    pass_of_ours = {"encode": FLIPS, "head": FLIPS}
    mine, remark = figures.median(f"{ours}, mirrored", "total"), "theirs extrapolated from one of 8 flips"
    if mine is None:
        mine, remark = _times(figures, ours, pass_of_ours), "both extrapolated from one of 8 flips"
    name = "DoDNet's evaluation, 8 flips"
    yield faster(f"{name}, one task: {case}", 3, one, mine, remark)
    remark = "both extrapolated from one of 8 flips"
    seven = _times(figures, f"{ours}, seven tasks", pass_of_ours)
    yield faster(f"{name}, seven tasks: {case}", 20, one and TASKS * one, seven, remark)
    for tasks, goal, key in ((1, 3, f"{ours}, 8 bits"), (TASKS, 20, f"{ours}, 8 bits, seven tasks")):
        rounded, what = _times(figures, key, pass_of_ours), "one task" if tasks == 1 else "seven tasks"
        against = f"{name}, ours rounded to 8 bits, {what}: {case}"
        yield faster(against, goal, one and tasks * one, rounded, remark)


def _times(figures: Figures, key: str, factors: dict[str, int]) -> float | None:
    """The seconds of a run in which some stages take a multiple of their time."""
    found = [
        run["total"] + sum((factor - 1) * run[stage] for stage, factor in factors.items())
        for run in figures.runs(key)
    ]
    return statistics.median(found) if found else None


def bundled_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """The bundled model in MONAI's loop and in ours."""
    for case in plan.cases:
        keys = (f"{case}: MONAI, bundled model", f"{case}: ours, bundled model")
        seconds = [figures.median(key, "total") for key in keys]
        yield faster(f"MONAI's sliding window, {plan.model}, all tasks: {case}", 3, *seconds)


def further_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """Our own further task against the first."""
    for name in (*plan.sizes.networks, plan.model):
        key = f"further: {name}"
        share, first = figures.median(key, "further / first"), figures.median(key, "first")
        further = figures.median(key, "further")
        place = plan.bundled_case if name == plan.model else "one patch"
        text = "" if share is None else f"{share:.2%} ({further:.3g} s / {first:.3g} s)"
        yield below(f"our first task, a further one: {name}, {place}", 1, share and 100 * share, text, " %")
    seconds = figures.median(f"further: {plan.model}", "further")
    text = "" if seconds is None else f"{seconds:.3g} s"
    yield below(f"a further task: {plan.model}, {plan.bundled_case}", 0.5, seconds, text, " s")


def rate_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """Encoding against its convolutions alone."""
    for name in (*plan.sizes.networks, plan.model):
        share, rate = (figures.median(f"rate: {name}", key) for key in ("encode / alone", "encode GFLOP/s"))
        measured = "not measured" if share is None else f"{share:.0%} ({rate:.0f} GFLOP/s)"
        reached = None if share is None else share >= 0.75
        yield Row(f"the convolutions alone, encode stage: {name}", "≥ 75 %", measured, reached)


def voxel_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """How much the cost of a visited voxel differs between short and long CTs."""
    keys = [f"cost of a voxel: {case}" for case in plan.voxel_cases]
    costs = [figures.median(key, "seconds of a million voxels") for key in keys]
    known = [cost for cost in costs if cost is not None]
    spread = max(known) / min(known) - 1 if len(known) == len(keys) else None
    text = "" if spread is None else f"{spread:.1%} between the cheapest and the dearest"
    slices = f"{plan.voxel_cases[0]} to {plan.voxel_cases[-1]}"
    goal = f"our cost of a visited voxel, {plan.model}: {slices}"
    yield below(goal, 10, spread and 100 * spread, text, " %")


def gpu_rows(plan: Plan, figures: Figures) -> Iterator[Row]:
    """A GPU, where there is one."""
    case = plan.gpu_case
    if case is None:
        yield Row("a GPU", "≤ 3 s, ≤ 0.5 s, ≤ 3 GB; ≤ 5 s", "no GPU")
        return
    key, name = f"{case}: ours, STU-Net-B, GPU", f"STU-Net-B on a GPU: {case}"
    for what, figure, goal, unit in (
        ("file to file", "total", 3, " s"),
        ("network", "network", 0.5, " s"),
        ("GPU memory", "peak GPU memory MB", 3072, " MB"),
    ):
        value = figures.median(key, figure)
        yield below(f"{name}, {what}", goal, value, "" if value is None else f"{value:.3g}{unit}", unit)
    area = figures.median(key, "GPU memory-time area MB s")
    yield Row(f"{name}, GPU memory-time area", "none", "not measured" if area is None else f"{area:.0f} MB s")
    seconds = figures.median(f"{case}: ours, DoDNet, seven tasks, GPU", "total")
    text = "" if seconds is None else f"{seconds:.3g} s"
    yield below(f"DoDNet on a GPU, seven tasks: {case}", 5, seconds, text, " s")


ROWS = {
    "nnunet": nnunet_rows,
    "region": region_rows,
    "dodnet": dodnet_rows,
    "bundled": bundled_rows,
    "further": further_rows,
    "rate": rate_rows,
    "voxels": voxel_rows,
    "gpu": gpu_rows,
}
"""The rows of each section, in the order of the table."""
