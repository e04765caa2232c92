"""nnU-Net's own post-processing, read from what its cross-validation leaves beside the folds."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunet_cross_validation import (
    BOTH,
    LIVER,
    REGIONS,
    SOFTMAX_LABELS,
    TUMOR,
    described,
    pickled,
    step_of,
    write_results,
)
from nnunet_folder import plans_of, write_model_folder
from parity_data import official_weights

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint
from PartialSegLib.importers.nnunet_plans import Plan
from PartialSegLib.importers.nnunet_postprocessing import KEEP_LARGEST, MODULE, chosen_postprocessing
from PartialSegLib.manifest import PostprocessingStep, manifest_from_json, manifest_to_json

PLAIN = "nnunet_v2_plain"
MODEL = "Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres"


def read(
    model: Path, labels: dict[str, Any] = SOFTMAX_LABELS, **dataset: Any
) -> Sequence[PostprocessingStep]:
    """The steps for fold 0 of a model folder."""
    plan = Plan(plans_of(PLAIN), {"channel_names": {"0": "CT"}, "labels": labels, **dataset}, "3d_fullres")
    return chosen_postprocessing([model / "fold_0" / "checkpoint_final.pth"], plan, plan.task()[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with two folds, without any post-processing."""
    model = tmp_path_factory.mktemp("results") / MODEL
    for fold in ("fold_0", "fold_1"):
        write_model_folder(model, plans_of(PLAIN), official_weights(PLAIN), SOFTMAX_LABELS, fold)
    return model


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results" / MODEL))


@pytest.mark.parametrize(
    ("unions", "steps"),
    [
        ([], ()),
        ([1], (LIVER,)),
        ([[1, 2], 2], (BOTH, TUMOR)),
        ([(1, 2), (2,)], (BOTH, TUMOR)),
        ([[(1, 2), 1]], (BOTH,)),
        ([[]], ()),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "pkl"])
def test_labels_regions_and_lists_of_them_become_steps(
    tmp_path: Path, suffix: str, unions: list[Any], steps: Any
) -> None:
    contents = described(*unions) if suffix == "json" else pickled(*unions)
    write_results(tmp_path, "0", **{suffix: contents})
    assert read(tmp_path) == steps


def test_numpy_numbers_of_the_pickle_are_read(tmp_path: Path) -> None:
    """nnU-Net's list of all labels comes from numpy.unique."""
    write_results(tmp_path, "0", pkl=pickled(list(np.unique([2, 1]))))
    assert read(tmp_path) == (BOTH,)


def test_regions_are_the_structures_that_have_their_values_in_the_label_map(tmp_path: Path) -> None:
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "kidney tumor": 2}
    order = {"regions_class_order": [1, 3, 2]}  # as in KiTS 2023: cysts, label 3, have no region of their own
    write_results(tmp_path, "0", json=described([1, 2, 3], (2, 3), 2, 3))
    assert read(tmp_path, labels, **order) == (
        step_of("kidney", "masses", "kidney_tumor"),
        step_of("masses", "kidney_tumor"),
        step_of("kidney_tumor"),
        step_of("masses"),
    )
    unseen = {"background": 0, "kidney": [1, 2], "kidney tumor": 1}
    write_results(tmp_path, "0", json=described(1))
    assert read(tmp_path, unseen, regions_class_order=[2, 2]) == ()


def test_the_pickle_is_read_where_the_json_does_not_tell_all(tmp_path: Path) -> None:
    write_results(tmp_path, "0", pkl=pickled(2))
    for contents in ("{", "[]", '{"postprocessing_fns": []}', b"\xff"):
        write_results(tmp_path, "0", json=contents)
        assert read(tmp_path) == (TUMOR,)
    write_results(tmp_path, "0", json=described(1))
    assert read(tmp_path) == (LIVER,)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo harm > harm",)


DEEP = b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b"."  # a list in a list in a list


@pytest.mark.parametrize(
    ("suffix", "contents", "sentence"),
    [
        ("json", described(7), "it names the label 7, which the model does not have"),
        ("json", described([1, 0]), "it names the label 0, which the model does not have"),
        ("pkl", pickled((1, 3)), "it names the label 3, which the model does not have"),
        (
            "json",
            described(1, name="fill_holes"),
            f"it asks for the function 'fill_holes', and only {KEEP_LARGEST}",
        ),
        (
            "json",
            described(1, background_label=1),
            "it gives .* other arguments than labels_or_regions and a",
        ),
        ("json", described(1, sigma=2), "it gives .* other arguments"),
        (
            "json",
            '{"postprocessing_fns": ["x"], "postprocessing_kwargs": []}',
            "it holds no list of functions",
        ),
        ("json", described("1"), "its labels_or_regions are no label, region, or list of these"),
        ("json", described(True), "its labels_or_regions are no label"),
        ("json", described([[[1]]]), "its labels_or_regions are no label"),
        ("json", described(10**4000), "its labels_or_regions are no label"),
        ("json", described([1] * 2000), "its labels_or_regions are no label"),
        ("json", described(*[1] * 2000), "it holds more than 1000 steps"),
        ("json", "{", "it holds no list of functions with a list of their arguments"),
        ("pkl", pickle.dumps(None), "it holds no list of functions"),
        ("pkl", pickle.dumps(([np.zeros(2)], [{}])), "it asks for the function without a name"),
        ("pkl", DEEP, "it holds no list of functions"),
    ],
    ids=count(),
)
def test_what_is_not_known_is_refused_in_one_sentence(
    tmp_path: Path, suffix: str, contents: str | bytes, sentence: str
) -> None:
    write_results(tmp_path, "0", **{suffix: contents})
    with pytest.raises(
        InputError, match=f"^[^\n]*postprocessing.{suffix} is refused: {sentence}[^\n]*; take"
    ):
        read(tmp_path)


def test_regions_without_an_order_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path, "0", json=described(1))
    for order in ({}, {"regions_class_order": [1, 2]}, {"regions_class_order": [1, 2, "3"]}):
        with pytest.raises(InputError, match="has no regions_class_order with a whole number"):
            read(tmp_path, REGIONS, **order)


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (
            pickle.dumps(([Evil()], [{}])),
            r"postprocessing.pkl is refused: it asks for (posix|nt).system; a file",
        ),
        (
            pickled(1, name="fill_holes"),
            f"is refused: it asks for {MODULE}.fill_holes; a file may hold plain",
        ),
        (
            f"c{MODULE}\n{KEEP_LARGEST}\n(tR.".encode(),
            r"postprocessing.pkl is damaged or no pickle \(TypeError\)",
        ),
        (pickled(1)[:40], "postprocessing.pkl is damaged or no pickle"),
        (pickled(3), "it names the label 3, which the model does not have; take that file away"),
    ],
    ids=count(),
)
def test_a_hostile_or_damaged_pickle_runs_nothing_and_writes_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(model, "0_1", pkl=contents)
    with pytest.raises(InputError, match=f"^[^\n]*cannot be imported from nnU-Net: [^\n]*{sentence}[^\n]*$"):
        import_checkpoint("auto", model, tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_clean_up_is_that_of_the_chosen_folds(model: Path, tmp_path: Path) -> None:
    def steps(place: Path, *folds: str) -> Sequence[PostprocessingStep]:
        return import_checkpoint("auto", place, tmp_path / "package", folds).tasks[0].postprocessing

    assert steps(model) == ()
    write_results(model, "0_1", pkl=pickled([1, 2], 2))
    assert steps(model) == (BOTH, TUMOR)
    assert steps(model, "1") == ()
    write_results(model, "1", json=described(1))
    assert steps(model / "fold_1" / "checkpoint_final.pth") == (LIVER,)


@pytest.mark.parametrize("top", [f"{MODEL}/", ""])
def test_an_export_holds_it_too(model: Path, tmp_path: Path, top: str) -> None:
    write_results(model, "0_1", json="{", pkl=pickled([1, 2], 2))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for path in sorted(model.rglob("*.*")):
            file.write(path, f"{top}{path.relative_to(model).as_posix()}")
    of_archive = import_checkpoint("auto", tmp_path / "model.zip", tmp_path / "package")
    assert of_archive.tasks[0].postprocessing == (BOTH, TUMOR)
    assert manifest_to_json(of_archive) == manifest_to_json(
        import_checkpoint("nnunet", model, tmp_path / "b")
    )
    assert manifest_from_json(json.loads((tmp_path / "package" / "model.json").read_text())) == of_archive

    with zipfile.ZipFile(tmp_path / "model.zip", "a") as file:
        file.writestr(f"{top}crossval_results_folds_0/postprocessing.json", described(9))
    with pytest.raises(
        InputError, match=r"model\.zip/.*postprocessing\.json is refused: it names the label 9"
    ):
        import_checkpoint("auto", tmp_path / "model.zip", tmp_path / "other", ["0"])
    assert not (tmp_path / "other").exists()
