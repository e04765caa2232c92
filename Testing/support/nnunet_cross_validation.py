"""The post-processing that a cross-validation of nnU-Net version 2 leaves, and the steps that it becomes."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib.importers.nnunet_postprocessing import KEEP_LARGEST, MODULE
from PartialSegLib.manifest import PostprocessingStep

SOFTMAX_LABELS = {"background": 0, "Liver": 1, "tumour": 2}
REGIONS = {"background": 0, "abdomen": [1, 2, 3], "liver": [2, 3], "liver tumor": 3}
ORDER = {"regions_class_order": [1, 2, 3]}


def step_of(*structures: str, connectivity: Any = 26) -> PostprocessingStep:
    """Keep the largest component of these, taken as one."""
    first, *others = structures
    return PostprocessingStep("keep_largest_of_union", first, others=tuple(others), connectivity=connectivity)


LIVER, TUMOR, BOTH = step_of("liver"), step_of("liver_tumor"), step_of("liver", "liver_tumor")


def pickled(*unions: Any, name: str = KEEP_LARGEST) -> bytes:
    """postprocessing.pkl as nnU-Net writes it; its module is there while this is written, and no longer."""
    function: Any = lambda segmentation, labels_or_regions, background_label=0: segmentation  # noqa: E731
    function.__module__, function.__name__, function.__qualname__ = MODULE, name, name
    with pytest.MonkeyPatch.context() as patch:
        parts = MODULE.split(".")
        for end in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(sys.modules[MODULE], name, function)
        return pickle.dumps(([function] * len(unions), [{"labels_or_regions": union} for union in unions]))


def described(*unions: Any, name: str = KEEP_LARGEST, **added: Any) -> str:
    """postprocessing.json as nnU-Net writes it, or with other arguments."""
    arguments = [{"labels_or_regions": union, **added} for union in unions]
    mean = {"foreground_mean": {"Dice": float("nan")}, "mean": {"1": {"Dice": 0.9}}}
    functions = {"postprocessing_fns": [name] * len(unions), "postprocessing_kwargs": arguments}
    return json.dumps({"input_folder": mean, "postprocessed": mean, **functions})


def write_results(model: Path, folds: str, **files: str | bytes) -> Path:
    """The folder of a cross-validation with postprocessing.json, .pkl or both."""
    folder = model / f"crossval_results_folds_{folds}"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, contents in files.items():
        data = contents if isinstance(contents, bytes) else contents.encode()
        (folder / f"postprocessing.{suffix}").write_bytes(data)
    return folder
