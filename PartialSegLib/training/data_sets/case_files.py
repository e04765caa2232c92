"""Files of a data set on disk become cases; the layouts differ only in how they pair image and label map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ...files.file_names import expanded
from ...volume import IMAGE_SUFFIXES, image_stem, image_suffix
from ..collection import Case


class NoCasesError(InputError):
    """A folder holds no cases of the layout that it was read as."""


def existing_folder(folder: Path) -> Path:
    """The folder as an absolute path.

    Raises:
        InputError: there is no such folder.
    """
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder that the data set was unpacked to.")
    return folder


def images_in(folder: Path) -> dict[str, Path]:
    """Image files directly in a folder, by stem and sorted, without hidden ones such as ._liver_0.nii.gz.

    Raises:
        InputError: two files differ in their suffix alone.
    """
    files = [path for path in _image_files(folder) if not _is_segmentation(path)]
    return files_by_name((image_stem(path), path) for path in files)


def label_maps_in(folder: Path) -> dict[str, Path]:
    """The same for label maps.

    Raises:
        InputError: two files differ in their suffix alone, or one is a segmentation as Slicer saves it.
    """
    if segmentations := [path for path in _image_files(folder) if _is_segmentation(path)]:
        raise InputError(
            f"{segmentations[0]} is a segmentation of Slicer, whose segments may overlap, and no label map; "
            "export it there as a label map (Segmentations, Export to files, NIfTI), or convert it with "
            '`write_segmentation("NAME.nii.gz", read_segmentation("NAME.seg.nrrd"))`.'
        )
    return images_in(folder)


def _image_files(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if image_suffix(path) and not path.name.startswith("."))


def _is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd")


def files_by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by the name of their case, where they are looked for at any depth.

    Raises:
        InputError: two files have one name.
    """
    files: dict[str, Path] = {}
    for name, path in named:
        if name in files:
            raise InputError(
                f"{files[name]} and {path} are of one case; move one of them elsewhere, or give a folder "
                "that holds only one."
            )
        files[name] = path
    return files


def image_named(folder: Path, name: str) -> Path | None:
    """The image file of that stem in a folder, whatever its suffix."""
    return next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def make_case(
    data_set: str,
    name: str,
    image: Path,
    label: Path | None,
    split: Literal["training", "validation", "test"] = "training",
) -> Case:
    """A case named after its data set and itself, such as lits-volume-0."""
    return Case(f"{data_set}-{name}", data_set, str(image), None if label is None else str(label), split)


def cases_of_pairs(
    data_set: str, images: Mapping[str, Path], labels: Mapping[str, Path], image_folder: Path
) -> tuple[Case, ...]:
    """Pair images and label maps of the same name.

    An image without a label map is a case that waits for pseudo-labels. A label map without an image stays a
    case too, whose image does not exist: the check of the collection reports it.

    Args:
        data_set: name of the data set.
        images: by the case's name.
        labels: by the case's name.
        image_folder: where a missing image should be.
    """
    missing = {name: image_folder / labels[name].name for name in labels if name not in images}
    found = {**images, **missing}
    return tuple(make_case(data_set, name, found[name], labels.get(name)) for name in sorted(found))


def case_folders(data_set: str, folders: Iterable[Path], image: str, label: str) -> tuple[Case, ...]:
    """Cases that have a folder each, with files of fixed names in it.

    Args:
        data_set: name of the data set.
        folders: one for each case; those without the image are passed over.
        image: stem of the CT; "*" stands for the folder's own name.
        label: stem of the label map.
    """
    cases = []
    for folder in sorted(folders):
        found = image_named(folder, image.replace("*", folder.name))
        if found is not None:
            cases.append(make_case(data_set, folder.name, found, image_named(folder, label)))
    return tuple(cases)


def require_cases(
    cases: tuple[Case, ...], folder: Path, expected: str, other_layout: str = ""
) -> tuple[Case, ...]:
    """The cases, if there are any, and not label maps alone.

    Args:
        cases: that were found.
        folder: where.
        expected: the files that were looked for.
        other_layout: the layout that the folder seems to have instead, if any.

    Raises:
        NoCasesError: there is none, or there are label maps but the image of none.
    """
    if not cases:
        raise NoCasesError(f"{folder} holds no cases; expected {expected}.")
    labelled = [case for case in cases if case.label is not None]
    if labelled and not any(Path(image).exists() for case in labelled for image in case.images):
        advice = f"; it looks like the layout {other_layout}: `partialseg data {other_layout}`"
        raise NoCasesError(
            f"{folder} holds {len(labelled)} label maps but the image of none; expected {expected}"
            f"{advice if other_layout else ''}."
        )
    return cases
