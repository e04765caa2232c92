"""Recipes: collections of a paper, put together from the folders that its data sets are downloaded to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ...errors import InputError
from ...segmentation_files.label_tables import labels_of
from ..collection import Case, Collection, DataSet
from .brats import brats_cases
from .btcv import btcv_cases, btcv_pelvis_cases
from .case_files import NoCasesError, existing_folder
from .dataset_json import FILE, IGNORE_LABEL, read_dataset_json
from .decathlon import decathlon_cases
from .folder_pair import folder_pair_cases
from .kits import kits_cases
from .label_rules import contradicted_labels
from .lits import lits_cases
from .nnunet_raw import nnunet_cases
from .segthor import segthor_cases
from .splits import with_test_cases
from .structseg import structseg_cases

Layout = Callable[[Path, str], tuple[Case, ...]]
"""Finds the cases of a data set, given its folder and its name; raises InputError where there is none."""

LAYOUTS: dict[str, Layout] = {
    "decathlon": decathlon_cases,
    "nnunet": nnunet_cases,
    "kits": kits_cases,
    "lits": lits_cases,
    "btcv": btcv_cases,
    "btcv-pelvis": btcv_pelvis_cases,
    "segthor": segthor_cases,
    "structseg": structseg_cases,
    "brats": brats_cases,
    "pair": folder_pair_cases,
}
"""How the files of a data set may lie, by the name of the command that reads them."""


@dataclass(frozen=True)
class RecipePart:
    """One data set of a recipe.

    Attributes:
        data_set: name, task and label rules.
        places: names of the folders it is looked for in (patterns, in small letters), each with its layout;
            the first that holds labelled cases counts. A folder named after the data set, with images/ and
            labels/ in it, will always do.
        training: number of cases the paper trained on.
        test: number of cases it held out.
    """

    data_set: DataSet
    places: tuple[tuple[str, str], ...]
    training: int
    test: int = 0

    @property
    def cases(self) -> int:
        """Cases of both splits together."""
        return self.training + self.test

    @property
    def all_places(self) -> tuple[tuple[str, str], ...]:
        """The places, and the folder named after the data set."""
        return (*self.places, (self.data_set.name, "pair"))


@dataclass(frozen=True)
class FoundPart:
    """What was found of one data set: its labelled cases whose files exist, and the folders they are in."""

    part: RecipePart
    cases: tuple[Case, ...]
    folders: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether exactly the paper's number of cases was found."""
        return len(self.cases) == self.part.cases


def find_parts(recipe: Sequence[RecipePart], root: Path) -> list[FoundPart]:
    """Look for the data sets of a recipe in a folder and in the folders of that.

    Raises:
        InputError: there is no such folder, a dataset.json found there contradicts the recipe's labels, or a
            case is there twice.
    """
    root = existing_folder(root)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    folders += [path for path in sorted(root.glob("*/*")) if path.is_dir()]
    return [_find_part(part, folders) for part in recipe]


def part_rows(found: Sequence[FoundPart]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a recipe: found or missing, and where to get it."""
    header = ["DATA SET", "TASK", "FOUND", "OF", "FOLDER", "SOURCE"]
    rows = []
    for one in found:
        looked_for = "looked for " + ", ".join(pattern for pattern, _ in one.part.all_places)
        folders = ", ".join(folder.name for folder in one.folders) or looked_for
        data_set = one.part.data_set
        counts = [str(len(one.cases)), str(one.part.cases)]
        rows.append([data_set.name, data_set.task, *counts, folders, data_set.source])
    return header, rows


def recipe_collection(name: str, found: Sequence[FoundPart], root: Path, seed: int) -> Collection:
    """The collection of what was found, split at random by the sizes of the paper.

    The official lists of cases are not public in all papers: the split has the official sizes, or their share
    where cases are missing, and is drawn by the seed (`splits.with_test_cases`).

    Args:
        name: of the collection.
        found: data sets without cases are left out.
        root: where relative paths start.
        seed: of the split.

    Raises:
        InputError: nothing was found.
    """
    cases: list[Case] = []
    for one in found:
        share = one.part.test / one.part.cases
        cases += with_test_cases(one.cases, round(share * len(one.cases)), seed)
    if not cases:
        raise InputError(f"{root} holds none of the data sets; the table says which folders are looked for.")
    data_sets = {one.part.data_set.name: one.part.data_set for one in found if one.cases}
    return Collection(name, root, data_sets, tuple(cases))


def _find_part(part: RecipePart, folders: Sequence[Path]) -> FoundPart:
    for pattern, layout in part.all_places:
        matching = [folder for folder in folders if fnmatchcase(folder.name.lower(), pattern)]
        with_cases = {folder: _labelled_cases(part.data_set, folder, layout) for folder in matching}
        places = [folder for folder, cases in with_cases.items() if cases]
        outermost = [folder for folder in places if not set(folder.parents) & set(places)]
        if outermost:
            cases = tuple(case for folder in outermost for case in with_cases[folder])
            return FoundPart(part, cases, tuple(outermost))
    return FoundPart(part, (), ())


def _labelled_cases(data_set: DataSet, folder: Path, layout: str) -> tuple[Case, ...]:
    """Cases with image and label map; none where the folder is of another layout."""
    try:
        cases = LAYOUTS[layout](folder, data_set.name)
    except NoCasesError:
        return ()
    if layout in ("decathlon", "nnunet") and (folder / FILE).exists():
        _refuse_contradiction(data_set, folder)
    labelled = (case for case in cases if case.label is not None and Path(case.image).exists())
    return tuple(dataclasses.replace(case, split="training") for case in labelled)


def _refuse_contradiction(data_set: DataSet, folder: Path) -> None:
    """Refuse a dataset.json whose values mean something else than in the recipe, as a conversion may."""
    labels = labels_of(read_dataset_json(folder), folder / FILE)
    labels.pop(IGNORE_LABEL, None)
    for label, meant in contradicted_labels(labels, data_set.structures).items():
        values = ", ".join(map(str, labels[label]))
        raise InputError(
            f"{folder / FILE} says that {label} has the value {values}, where the recipe expects "
            f"{' or '.join(meant) or 'nothing'}; convert the data set again, or move it elsewhere."
        )
