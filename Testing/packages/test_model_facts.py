"""What people who choose a model are told of its training."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import Manifest, read_manifest
from PartialSegLib.packages.installed import find_package
from PartialSegLib.packages.model_facts import held_out, limits, training_data


def manifest_of(**training: Any) -> Manifest:
    return dataclasses.replace(mots_manifest({}), training=training)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("Synthetic CT only: procedural phantoms (55 to 60 %).", "Synthetic CT only"),
        ("MOTS: seven partially labelled data sets (docs/training.md)", "MOTS"),
        ("lits (1 case, source: a, licence: b); kits19 (2 cases, source: c, licence: d)", "lits, kits19"),
        ("a (1); b (2); c (3); d (4); e (5)", "a, b, c, d, …"),
        ("none", "none"),
        ("", ""),
        (7, ""),
        ("much " * 40, "much " * 15 + "much…"),
    ],
)
def test_the_data_are_named_in_a_few_words(data: Any, shown: str) -> None:
    assert training_data(manifest_of(data=data)) == shown


def test_a_package_may_say_nothing() -> None:
    assert (training_data(manifest_of()), limits(manifest_of()), held_out(manifest_of())) == ("", "", None)


@pytest.mark.parametrize(
    "recorded",
    [3, [], {"figures": {}}, {"phantoms": "8", "figures": {}}, {"phantoms": 8, "figures": [1]},
     {"phantoms": 8, "figures": {"a/b": 0.5}}, {"phantoms": 8, "figures": {"a/b": {"dice": "good"}}}],
)  # fmt: skip
def test_figures_of_somebody_else_are_not_taken_for_ours(recorded: Any) -> None:
    assert held_out(manifest_of(held_out=recorded)) is None


def test_the_bundled_model_says_what_it_was_trained_on_and_how_it_did() -> None:
    manifest = read_manifest(find_package("trunk-7tasks"))
    assert training_data(manifest) == "Synthetic CT only"
    assert limits(manifest).startswith("Many lesions are missed")
    measured = held_out(manifest)
    assert measured is not None
    assert measured.figures.keys() == {f"{task.name}/{s}" for task in manifest.tasks for s in task.structures}
