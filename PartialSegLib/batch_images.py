"""The images of a batch: found among files and folders, and each given a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .dicom_series import is_dicom
from .errors import InputError
from .volume import IMAGE_SUFFIXES, image_suffix

_FILES_LOOKED_AT = 3  # of a folder, to find out whether it holds DICOM


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Images among files and folders, each once, in the order of the inputs and sorted within a folder.

    A folder gives the image files that lie directly in it, and every folder,
    itself included and at any depth, that holds DICOM files. Segmentations (.seg.nrrd) are no images.

    Raises:
        InputError: an input does not exist, or there is no image in it.
    """
    images: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser().absolute()
        if not path.exists():
            raise InputError(f"There is no file or folder {path}; check the path.")
        found = list(_images_in(path)) if path.is_dir() else [path]
        if not found:
            raise InputError(
                f"{path} holds no images; give a folder with DICOM series, or with files of the types "
                f"{', '.join(IMAGE_SUFFIXES)}."
            )
        images |= dict.fromkeys(found)
    if not images:
        raise InputError("No images were given; give files or folders.")
    return list(images)


def _images_in(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_file() and _is_image(path.name))
    for parent, folders, files in os.walk(folder):
        folders.sort()
        if _holds_dicom(Path(parent), files):
            yield Path(parent)


def _is_image(name: str) -> bool:
    is_segmentation = name.lower().endswith(".seg.nrrd")
    return bool(image_suffix(Path(name))) and not is_segmentation and not name.startswith(".")


def _holds_dicom(folder: Path, files: list[str]) -> bool:
    """Look at the first files."""
    names = sorted(name for name in files if name != "DICOMDIR" and not name.startswith("."))
    for name in names[:_FILES_LOOKED_AT]:
        try:
            if is_dicom(folder / name):
                return True
        except OSError:
            continue
    return False


def case_names(images: list[Path]) -> list[str]:
    """A name for each image: its file's without the suffix, with as many parent folders as tell them apart.

    Raises:
        InputError: no such names tell them apart.
    """
    stems = [_stem(image) for image in images]
    twins = Counter((image.parent, stem.casefold()) for image, stem in zip(images, stems, strict=True))
    last = [
        image.name if twins[image.parent, stem.casefold()] > 1 else stem
        for image, stem in zip(images, stems, strict=True)
    ]
    depths = [0] * len(images)
    while True:
        names = [
            "_".join([*_last_parts(image.parent, depth), name])
            for image, depth, name in zip(images, depths, last, strict=True)
        ]
        counts = Counter(name.casefold() for name in names)
        deeper = [
            depth + (counts[name.casefold()] > 1 and depth < len(image.parent.parts) - 1)
            for name, image, depth in zip(names, images, depths, strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{count} images would all be called {name}; rename one of them.")
    return names


def _stem(image: Path) -> str:
    suffix = "" if image.is_dir() else image_suffix(image)
    return image.name[: len(image.name) - len(suffix)]


def _last_parts(folder: Path, number: int) -> tuple[str, ...]:
    return folder.parts[len(folder.parts) - number :]
