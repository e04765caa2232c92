"""Folders with DICOM files, written slice by slice with positions that are known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK

SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(1).integers(-1024, 1500, SHAPE).astype(np.int16)
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
FRAME = "1.2.3.4"


@dataclass(frozen=True)
class Series:
    """A series to be written: position of slice k is origin + k * step (LPS mm), of slice 2 also + shift."""

    uid: str = "1.2.3"
    modality: str = "CT"
    description: str = "abdomen"
    step: tuple[float, float, float] = (0, 0, 2.5)
    shift: tuple[float, float, float] = (0, 0, 0)
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float] = (0.9, 0.8)
    skipped: tuple[int, ...] = ()
    image_type: str = "ORIGINAL\\PRIMARY\\AXIAL"
    sop_class: str = CT_IMAGE


def write_slice(path: Path, series: Series, index: int, plane: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(plane[np.newaxis])
    image.SetSpacing((series.spacing[1], series.spacing[0], 1))
    position = (
        np.array((-10, -20, 30)) + index * np.array(series.step) + (index == 2) * np.array(series.shift)
    )
    rows, columns = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    image.SetDirection(np.stack([rows, columns, np.cross(rows, columns)], axis=1).ravel().tolist())
    image.SetOrigin(position.tolist())
    tags = {
        "0008|0060": series.modality,
        "0008|0008": series.image_type,
        "0008|0016": series.sop_class,
        "0008|0018": f"{series.uid}.{index + 1}",
        "0008|103e": series.description,
        "0020|000d": "1.2",
        "0020|000e": series.uid,
        "0020|0032": "\\".join(f"{value:g}" for value in position),
        "0020|0037": "\\".join(f"{value:g}" for value in series.orientation),
        "0018|0050": "2.5",
    }
    for key, value in tags.items():
        image.SetMetaData(key, value)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    if series.sop_class != CT_IMAGE:  # ITK writes it for other classes only after it has read a file
        written = pydicom.dcmread(path)
        written.PixelSpacing = list(series.spacing)
        written.save_as(path)


def write_series(folder: Path, series: Series = Series(), prefix: str = "slice") -> Path:
    """Write the slices under names whose order is not that of their positions."""
    folder.mkdir(exist_ok=True)
    for index in range(SHAPE[0]):
        if index not in series.skipped:
            write_slice(folder / f"{prefix}-{(index * 3) % 5}.dcm", series, index, IMAGE[index])
    return folder


def write_study(folder: Path, series: Series = Series(), **values: Any) -> Path:
    """A series with what every scanner writes; a value of None is left out."""
    write_series(folder, series, prefix=series.uid)
    values = {"FrameOfReferenceUID": FRAME, "PatientName": "Doe^Jane", "StudyDate": "20200102"} | values
    for path in folder.glob(f"{series.uid}-*"):
        image = pydicom.dcmread(path)
        for name, value in values.items():
            if value is not None:
                setattr(image, name, value)
        image.save_as(path)
    return folder
