"""Folders with DICOM files, written here slice by slice with positions that are known."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from PartialSegLib.errors import InputError
from PartialSegLib.volume import read_volume

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(1).integers(-1024, 1500, SHAPE).astype(np.int16)


@dataclass(frozen=True)
class Series:
    """A series to be written: position of slice k is origin + k * step (LPS mm)."""

    uid: str = "1.2.3"
    modality: str = "CT"
    description: str = "abdomen"
    step: tuple[float, float, float] = (0, 0, 2.5)
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float] = (0.9, 0.8)
    skipped: tuple[int, ...] = ()


def write_slice(path: Path, series: Series, index: int, plane: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(plane[np.newaxis])
    image.SetSpacing((series.spacing[1], series.spacing[0], 1))
    position = np.array((-10, -20, 30)) + index * np.array(series.step)
    rows, columns = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    image.SetDirection(np.stack([rows, columns, np.cross(rows, columns)], axis=1).ravel().tolist())
    image.SetOrigin(position.tolist())
    tags = {
        "0008|0060": series.modality,
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
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


def write_series(folder: Path, series: Series = Series(), prefix: str = "slice") -> Path:
    """Write the slices under names whose order is not that of their positions."""
    folder.mkdir(exist_ok=True)
    for index in range(SHAPE[0]):
        if index not in series.skipped:
            write_slice(folder / f"{prefix}-{(index * 3) % 5}.dcm", series, index, IMAGE[index])
    return folder


def test_slices_are_sorted_by_position_and_placed_on_the_patient(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct"))
    assert np.array_equal(volume.array, IMAGE)
    expected = np.array([[0, 0, -0.8, 10], [0, -0.9, 0, 20], [2.5, 0, 0, 30], [0, 0, 0, 1]])
    assert volume.affine == pytest.approx(expected)


def test_slices_stacked_downwards_are_read_along_their_normal(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct", Series(step=(0, 0, -2.5))))
    assert np.array_equal(volume.array, IMAGE[::-1])
    assert volume.orientation == "SPL"
    assert volume.affine[:3, 3] == pytest.approx((10, 20, 20))


def test_coronal_slices_keep_their_orientation(tmp_path):
    series = Series(step=(0, 2.5, 0), orientation=(1, 0, 0, 0, 0, -1))
    assert read_volume(write_series(tmp_path / "ct", series)).orientation == "PIL"


def test_a_single_slice_takes_its_thickness_as_spacing(tmp_path):
    (tmp_path / "ct").mkdir()
    write_slice(tmp_path / "ct" / "1.dcm", Series(), 0, IMAGE[0])
    assert read_volume(tmp_path / "ct").spacing == pytest.approx((2.5, 0.9, 0.8))


def test_other_modalities_and_other_files_beside_the_ct_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_series(folder, Series(uid="1.2.4", modality="PT"), prefix="pet")
    (folder / "notes.txt").write_text("not an image")
    assert np.array_equal(read_volume(folder).array, IMAGE)


def test_another_modality_is_read_only_when_asked_for(tmp_path):
    folder = write_series(tmp_path / "mr", Series(modality="MR", description="T1 axial"))
    with pytest.raises(InputError, match=r"no CT series but MR 'T1 axial', 5 images.*--force"):
        read_volume(folder)
    assert np.array_equal(read_volume(folder, any_modality=True).array, IMAGE)


def test_several_series_are_listed(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_series(folder, Series(uid="1.2.4", description="arterial"), prefix="arterial")
    with pytest.raises(InputError, match=r"2 CT series.*'abdomen', 5 images.*'arterial', 5 images"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("series", "sentence"),
    [
        (Series(skipped=(2,)), "Slices are missing or unevenly spaced: 5 mm between"),
        (Series(step=(0, 0.4, 2.5)), "gantry tilt"),
        (Series(step=(0, 0, 0)), "same place"),
    ],
    ids=["missing", "tilted", "doubled"],
)
def test_slices_that_fill_no_regular_grid_are_refused(tmp_path, series, sentence):
    with pytest.raises(InputError, match=sentence):
        read_volume(write_series(tmp_path / "ct", series))


def test_slices_of_different_pixel_spacing_are_refused(tmp_path):
    folder = write_series(tmp_path / "ct", Series(skipped=(4,)))
    write_slice(folder / "last.dcm", replace(Series(), spacing=(0.9, 0.7)), 4, IMAGE[4])
    with pytest.raises(InputError, match=r"differs from .* in size, pixel spacing or orientation"):
        read_volume(folder)


def test_a_truncated_slice_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct")
    content = (folder / "slice-4.dcm").read_bytes()
    (folder / "slice-4.dcm").write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"slice-4.dcm is truncated or damaged"):
        read_volume(folder)


def test_a_folder_without_dicom_is_refused_in_one_sentence(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match="holds no DICOM images"):
        read_volume(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the folder ../shared/data is absent")
def test_a_real_series_has_the_voxels_and_places_that_itk_finds():
    folder = SHARED_DATA / "dicom_ct_3slices"
    volume = read_volume(folder)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(names)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(image))
    for index in ((0, 0, 0), (2, 511, 511)):
        lps = image.TransformIndexToPhysicalPoint(index[::-1])
        assert (-lps[0], -lps[1], lps[2]) == pytest.approx((volume.affine @ (*index, 1))[:3], abs=1e-3)
