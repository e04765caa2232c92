"""Reading of the anatomical atlas, with a body of boxes that has a label of every tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from PartialSegLib import InputError, Volume, write_volume
from PartialSegLib.phantom import Tissue
from PartialSegLib.training.atlas import SPACING, read_atlas

SHAPE = (40, 110, 120)
TOP = 25  # row above which there is none of the organs that lie below the diaphragm
ORGANS = {  # label: z, y, x
    3: ((8, TOP), (40, 80), (60, 92)),  # liver
    4: ((12, 22), (36, 56), (24, 36)),  # spleen
    6: ((14, 17), (60, 66), (40, 58)),  # pancreas
    10: ((10, 13), (80, 84), (66, 72)),  # gallbladder
    9: ((5, 8), (60, 84), (40, 60)),  # colon
    13: ((16, 24), (60, 82), (30, 50)),  # stomach
    51: ((6, 18), (30, 44), (70, 84)),  # right kidney
    52: ((6, 18), (30, 34), (36, 40)),  # left kidney, thin
    141: ((6, 8), (30, 34), (50, 52)),  # renal pelvis
    7: ((0, 40), (38, 43), (56, 60)),  # aorta
    8: ((0, 40), (38, 43), (62, 66)),  # vena cava
    11: ((16, 18), (50, 54), (56, 60)),  # portal vein
    151: ((12, 20), (58, 60), (70, 80)),  # vessel of the liver
    111: ((18, 20), (46, 48), (72, 76)),  # adrenal gland
    301: ((0, 40), (20, 30), (54, 66)),  # vertebrae
    551: ((20, 22), (20, 30), (54, 66)),  # disc
}


def body_of_boxes() -> np.ndarray:
    _, y, x = np.indices(SHAPE)
    radius = np.hypot((y - 55) / 48, (x - 60) / 55)
    labels = np.where((radius < 1) & (radius > 0.9), 32, 0).astype(np.int16)  # muscle all around
    for label, bounds in ORGANS.items():
        labels[tuple(slice(*pair) for pair in bounds)] = label
    labels[:, 22:25, 58:62] = 0  # the spinal canal
    return labels


def write_labels(path: Path, labels: np.ndarray) -> Path:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = SPACING
    affine[3, 3] = 1
    write_volume(path, Volume(labels, affine))
    return path


@pytest.fixture(scope="module")
def tissues(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return read_atlas(write_labels(tmp_path_factory.mktemp("atlas") / "atlas.nrrd", body_of_boxes()))


def test_the_atlas_becomes_tissues_with_a_chest_on_top(tissues: np.ndarray) -> None:
    assert tissues.dtype == np.uint8
    assert tissues.shape == (SHAPE[0] - 5 + 36, *SHAPE[1:])  # its cut ends are left out
    ends = tissues[[0, -1]]
    np.testing.assert_array_equal(ends[:, 40, 58], Tissue.ARTERY)  # the vessels and bones go on
    np.testing.assert_array_equal(ends[:, 27, 60], Tissue.MARROW)
    np.testing.assert_array_equal(ends[:, 23, 60], Tissue.SPINAL_CANAL)


def test_every_voxel_of_the_body_has_a_tissue(tissues: np.ndarray) -> None:
    y, x = np.indices(SHAPE[1:])
    body = np.hypot((y - 55) / 48, (x - 60) / 55) < 1
    assert (tissues[:, body] != Tissue.AIR).all()
    outside = np.hypot((y - 55) / 48, (x - 60) / 55) > 1.1
    assert (tissues[:, outside] == Tissue.AIR).all()


def test_lungs_and_heart_lie_above_the_organs(tissues: np.ndarray) -> None:
    organs = np.isin(tissues, [Tissue.LIVER, Tissue.STOMACH, Tissue.SPLEEN])
    rows = {tissue: np.flatnonzero((tissues == tissue).any(axis=(1, 2))) for tissue in Tissue}
    top = np.flatnonzero(organs.any(axis=(1, 2)))[-1]
    assert top == TOP - 2  # the first row is left out
    assert rows[Tissue.LUNG][-1] == len(tissues) - 1
    assert rows[Tissue.HEART][0] > top
    assert not (tissues[: top - 2, 45:75, 65:87] == Tissue.LUNG).any()  # where the liver is
    assert np.isin(tissues[top + 3 :, 75, 80], [Tissue.LUNG, Tissue.HEART]).all()


def test_organs_get_layers(tissues: np.ndarray) -> None:
    kidney = tissues[5:17, 30:44, 70:84]
    assert (kidney[6, 1:-1, 1:-1] == Tissue.KIDNEY_CORTEX).any()
    assert kidney[6, 7, 7] == Tissue.KIDNEY_MEDULLA
    assert (kidney[[0, -1]] == Tissue.KIDNEY_CORTEX).all()
    assert (tissues[5:17, 30:34, 36:40] == Tissue.KIDNEY_CORTEX).all()  # too thin for marrow
    assert tissues[19, 71, 40] == Tissue.STOMACH
    assert tissues[19, 60, 40] == Tissue.STOMACH_WALL
    assert tissues[5, 72, 50] == Tissue.COLON
    assert tissues[5, 60, 50] == Tissue.COLON_WALL


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({3: 0}, r"atlas.nrrd has no label of liver; expected the label map of the SPL/NAC/BWH"),
        ({3: -1}, r"atlas.nrrd has values from -1 to 551; expected the label map .*, 0 to 999\.$"),
        ({3: 1000}, r"atlas.nrrd has values from 0 to 1000; expected the label map"),
    ],
)
def test_another_label_map_is_refused(tmp_path: Path, change: dict[int, int], sentence: str) -> None:
    labels = body_of_boxes()
    for before, after in change.items():
        labels[labels == before] = after
    with pytest.raises(InputError, match=sentence):
        read_atlas(write_labels(tmp_path / "atlas.nrrd", labels))
