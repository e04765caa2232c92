"""Small copies of the folders that public data sets come in, with images written by other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

MARKER = np.array([11.0, -23.0, 41.0])
"""Centre of the bright spot and of its label in every image, RAS mm."""

SHAPE = (22, 24, 14)


def affine_towards(*columns: tuple[float, float, float], center: np.ndarray = MARKER + 3) -> np.ndarray:
    """Affine (4, 4) of nibabel, from (i, j, k) to RAS mm, for an image of `SHAPE` around a point."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = center - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


TO_RIGHT_FRONT = affine_towards((2, 0, 0), (0, 2, 0), (0, 0, 4))
TO_LEFT_BACK = affine_towards((-2, 0, 0), (0, -2, 0), (0, 0, 4))
TO_LEFT_FRONT = affine_towards((-2, 0, 0), (0, 2, 0), (0, 0, 4))
DOWNWARDS = affine_towards((-2, 0, 0), (0, -2, 0), (0, 0, -4))
SLICES_FIRST = affine_towards((0, 0, -2.5), (0, -2, 0), (-3, 0, 0))
OBLIQUE = affine_towards((1.96, 0.4, 0), (-0.4, 1.96, 0), (0, 0, 4))


def distances(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Distance of every voxel (i, j, k) from the marker, mm."""
    index = np.stack([*np.indices(shape), np.ones(shape)], -1)
    return np.linalg.norm((index @ affine.T)[..., :3] - MARKER, axis=-1)


def bright_spot(affine: np.ndarray) -> np.ndarray:
    """A CT of air with a soft bright spot at the marker, (i, j, k)."""
    return np.rint(-1000 + 1700 * np.exp(-((distances(affine) / 6) ** 2) / 2)).astype(np.int16)


def spot_label(affine: np.ndarray, value: int = 1) -> np.ndarray:
    """The label map of the spot, (i, j, k)."""
    return (value * (distances(affine) < 8)).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an array (i, j, k), by nibabel also (i, j, k, channel), or by SimpleITK if it is no NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path
    image = SimpleITK.GetImageFromArray(array.transpose())
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


def save_pair(image: Path, label: Path, affine: np.ndarray, value: int = 1) -> None:
    """Write a CT and its label map."""
    save(image, bright_spot(affine), affine)
    save(label, spot_label(affine, value), affine)


def write_json(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def decathlon(root: Path, affine: np.ndarray = TO_LEFT_BACK, name: str = "Task09_Spleen") -> Path:
    folder = root / name
    labels = {"0": "background", "1": "spleen"}
    write_json(folder / "dataset.json", name="Spleen", modality={"0": "CT"}, labels=labels)
    save_pair(folder / "imagesTr/spleen_2.nii.gz", folder / "labelsTr/spleen_2.nii.gz", affine)
    (folder / "imagesTr/._spleen_2.nii.gz").write_bytes(b"left by macOS")
    save(folder / "imagesTs/spleen_1.nii.gz", bright_spot(affine), affine)
    return folder


def nnunet_v1(root: Path) -> Path:
    folder = root / "Task501_MyKidneys"
    labels = {"0": "background", "1": "Kidney", "2": "Tumour"}
    write_json(folder / "dataset.json", modality={"0": "CT"}, labels=labels)
    save_pair(folder / "imagesTr/k_1_0000.nii.gz", folder / "labelsTr/k_1.nii.gz", TO_LEFT_FRONT, 2)
    save_pair(folder / "imagesTs/k_2_0000.nii.gz", folder / "labelsTs/k_2.nii.gz", TO_LEFT_FRONT)
    return folder


def nnunet_v2(root: Path) -> Path:
    folder = root / "Dataset502_Regions"
    labels = {"background": 0, "kidney_left": [1, 2], "cyst": 2, "ignore": 3}
    write_json(
        folder / "dataset.json", channel_names={"0": "CT"}, labels=labels, file_ending=".nrrd", numTraining=1
    )
    save_pair(folder / "imagesTr/a_0000.nrrd", folder / "labelsTr/a.nrrd", OBLIQUE)
    return folder


def kits(root: Path) -> Path:
    folder = root / "kits19" / "data"
    case = folder / "case_00000"
    save_pair(case / "imaging.nii.gz", case / "segmentation.nii.gz", SLICES_FIRST)
    save(folder / "case_00210" / "imaging.nii.gz", bright_spot(SLICES_FIRST), SLICES_FIRST)
    return folder.parent


def lits(root: Path) -> Path:
    folder = root / "LiTS"
    save_pair(folder / "batch1/volume-0.nii", folder / "batch1/segmentation-0.nii", DOWNWARDS)
    save_pair(folder / "batch2/volume-28.nii", folder / "batch2/segmentation-28.nii", TO_RIGHT_FRONT, 2)
    save(folder / "test/test-volume-0.nii", bright_spot(DOWNWARDS), DOWNWARDS)
    return folder


def btcv(root: Path) -> Path:
    training = root / "Abdomen" / "RawData" / "Training"
    save_pair(training / "img/img0001.nii.gz", training / "label/label0001.nii.gz", TO_LEFT_FRONT)
    save(root / "Abdomen/RawData/Testing/img/img0061.nii.gz", bright_spot(TO_LEFT_FRONT), TO_LEFT_FRONT)
    return root / "Abdomen"


def segthor(root: Path) -> Path:
    case = root / "SegTHOR" / "train" / "Patient_01"
    save_pair(case / "Patient_01.nii.gz", case / "GT.nii.gz", TO_RIGHT_FRONT)
    return root / "SegTHOR"


def structseg(root: Path) -> Path:
    case = root / "Thoracic_OAR" / "1"
    save_pair(case / "data.nii.gz", case / "label.nii.gz", DOWNWARDS)
    return root / "Thoracic_OAR"


BRAIN_AFFINE = affine_towards((-1, 0, 0), (0, -1, 0), (0, 0, 1))


def brain_channels(affine: np.ndarray = BRAIN_AFFINE) -> dict[str, np.ndarray]:
    """FLAIR, T1, T1 with contrast and T2 of a head without skull: 0 outside, each brighter in a region."""
    distance = distances(affine)
    rng = np.random.default_rng(0)
    channels = {}
    for name, radius in {"flair": 8, "t1": 0, "t1ce": 3, "t2": 8}.items():
        tissue = 300 + 200 * (distance < radius) + rng.integers(-20, 20, SHAPE)
        channels[name] = np.where(distance < 11, tissue, 0).astype(np.int16)
    return channels


def brain_label(values: tuple[int, int, int], affine: np.ndarray = BRAIN_AFFINE) -> np.ndarray:
    """Values for the oedema, the core that does not enhance and the enhancing core, from outside inwards."""
    distance = distances(affine)
    edema, core, enhancing = values
    radii = [distance < 3, distance < 5, distance < 8]
    return np.select(radii, [enhancing, core, edema], 0).astype(np.uint8)


def brats(root: Path) -> Path:
    patient = root / "BraTS" / "HGG" / "Brats18_A_1"
    for name, channel in brain_channels().items():
        save(patient / f"{patient.name}_{name}.nii.gz", channel, BRAIN_AFFINE)
    save(patient / f"{patient.name}_seg.nii.gz", brain_label((2, 1, 4)), BRAIN_AFFINE)
    return root / "BraTS"


def decathlon_brain(root: Path) -> Path:
    folder = root / "Task01_BrainTumour"
    write_json(
        folder / "dataset.json",
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    )
    save(folder / "imagesTr/BRATS_1.nii.gz", np.stack([*brain_channels().values()], -1), BRAIN_AFFINE)
    save(folder / "labelsTr/BRATS_1.nii.gz", brain_label((1, 2, 3)), BRAIN_AFFINE)
    return folder


def nnunet_brain(root: Path) -> Path:
    folder = root / "Dataset137_BraTS"
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    write_json(folder / "dataset.json", channel_names=names, labels=labels, file_ending=".nii.gz")
    for number, name in names.items():
        path = folder / f"imagesTr/BraTS_1_000{number}.nii.gz"
        save(path, brain_channels()[name.lower()], BRAIN_AFFINE)
    save(folder / "labelsTr/BraTS_1.nii.gz", brain_label((1, 2, 3)), BRAIN_AFFINE)
    return folder


def pair(root: Path) -> Path:
    folder = root / "mine"
    save_pair(folder / "images/p.nrrd", folder / "labels/p.nii.gz", OBLIQUE, 7)
    return folder


LAYOUT_FOLDERS: dict[str, Callable[[Path], Path]] = {
    "decathlon": decathlon,
    "kits": kits,
    "lits": lits,
    "btcv": btcv,
    "segthor": segthor,
    "structseg": structseg,
    "pair": pair,
}


BRAIN_FOLDERS: dict[str, Callable[[Path], Path]] = {
    "brats": brats,
    "decathlon": decathlon_brain,
    "nnunet": nnunet_brain,
}


def totalsegmentator(root: Path, *cases: str) -> Path:
    """Cases with three masks: liver and tumour overlap at the marker, the left kidney is elsewhere."""
    folder = root / "totalsegmentator"
    for case in cases or ("s0000",):
        affine = TO_RIGHT_FRONT
        save(folder / case / "ct.nii.gz", bright_spot(affine), affine)
        near = distances(affine)
        masks = {"liver": near < 12, "a_tumor": near < 6, "kidney_left": near > 20}
        for name, mask in masks.items():
            save(folder / case / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8), affine)
    return folder


def touch_mots(root: Path) -> None:
    """Empty files in the numbers and folders of the seven data sets of MOTS."""
    for index in range(131):
        touch(
            root / "LiTS" / f"Training Batch {1 + index % 2}",
            f"volume-{index}.nii",
            f"segmentation-{index}.nii",
        )
    for index in range(210):
        touch(root / "kits19/data" / f"case_{index:05}", "imaging.nii.gz", "segmentation.nii.gz")
    for task, count in {
        "Task08_HepaticVessel": 303, "Task07_Pancreas": 281, "Task10_Colon": 126, "Task06_Lung": 63,
        "Task09_Spleen": 41,
    }.items():  # fmt: skip
        touch_task(root / task, count, "")


def touch_task(folder: Path, count: int, channel: str = "_0000") -> None:
    """Empty files of a task of the Decathlon or of nnU-Net."""
    for index in range(count):
        touch(folder, f"imagesTr/case_{index}{channel}.nii.gz", f"labelsTr/case_{index}.nii.gz")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
