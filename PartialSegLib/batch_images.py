"""The images of a batch: found among files and folders, and each given a name of its own."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .dicom_series import is_dicom
from .errors import InputError
from .label_maps import table_path
from .volume import IMAGE_SUFFIXES, image_suffix

SUMMARY_FILE = "summary.csv"
"""In the output folder of a batch."""
_NEVER_DICOM = (
    *IMAGE_SUFFIXES, ".raw", ".zraw", ".npy", ".npz", ".gz", ".zip", ".txt", ".csv", ".json", ".xml", ".html",
    ".md", ".log", ".pdf", ".png", ".jpg", ".jpeg",
)  # fmt: skip
_LONGEST_FIRST_VALUE = 128  # bytes

logger = logging.getLogger(__name__)


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Images among files and folders, each once, in the order of the inputs and sorted within a folder.

    A folder gives the image files that lie directly in it, and every folder,
    itself included and at any depth, that holds DICOM files. Segmentations are no images: .seg.nrrd, what the
    summary of a batch in the folder names, and a label map with its table beside it.

    Raises:
        InputError: an input does not exist, or there is no image in it.
    """
    images: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser().absolute()
        if not path.exists():
            raise InputError(f"There is no file or folder {path}; check the path.")
        found = list(_images_in(path)) if path.is_dir() else [path]
        if not path.is_dir() and path.name in _results(path.parent):
            logger.warning("%s is the result of a batch and left out.", path)
            continue
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
    results = _results(folder)
    for path in sorted(folder.iterdir()):
        if path.is_file() and _is_image(path.name) and path.name not in results and not _is_label_map(path):
            yield path
    for parent, folders, files in os.walk(folder):
        folders.sort()
        if _holds_dicom(Path(parent), files):
            yield Path(parent)


def _is_image(name: str) -> bool:
    is_segmentation = name.lower().endswith(".seg.nrrd")
    return bool(image_suffix(Path(name))) and not is_segmentation and not name.startswith(".")


def _results(folder: Path) -> set[str]:
    """Names of the segmentations that a batch has written into a folder."""
    try:
        with (folder / SUMMARY_FILE).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return {row.get("segmentation") or "" for row in csv.DictReader(file)}
    except (OSError, csv.Error):
        return set()


def _is_label_map(path: Path) -> bool:
    """Whether it has a table; where there are both NAME.nii and NAME.nii.gz, one of them is an image."""
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    is_nifti = image_suffix(path) in (".nii", ".nii.gz")
    return is_nifti and table_path(path).exists() and not twin.exists()


def _holds_dicom(folder: Path, files: list[str]) -> bool:
    names = (name for name in sorted(files) if name != "DICOMDIR" and not name.startswith("."))
    return any(_is_dicom(folder / name) for name in names if not name.lower().endswith(_NEVER_DICOM))


def _is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM or, as old ones do, begins with a data element instead."""
    try:
        return is_dicom(path) or _begins_with_element(path)
    except OSError:
        return False


def _begins_with_element(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(8)
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    representation, length = start[4:6], int.from_bytes(start[4:8], "little")
    is_explicit = representation.isalpha() and representation.isupper()
    is_implicit = group == 8 and 0 < length < _LONGEST_FIRST_VALUE and length % 2 == 0
    return group in (2, 8) and element <= 0x18 and (is_explicit or is_implicit)


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
