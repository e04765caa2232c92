"""Which checkpoints of nnU-Net version 2 to read, in a folder or an archive: one model, some of its folds.

nnU-Net writes Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth, with
plans.json and dataset.json beside the folds. The name between is that of trainer, plans and configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from ..errors import InputError

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
IN_FOLD = re.compile(r"(?P<model>.*/)?fold_(?P<fold>\d+|all)/(?P<name>[^/]*)", re.DOTALL)
ALL_CASES = "all"  # the fold that was trained on all cases

P = TypeVar("P", bound=PurePath)

Folds = dict[str, set[str]]
"""Of a model the names of the checkpoints of each fold, which is a number or "all"."""


@dataclass(frozen=True)
class Choice:
    """What to take of a model that was trained several times.

    Attributes:
        folds: numbers of folds, or "all" for the network trained on all cases; none takes what nnU-Net takes:
            every fold with a number and a final checkpoint. Where there is none, that of all cases.
        configuration: such as "3d_fullres", or with trainer and plans in front as in the name of its folder;
            None takes the only one that is three-dimensional and no cascade.
    """

    folds: tuple[str, ...] = ()
    configuration: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.folds) or self.configuration is not None


def postprocessing_files(checkpoints: Sequence[P]) -> tuple[P, P]:
    """Where nnU-Net writes the clean-up that suits the cross-validation of these folds, if it chose one.

    nnUNetv2_find_best_configuration joins the numbers of the folds for the name of the folder.

    Args:
        checkpoints: of one model, in the order of their folds.

    Returns:
        postprocessing.json, for people, and postprocessing.pkl, which nnUNetv2_apply_postprocessing reads.
    """
    folds = "_".join(checkpoint.parent.name.removeprefix("fold_") for checkpoint in checkpoints)
    folder = checkpoints[0].parent.parent / f"crossval_results_folds_{folds}"
    return folder / "postprocessing.json", folder / "postprocessing.pkl"


def checkpoints_in_folder(folder: Path, choice: Choice) -> tuple[Path, ...]:
    """The checkpoints of a fold's folder, a model's folder, or a data set's folder with several models.

    Raises:
        InputError: there are none, or not those that are asked for.
    """
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            if choice.is_made:
                raise InputError(f"{folder} is a single fold; give the folder above it to choose folds.")
            return (folder / name,)
    found = [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}fold_*/*.pth"))]
    names = [path.relative_to(folder).as_posix() for path in found]
    return tuple(folder / name for name in chosen_checkpoints(folder, names, choice))


def chosen_checkpoints(place: Path, files: Iterable[str], choice: Choice) -> list[str]:
    """Of the files of a folder or archive the checkpoints to read, in the order of their folds.

    Args:
        place: the folder or archive, for messages; a folder's name tells the configuration.
        files: paths inside it, with "/" between their parts.
        choice: what is wanted.

    Raises:
        InputError: there is no model, no such model or fold, or several models to choose from.
    """
    models: dict[str, Folds] = {}
    for file in files:
        match = IN_FOLD.fullmatch(file)
        if match and match["name"] in CHECKPOINTS:
            models.setdefault(match["model"] or "", {}).setdefault(match["fold"], set()).add(match["name"])
    if not models:
        raise InputError(
            f"{place} holds no {CHECKPOINTS[0]} in a folder fold_0 to fold_4 or fold_all; give a trained "
            "model of nnU-Net version 2."
        )
    model = _chosen_model(place, sorted(models), choice.configuration)
    return [f"{model}fold_{fold}/{name}" for fold, name in _chosen_folds(place, models[model], choice.folds)]


def _chosen_model(place: Path, models: Sequence[str], wanted: str | None) -> str:
    """The folder of one model, as in `models`: "" or ending with a slash."""
    paths = {model: model.rstrip("/") or place.name for model in models}
    names = {model: PurePosixPath(path).name for model, path in paths.items()}
    configurations = {model: name.rpartition("__")[2] for model, name in names.items()}
    titles = next(
        titles for titles in (configurations, names, paths) if len(set(titles.values())) == len(models)
    )
    if wanted is not None:
        fitting = [model for model in models if wanted in (configurations[model], names[model], paths[model])]
    elif len(models) == 1:
        return models[0]
    else:
        fitting = [model for model in models if _is_supported(configurations[model])] or list(models)
    if not fitting:
        raise InputError(f"{place} holds no model {wanted}; it holds {', '.join(titles.values())}.")
    if len(fitting) > 1:
        raise InputError(
            f"{place} holds several models ({', '.join(titles.values())}); choose one, as in --configuration "
            f"{titles[fitting[0]]}, or give its folder alone."
        )
    return fitting[0]


def _is_supported(configuration: str) -> bool:
    """Whether it is three-dimensional and no second stage, by nnU-Net's names."""
    return not configuration.startswith("2d") and "cascade" not in configuration


def _chosen_folds(place: Path, folds: Folds, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Folds with the name of the checkpoint of each."""
    missing = [fold for fold in wanted if fold not in folds]
    if missing:
        held = ", ".join(f"fold_{fold}" for fold in _in_order(folds))
        raise InputError(f"{place} holds no fold_{missing[0]}; it holds {held}.")
    if wanted:
        chosen = _in_order(set(wanted))
        return [(fold, next(name for name in CHECKPOINTS if name in folds[fold])) for fold in chosen]
    name = next(name for name in CHECKPOINTS if any(name in names for names in folds.values()))
    having = _in_order(fold for fold, names in folds.items() if name in names)
    return [(fold, name) for fold in having if fold != ALL_CASES] or [(ALL_CASES, name)]


def _in_order(folds: Iterable[str]) -> list[str]:
    """By number, then that of all cases."""
    return sorted(folds, key=lambda fold: (fold == ALL_CASES, len(fold), fold))
