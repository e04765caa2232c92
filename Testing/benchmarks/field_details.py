"""The figures of `make bench-field` case by case, and how far two results agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from field_figures import Figures
from field_models import FLARE23_CLASSES
from field_plan import Plan

from PartialSegLib import Segmentation, read_segmentation, read_volume
from PartialSegLib.evaluation import dice
from PartialSegLib.segmentation_files.label_names import structures_of_labels


def write_details(figures: Figures) -> Iterator[str]:
    """Lines of Markdown: for each case a table of medians, then failures."""
    for case in dict.fromkeys(key.partition(": ")[0] for key in figures.kept):
        columns = {
            key: names for key, names in _medians(figures).items() if names and key.startswith(f"{case}: ")
        }
        if columns:
            yield from ("", f"### {case}", "", *_table(columns))
    failures = [(key, error) for key in figures.kept if (error := figures.error(key))]
    if failures:
        yield from ("", "### Failed", "", *(f"* {key}: {error}" for key, error in failures))


def _medians(figures: Figures) -> dict[str, dict[str, Any]]:
    """Every figure of every measurement; text as in the first repetition."""
    found: dict[str, dict[str, Any]] = {}
    for key in figures.kept:
        runs = figures.runs(key)
        first = runs[0] if runs else {}
        found[key] = {
            name: value if isinstance(value, str) else figures.median(key, name)
            for name, value in first.items()
        }
        if runs:
            found[key]["repetitions"] = len(runs)
    return found


def _table(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| | " + " | ".join(key.partition(": ")[2] for key in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        yield f"| {name} | " + " | ".join(_cell(column.get(name)) for column in columns.values()) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def agreements(plan: Plan, figures: Figures) -> dict[str, dict[str, float]]:
    """Dice per structure between the results of two sides, for each pair that was measured."""
    found = {}
    for case in plan.cases:
        pairs = [
            (f"{case}: nnU-Net", f"{case}: ours, like for like", FLARE23_CLASSES),
            (f"{case}: nnU-Net", f"{case}: ours, default", FLARE23_CLASSES),
            (f"{case}: nnU-Net", f"{case}: ours, 8 bits", FLARE23_CLASSES),
            (f"{case}: MONAI, DoDNet", f"{case}: ours, DoDNet", None),
            (f"{case}: MONAI, DoDNet", f"{case}: ours, DoDNet, 8 bits", None),
            (f"{case}: MONAI, bundled model", f"{case}: ours, bundled model", None),
        ]
        for theirs, ours, classes in pairs:
            if figures.runs(theirs) and figures.runs(ours):
                scores = _agreement(plan.output(theirs), plan.output(ours), classes)
                found[f"{theirs}, and {ours.partition(': ')[2]}"] = scores
    return found


def _agreement(theirs: Path, ours: Path, classes: tuple[str, ...] | None) -> dict[str, float]:
    """Dice of each structure that either side found.

    Args:
        theirs: nnU-Net's label map, or a segmentation as we write it.
        ours: a segmentation.
        classes: those of nnU-Net's labels 1, 2, and so on; None for a segmentation as we write it.
    """
    mine = read_segmentation(ours)
    other = read_segmentation(theirs) if classes is None else _labelled(theirs, mine, classes)
    scores = {}
    for key in mine:
        one, another = mine[key], other[key]
        if one.any() or another.any():
            scores[mine.identifier(key)] = float(dice(one, another))
    return scores


def _labelled(path: Path, like: Segmentation, classes: tuple[str, ...]) -> Segmentation:
    """A label map of nnU-Net as a segmentation with the keys of another."""
    labels = read_volume(path, any_modality=True).array
    found = Segmentation(like.shape, like.affine)
    label_of = {id: label for label, id in enumerate(structures_of_labels(classes).values(), start=1)}
    for task, structure in like:
        found.add(task, structure, None, labels == label_of[structure])
    return found
