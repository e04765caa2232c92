"""A small collection of real files: noise with a bright box in each image, labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from PartialSegLib.manifest import Preprocessing, Task
from PartialSegLib.training.collection import Case, Collection, DataSet
from PartialSegLib.volume import Volume, write_volume

SHAPE = (20, 24, 28)
SPACING = (2.0, 1.0, 1.5)
PREPROCESSING = Preprocessing("SAR", (2.0, 1.0, 1.5), (-1000, 1000), divide=1000, pad_value=-1000)
TASKS = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("spleen", {"spleen": 0}))
DATA_SETS = {
    "livers": DataSet("livers", "liver", {"liver": (1, 2), "liver_tumor": (2,)}),
    "organs": DataSet("organs", "liver", {"liver": (1,)}, ignore=(3,)),
    "spleens": DataSet("spleens", "spleen", {"spleen": (1,)}),
}
LIVER = np.s_[4:14, 5:15, 6:20]
TUMOR = np.s_[6:9, 7:11, 8:12]
UNKNOWN = np.s_[16:19, 2:6, 2:6]


def affine_of(spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    """Axes that grow upwards, to the front and to the right: "SAR"."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, ::-1].T
    return affine


def arrays(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A CT (HU) whose liver is bright, and its labels: 1 liver, 2 tumour, 3 unknown."""
    labels = np.zeros(shape, np.uint8)
    labels[LIVER], labels[TUMOR], labels[UNKNOWN] = 1, 2, 3
    image = np.random.default_rng(seed).integers(-60, 60, shape) + 500 * ((labels == 1) | (labels == 2))
    image[:, :, 0] = -1000  # air
    return image.astype(np.int16), labels


def write_collection_files(folder: Path, **cases: str) -> Collection:
    """Write a case for each name and its data set, and return their collection."""
    made = []
    for seed, (name, data_set) in enumerate(cases.items()):
        image, labels = arrays(seed)
        write_volume(folder / f"{name}.nii", Volume(image, affine_of()))
        write_volume(folder / f"{name}-label.nii", Volume(labels, affine_of()))
        made.append(Case(name, data_set, f"{name}.nii", f"{name}-label.nii"))
    return Collection("small", folder, DATA_SETS, tuple(made))
