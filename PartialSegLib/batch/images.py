"""The images of a batch: found among files and folders, and each given a name of its own."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from ..errors import InputError
from ..files.file_names import allowed, expanded, folded
from ..images.dicom_series import CT_CLASSES, SECONDARY_CAPTURE, is_dicom, storage_class
from ..segmentation_files.label_tables import is_table, table_path
from ..segmentation_files.mask_folders import FOLDER_TABLE
from ..sentences import first_few
from ..volume import IMAGE_SUFFIXES, image_stem, image_suffix

SUMMARY_FILE = "summary.csv"
"""In the output folder of a batch."""
_NEVER_DICOM = (
    *IMAGE_SUFFIXES, ".raw", ".zraw", ".npy", ".npz", ".gz", ".zip", ".txt", ".csv", ".json", ".xml", ".html",
    ".md", ".log", ".pdf", ".png", ".jpg", ".jpeg",
)  # fmt: skip
_LONGEST_FIRST_VALUE = 128  # bytes
_NUM_LISTED = 3
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_SCANS = ("9", "11", "66", "67", "68", "88", "104", "481")
"""How storage classes go on: waveforms, presentation states, segmentations, meshes, reports, documents and
radiotherapy."""

logger = logging.getLogger(__name__)


def find_images(inputs: Iterable[str | Path], any_modality: bool = False) -> list[Path]:
    """Images among files and folders, each once, in the order of the inputs and sorted within a folder.

    A folder gives the image files that lie directly in it, and every folder, itself included and at any
    depth, that holds DICOM files. Segmentations are no images: .seg.nrrd, what the summary of a batch in the
    folder names, and a label map with its table beside it. The log tells of image files in subfolders, and of
    folders whose DICOM files are all of another kind, such as PET or structure sets: they are left out.

    Args:
        inputs: files and folders, and patterns such as `*/ct.nii.gz`, which the shells of Windows hand on as
            they are.
        any_modality: whether DICOM images other than CT will do.

    Raises:
        InputError: an input does not exist or cannot be read, or there is no image in it.
    """
    images: dict[Path, None] = {}
    passed_over: list[Path] = []
    for given in chain.from_iterable(map(_matching, inputs)):
        path = Path(os.path.abspath(given))  # names of cases hold no ".."
        try:
            images |= dict.fromkeys(_images_at(path, any_modality, passed_over))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror or error}); check its permissions, and that its "
                "drive is connected."
            ) from None
    if passed_over:
        logger.warning("Some folders are left out%s.", _listed_others(passed_over))
    if not images:
        raise InputError("No images were given; give files or folders.")
    return list(images)


def _matching(given: str | Path) -> list[Path]:
    """What a pattern stands for, sorted; all else, and a pattern that nothing matches, stands for itself."""
    path = expanded(given)
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    return sorted(map(Path, glob.iglob(str(path)))) or [path]


def _images_at(path: Path, any_modality: bool, passed_over: list[Path]) -> list[Path]:
    """The images that a file or folder stands for; none where it is the result of a batch."""
    if not path.exists():
        raise InputError(f"There is no file or folder {path}; check the path.")
    if not path.is_dir():
        if path.name not in results_in(path.parent):
            return [path]
        logger.warning("%s is the result of a batch and left out.", path)
        return []
    deeper: list[Path] = []
    found = list(_images_in(path, any_modality, passed_over, deeper))
    if not found:
        raise InputError(f"{path} holds no images{_listed_others(passed_over)}; {_advice(path, deeper)}.")
    if deeper:
        files = "1 image file is" if len(deeper) == 1 else f"{len(deeper)} image files are"
        logger.warning("In subfolders %s left out: %s.", files, _advice(path, deeper))
    return found


def _listed_others(folders: list[Path]) -> str:
    if not folders:
        return ""
    return f" (no CT in {len(folders)} of the DICOM folders: {first_few(folders, _NUM_LISTED)})"


def _advice(folder: Path, files: list[Path]) -> str:
    """What to give besides or instead of a folder, below which these image files lie."""
    if not files:
        return f"give a folder with DICOM series, or with files of the types {', '.join(IMAGE_SUFFIXES)}"
    counts, folders = Counter(file.name for file in files), {file.parent for file in files}
    most = max(counts.values())
    largest = max((file for file in files if counts[file.name] == most), key=lambda file: file.stat().st_size)
    is_shared = most > len(folders) / 2 and (most > 1 or len(files) == 1)
    levels = ["*"] * len(largest.parent.relative_to(folder).parts)
    deeper = folder.joinpath(*levels, largest.name) if is_shared else f"folders such as {files[0].parent}"
    return f"below its first level only DICOM is looked for; give {deeper}"


def _images_in(
    folder: Path, any_modality: bool, passed_over: list[Path], deeper: list[Path]
) -> Iterator[Path]:
    """The images of a folder; notes DICOM folders without any, and image files below the first level."""
    yield from _image_files(folder, os.listdir(folder))
    seen: set[Path] = set()
    for parent, folders, files in os.walk(folder, onerror=_warn_of_unreadable, followlinks=True):
        if (real := Path(parent).resolve()) in seen:
            folders.clear()  # a link to where we have been
            continue
        seen.add(real)
        folders.sort()
        is_of_labels = Path(parent).name.startswith("labels") or is_table(Path(parent, FOLDER_TABLE))
        if parent != str(folder) and not is_of_labels:
            deeper += _image_files(Path(parent), files)
        dicom = _dicom_files(Path(parent), files)
        if (first := next(dicom, None)) is None:
            continue
        if any(_may_be_scan(file, any_modality) for file in chain([first], dicom)):
            yield Path(parent)
        else:
            passed_over.append(Path(parent))


def _image_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Those of some files that are images, and neither results of a batch nor label maps."""
    results = results_in(folder)
    paths = [folder / name for name in sorted(names) if _is_image(name) and name not in results]
    return [path for path in paths if path.is_file() and not is_label_map(path)]


def _warn_of_unreadable(error: OSError) -> None:
    logger.warning("%s cannot be read (%s) and is left out.", error.filename, error.strerror or error)


def _is_image(name: str) -> bool:
    is_segmentation = name.lower().endswith(".seg.nrrd")
    return bool(image_suffix(Path(name))) and not is_segmentation and not name.startswith(".")


def results_in(folder: Path) -> set[str]:
    """Names of the segmentations that a batch has written into a folder, by its summary."""
    try:
        with (folder / SUMMARY_FILE).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return {name for row in csv.DictReader(file) if (name := row.get("segmentation"))}
    except (OSError, csv.Error):
        return set()


def is_label_map(path: Path) -> bool:
    """Whether a file has a table; where there are both NAME.nii and NAME.nii.gz, one of them is an image."""
    if image_suffix(path) not in (".nii", ".nii.gz"):
        return False
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    return is_table(table_path(path)) and not twin.exists()


def _dicom_files(folder: Path, files: list[str]) -> Iterator[Path]:
    names = (name for name in sorted(files) if name != "DICOMDIR" and not name.startswith("."))
    paths = (folder / name for name in names if not name.lower().endswith(_NEVER_DICOM))
    return filter(_is_dicom, paths)


def _is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM or, as old ones do, begins with a data element instead."""
    try:
        return path.is_file() and (is_dicom(path) or _begins_with_element(path))  # a named pipe would block
    except OSError:
        return False


def _may_be_scan(path: Path, any_modality: bool) -> bool:
    """Whether the storage class of a DICOM file leaves it open that it is a CT, or any image."""
    kind = storage_class(path)
    if kind is None or kind in (*CT_CLASSES, SECONDARY_CAPTURE):  # converters give a CT the latter class
        return True
    return any_modality and kind.removeprefix(_STORAGE).split(".")[0] not in _NO_SCANS


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

    Paths that Windows or macOS take for one, see `folded`, are numbered.

    Raises:
        InputError: no such names tell them apart.
    """
    stems = [(image.parent, folded(_stem(image))) for image in images]
    places = [folded(str(image)) for image in images]
    twins = Counter(stem for stem, _ in set(zip(stems, places, strict=True)))
    last = [
        image.name if twins[stem] > 1 else _stem(image) for image, stem in zip(images, stems, strict=True)
    ]
    names = _numbered(_with_parents(images, last, places))
    for name, count in Counter(map(folded, names)).items():
        if count > 1:
            raise InputError(f"{count} images would all be called {name}; rename one of them.")
    return names


def _with_parents(images: list[Path], last: list[str], places: list[str]) -> list[str]:
    """Names with parent folders put before them until no other place has the same."""
    depths = [0] * len(images)
    while True:
        names = [
            "_".join([*_last_parts(image.parent, depth), name])
            for image, depth, name in zip(images, depths, last, strict=True)
        ]
        counts = Counter(name for name, _ in set(zip(map(folded, names), places, strict=True)))
        deeper = [
            depth + (counts[folded(name)] > 1 and depth < len(image.parent.parts) - 1)
            for name, image, depth in zip(names, images, depths, strict=True)
        ]
        if deeper == depths:
            return names
        depths = deeper


def _numbered(names: list[str]) -> list[str]:
    """Names of which the second and further ones of the same letters end with a number."""
    numbered: list[str] = []
    seen: Counter[str] = Counter()
    for name in names:
        seen[folded(name)] += 1
        number = seen[folded(name)]
        numbered.append(f"{name}_{number}" if number > 1 else name)
    return numbered


def _stem(image: Path) -> str:
    if not image.name:  # a drive or share of Windows as a whole, such as D:\
        return allowed(image.anchor).strip("_") or "images"
    return image.name if image.is_dir() else image_stem(image)


def _last_parts(folder: Path, number: int) -> tuple[str, ...]:
    return folder.parts[len(folder.parts) - number :]
