"""What a package says of its training: the data that were used, not those that its recipe was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..manifest import Manifest
from .collection import Collection, DataSet
from .preparation.prepared_cases import labelled_cases


def training_record(
    stated: Mapping[str, Any], collection: Collection | None, steps: int, starts_from: str | None = None
) -> dict[str, Any]:
    """The field `training` of a manifest.

    Args:
        stated: what the recipe says; its data count only where there is no collection.
        collection: what was trained on; None for cases made on the fly.
        steps: that were taken.
        starts_from: the package whose weights the run began with.
    """
    record = {**stated, "steps": steps}
    if collection is not None:
        record["data"] = _describe_data(collection)
    if starts_from is not None:
        record["starts_from"] = starts_from
    return record


def license_text(manifest: Manifest) -> str:
    """The file LICENSE of a package that a run writes."""
    training = manifest.training
    start = f", starting from the weights of {training['starts_from']}" if "starts_from" in training else ""
    return (
        f"SPDX-License-Identifier: {manifest.license}\n\n"
        f"Trained on: {training.get('data', 'see model.json')}{start}\n\n"
        f"Not for: {training.get('not_for', 'Diagnosis or treatment. Research use only.')}\n"
    )


def _describe_data(collection: Collection) -> str:
    """Each data set with its training cases, source and licence."""
    counts = Counter(case.data_set for case in labelled_cases(collection, "training"))
    return "; ".join(_describe(collection.data_sets[name], count) for name, count in counts.items())


def _describe(data_set: DataSet, count: int) -> str:
    cases = "1 case" if count == 1 else f"{count} cases"
    source = f"source: {data_set.source or 'not stated'}"
    return f"{data_set.name} ({cases}, {source}, licence: {data_set.license or 'not stated'})"
