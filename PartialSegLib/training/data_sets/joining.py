"""Collections become one, and its paths relative to where it will lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...files.file_names import expanded
from ..collection import Case, Collection, DataSet


def joined(name: str, collections: Sequence[Collection], folder: Path) -> Collection:
    """The data sets and cases of several collections.

    Label sets may differ, overlap or contradict each other: every data set keeps its own rules.

    Args:
        name: of the new collection.
        collections: in the order wanted.
        folder: where the new file will lie; paths inside it become relative, all others absolute.

    Raises:
        InputError: two data sets of one name have different rules, or two cases have one name.
    """
    folder = expanded(folder).absolute()
    data_sets: dict[str, DataSet] = {}
    cases: list[Case] = []
    for collection in collections:
        for data_set in collection.data_sets.values():
            if data_sets.setdefault(data_set.name, data_set) != data_set:
                raise InputError(
                    f"Two data sets are named {data_set.name} but have different labels or tasks; "
                    "make one of them again with another --name."
                )
        cases += [_moved(case, collection, folder) for case in collection.cases]
    return Collection(name, folder, data_sets, tuple(cases))


def _moved(case: Case, collection: Collection, folder: Path) -> Case:
    """The case with paths that start from another folder."""

    def moved(path: str) -> str:
        absolute = expanded(collection.path(path)).absolute()
        return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()

    return case.with_paths(moved)
