"""Reading and writing a segmentation in whichever format the name of its file says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded
from ..segmentation import Segmentation
from . import dicom_seg, dicom_seg_reading, label_maps, mask_folders, seg_nrrd

SEGMENTATION_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".dcm")
"""Of the files that `write_segmentation` writes; every other name is that of a folder."""
_OTHER_FILES = (
    ".nrrd .nhdr .mha .mhd .raw .zraw .hdr .img .mgz .ima .npy .npz .png .jpg .jpeg .tif .tiff .stl .vtk"
    " .vtp .ply .obj .mrb .mrml .h5 .gz .bz2 .xz .zip .tar .7z .json .csv .tsv .xlsx .xml .txt .pdf"
)


def write_segmentation(
    path: str | Path,
    segmentation: Segmentation,
    source: str | Path | None = None,
    *,
    any_modality: bool = False,
    series: str | None = None,
) -> None:
    """Write a segmentation on the grid of its image; equal input gives equal bytes, but for DICOM.

    Args:
        path: What is written depends on its suffix.
            NAME.seg.nrrd is written as Slicer does: segments may overlap, with names, colours and SNOMED CT
            codes. NAME.nii.gz and NAME.nii become one label map with NAME.labels.csv beside it, where vessels
            within organs are written over organs, and lesions over both; see `label_maps.write_label_map`.
            NAME.dcm becomes a DICOM segmentation, which needs highdicom and the source; see
            `dicom_seg.write_dicom_seg`.
            Any other name, unless it is that of another kind of file, becomes a folder with one
            STRUCTURE.nii.gz for each mask, and labels.csv; a text that ends with "/" always does.
        segmentation: What to write.
        source: For NAME.dcm the folder with the DICOM series that was segmented.
        any_modality: Of the source, as for `read_volume`.
        series: Of the source, as for `read_volume`.

    Raises:
        InputError: When it is no segmentation, the name is that of another kind of file, or the file cannot
            be written.
    """
    if not isinstance(segmentation, Segmentation):
        raise InputError(
            "A Segmentation can be written, such as predict(task) returns, not a "
            f"{type(segmentation).__name__}."
        )
    is_folder = str(path).endswith(("/", os.sep))
    path = expanded(path)
    match "" if is_folder else segmentation_suffix(path):
        case ".seg.nrrd":
            seg_nrrd.write_seg_nrrd(path, segmentation)
        case ".dcm":
            dicom_seg.write_dicom_seg(path, segmentation, source, any_modality=any_modality, series=series)
        case "":
            mask_folders.write_mask_folder(path, segmentation)
        case _:
            label_maps.write_label_map(path, segmentation)


def segmentation_suffix(path: Path) -> str:
    """Return which of `SEGMENTATION_SUFFIXES` a path ends with, or nothing where it is that of a folder.

    Raises:
        InputError: When the name is that of another kind of file, or such a file is there.
    """
    name = path.name.lower()
    if suffix := next((suffix for suffix in SEGMENTATION_SUFFIXES if name.endswith(suffix)), ""):
        return suffix
    if path.is_file() or (path.suffix.lower() in _OTHER_FILES.split() and not path.is_dir()):
        choices = ", ".join(SEGMENTATION_SUFFIXES)
        raise InputError(f"{path}: A segmentation is written as {choices} or into a folder; choose one.")
    return ""


def read_segmentation(path: str | Path, labels: Mapping[str, tuple[int, ...]] | None = None) -> Segmentation:
    """Read what `write_segmentation` writes, also after it was edited in Slicer, or a label map of nnU-Net.

    Args:
        path: A .seg.nrrd file, a DICOM segmentation (.dcm, or a folder with nothing else in it; needs
            highdicom, see `dicom_seg_reading`), a label map with its NAME.labels.csv, a mask named
            STRUCTURE.nii.gz, or a folder of such masks. Segments from elsewhere get the task "" and their
            name, in lower case with "_", as structure.
        labels: The values of each structure, for a label map without table; None takes them from the
            dataset.json of nnU-Net or the Decathlon, if there is one.

    Raises:
        InputError: When there is no readable segmentation.
    """
    path = expanded(path)
    if path.suffix.lower() == ".dcm":
        return dicom_seg_reading.read_dicom_seg(path)
    if path.is_dir() and (alone := dicom_seg_reading.only_dicom_seg(path)):
        return dicom_seg_reading.read_dicom_seg(alone)
    if path.name.lower().endswith((".seg.nrrd", ".seg.nhdr")):
        return seg_nrrd.read_seg_nrrd(path)
    return mask_folders.read_mask_folder(path) if path.is_dir() else label_maps.read_label_map(path, labels)
