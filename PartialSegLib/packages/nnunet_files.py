"""Which checkpoints of nnU-Net version 2 to read, in a folder or an archive: one model, some of its folds.

nnU-Net writes Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth, with
plans.json and dataset.json beside the folds. The name between is that of trainer, plans and configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from ..errors import InputError
from ..files.file_names import expanded
from .archive import Archive, ArchiveKind

MODEL_ARCHIVE = ArchiveKind(
    noun="model of nnU-Net",
    advice="export the model again with nnUNetv2_export_model_to_zip",
    max_members=100_000,  # with the segmentations of a cross-validation
    max_bytes=64 << 30,
)
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


@dataclass(frozen=True)
class FoundModel:
    """A model of which some folds can be taken.

    Attributes:
        title: what `Choice.configuration` calls it, such as "3d_fullres".
        folds: that have a checkpoint: their numbers in order, and "all" last.
        usual_folds: those that are taken where none is asked for.
    """

    title: str
    folds: tuple[str, ...]
    usual_folds: tuple[str, ...]


def find_models(path: Path) -> list[FoundModel]:
    """The models in a folder or .zip that can be imported; none where there is nothing to choose from.

    Raises:
        InputError: the archive is damaged or means harm, or models cannot be told apart.
    """
    path = Path(os.path.abspath(expanded(path)))  # "." and ".." have no name
    files: Iterable[str] = ()
    if path.is_dir():
        files = _checkpoint_names(path)
    elif path.suffix.lower() == ".zip" and path.is_file():
        with Archive(path, MODEL_ARCHIVE) as archive:
            files = archive.files
    models = _models(files)
    return [
        FoundModel(
            title,
            tuple(_in_order(models[model])),
            tuple(fold for fold, _ in _chosen_folds(path, models[model], ())),
        )
        for model, title in _titles(path, models).items()
        if len(models) == 1 or _is_supported(_configuration(path, model))
    ]


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
    chosen = chosen_checkpoints(folder, _checkpoint_names(folder), choice)
    return tuple(folder / name for name in chosen)


def chosen_checkpoints(place: Path, files: Iterable[str], choice: Choice) -> list[str]:
    """Of the files of a folder or archive the checkpoints to read, in the order of their folds.

    Args:
        place: the folder or archive, for messages; a folder's name tells the configuration.
        files: paths inside it, with "/" between their parts.
        choice: what is wanted.

    Raises:
        InputError: there is no model, no such model or fold, or several models to choose from.
    """
    models = _models(files)
    if not models:
        raise InputError(
            f"{place} holds no {CHECKPOINTS[0]} in a folder fold_0 to fold_4 or fold_all; give a trained "
            "model of nnU-Net version 2."
        )
    model = _chosen_model(place, list(models), choice.configuration)
    return [f"{model}fold_{fold}/{name}" for fold, name in _chosen_folds(place, models[model], choice.folds)]


def _checkpoint_names(folder: Path) -> list[str]:
    """Paths inside a folder of all that may be checkpoints in folds."""
    found = [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}fold_*/*.pth"))]
    return [path.relative_to(folder).as_posix() for path in found]


def _models(files: Iterable[str]) -> dict[str, Folds]:
    """The models that some files belong to, by their folders in order: "" or ending with a slash."""
    models: dict[str, Folds] = {}
    for file in files:
        match = IN_FOLD.fullmatch(file)
        if match and match["name"] in CHECKPOINTS:
            models.setdefault(match["model"] or "", {}).setdefault(match["fold"], set()).add(match["name"])
    return dict(sorted(models.items()))


def _path(place: Path, model: str) -> str:
    return model.rstrip("/") or place.name


def _name(place: Path, model: str) -> str:
    return PurePosixPath(_path(place, model)).name


def _configuration(place: Path, model: str) -> str:
    return _name(place, model).rpartition("__")[2]


def _titles(place: Path, models: Collection[str]) -> dict[str, str]:
    """For each model the shortest of its names that no other model has."""
    kinds = ({model: name_of(place, model) for model in models} for name_of in (_configuration, _name, _path))
    for titles in kinds:
        if len(set(titles.values())) == len(models):
            return titles
    raise InputError(f"{place} holds a model in a model of the same name; give the folder of one fold.")


def _chosen_model(place: Path, models: Sequence[str], wanted: str | None) -> str:
    """The folder of one model, as in `models`."""
    titles = _titles(place, models)
    if wanted is not None:
        names_of = (_configuration, _name, _path)
        fitting = [m for m in models if wanted in [name_of(place, m) for name_of in names_of]]
    elif len(models) == 1:
        return models[0]
    else:
        fitting = [model for model in models if _is_supported(_configuration(place, model))] or list(models)
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
