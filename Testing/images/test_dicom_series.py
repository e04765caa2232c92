"""Folders with DICOM files: what of them is read, and where it lies."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_folders import CT_IMAGE, IMAGE, SHAPE, Series, write_series, write_slice
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.__main__ import main
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.volume import read_volume

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
SCREENSHOT = "1.2.840.10008.5.1.4.1.1.7"


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
    listed = r"'abdomen', 5 images, UID 1\.2\.3; CT 'arterial', 5 images, UID 1\.2\.4"
    with pytest.raises(InputError, match=rf"2 series of the folder will do.*{listed}.*--series"):
        read_volume(folder)


@pytest.mark.parametrize("wanted", ["1.2.3", "Portal"])
def test_one_of_several_series_is_chosen_by_uid_or_description(tmp_path, wanted, capsys):
    folder = write_series(tmp_path / "ct", Series(description="abdomen portal venous"))
    write_series(folder, Series(uid="1.2.34", description="abdomen arterial", step=(0, 0, 3)), "arterial")
    assert read_volume(folder, series=wanted).spacing[0] == pytest.approx(2.5)
    assert main(["info", str(folder), "--series", wanted]) == 0
    assert "2.5 mm" in capsys.readouterr().out
    package = write_tiny_model(tmp_path / "tiny", TASKS, Preprocessing("SAR", (5, 4, 4), (-325, 325)))
    out, given = tmp_path / "out.nii.gz", ["--model", str(package), "--series", wanted, "--force"]
    assert main(["segment", str(folder), "-o", str(out), *given]) == 0
    assert read_volume(out).spacing[0] == pytest.approx(2.5)
    for ambiguous, count in (("abdomen", 2), ("late", 0)):
        with pytest.raises(InputError, match=rf"'{ambiguous}' is .* of {count} series.*'abdomen arterial'"):
            read_volume(folder, series=ambiguous)
    with pytest.raises(InputError, match=r"A series is chosen in a folder"):
        read_volume(folder / "slice-0.dcm", series=wanted)


@pytest.mark.parametrize(
    "beside",
    [
        Series(uid="1.2.4", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"),
        Series(image_type="ORIGINAL\\PRIMARY\\LOCALIZER"),
        Series(uid="1.2.4", sop_class=SCREENSHOT),
    ],
    ids=["scout", "scout in the series", "dose report"],
)
def test_scouts_and_screenshots_are_passed_over_unless_there_is_nothing_else(tmp_path, beside):
    folder = write_series(tmp_path / "ct")
    (tmp_path / "alone").mkdir()
    for path in (folder, tmp_path / "alone"):
        write_slice(path / "beside.dcm", replace(beside, orientation=(1, 0, 0, 0, 0, -1)), 7, IMAGE[0])
    assert np.array_equal(read_volume(folder).array, IMAGE)
    assert np.array_equal(read_volume(tmp_path / "alone").array, IMAGE[:1])


@pytest.mark.parametrize(
    ("series", "sentence"),
    [
        (Series(skipped=(2,)), "Slices are missing or unevenly spaced: 5 mm between"),
        (Series(step=(0, 0.4, 2.5)), "gantry tilt"),
        (Series(step=(0, 0, 0)), "same place"),
        (Series(shift=(40, 0, 0)), r"shifted within their planes: slice-1\.dcm lies 40 mm beside"),
        (Series(shift=(0, -0.41, 0)), r"slice-1\.dcm lies 0\.41 mm beside"),
    ],
    ids=["missing", "tilted", "doubled", "shifted", "shifted by half a voxel"],
)
def test_slices_that_fill_no_regular_grid_are_refused(tmp_path, series, sentence):
    with pytest.raises(InputError, match=sentence):
        read_volume(write_series(tmp_path / "ct", series))


@pytest.mark.parametrize(
    "series",
    [
        Series(shift=(0.39, 0, 0.1)),
        Series(step=(0, -1.4434, 2.5), orientation=(1, 0, 0, 0, 0.8660, 0.5), shift=(0, 5e-4, 5e-4)),
    ],
    ids=["by less than half a voxel", "by rounding, oblique"],
)
def test_slices_may_lie_a_little_beside_their_places(tmp_path, series):
    assert np.array_equal(read_volume(write_series(tmp_path / "ct", series)).array, IMAGE)


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


def test_a_slice_for_which_gdcm_gives_up_the_folder_is_named(tmp_path):
    folder = write_series(tmp_path / "ct")
    slice_4 = pydicom.dcmread(folder / "slice-4.dcm")
    slice_4.SamplesPerPixel = 2
    slice_4.save_as(folder / "slice-4.dcm")
    with pytest.raises(InputError, match=r"slice-4.dcm is truncated or damaged"):
        read_volume(folder)


@pytest.mark.parametrize("name", ["slice-4.dcm", "IM.104"])
@pytest.mark.parametrize("left", [b"", bytes(1000), None])
def test_a_slice_of_which_nothing_is_left_is_refused(tmp_path, name, left):
    folder = write_series(tmp_path / "ct")
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / name.replace("4", str(number)))
    lost = folder / name
    lost.write_bytes(lost.read_bytes()[:100] if left is None else left)
    with pytest.raises(InputError, match=rf"{name} is truncated or damaged"):
        read_volume(folder)


def test_other_files_beside_a_series_are_no_slices(tmp_path):
    folder = write_series(tmp_path / "ct")
    (folder / "README").write_text("Made by a scanner.")
    (folder / "notes.txt").touch()
    (folder / "._slice-4.dcm").write_bytes(bytes(120))
    assert np.array_equal(read_volume(folder).array, IMAGE)


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """A data element in explicit VR little endian."""
    length = struct.pack("<HI", 0, len(value)) if kind == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


def write_without_image(path: Path, storage_class: str) -> None:
    uid = storage_class.encode() + b"\0" * (len(storage_class) % 2)
    meta = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", uid)
    meta += element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    size = element(2, 0, b"UL", struct.pack("<I", len(meta)))
    body = element(8, 0x16, b"UI", uid) + element(8, 0x60, b"CS", b"RTSTRUCT")
    path.write_bytes(bytes(128) + b"DICM" + size + meta + body)


def test_a_structure_set_beside_the_series_is_passed_over(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_without_image(folder / "structures.dcm", STRUCTURE_SET)
    assert np.array_equal(read_volume(folder).array, IMAGE)


@pytest.mark.parametrize("length", [None, 132, 140, 170])
def test_a_damaged_image_beside_the_series_is_no_structure_set(tmp_path, length):
    folder = write_series(tmp_path / "ct")
    write_without_image(folder / "damaged.dcm", CT_IMAGE)
    (folder / "damaged.dcm").write_bytes((folder / "damaged.dcm").read_bytes()[:length])
    with pytest.raises(InputError, match=r"damaged\.dcm is truncated or damaged"):
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


def test_oblique_slices_are_sorted_along_their_normal_not_from_feet_to_head(tmp_path):
    series = Series(step=(0, 2.1651, -1.25), orientation=(1, 0, 0, 0, -0.5, -0.8660))
    assert np.array_equal(read_volume(write_series(tmp_path / "ct", series)).array, IMAGE)


def test_the_distance_of_slices_is_that_of_the_whole_stack(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct", Series(skipped=(0,), shift=(0, 0, 0.1))))
    assert volume.spacing[0] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("series", "sentence"),
    [
        (Series(shift=(0, 0, 0.5)), "unevenly spaced: 3 mm between"),
        (Series(shift=(0, 0, -0.5)), "unevenly spaced: 2 mm between"),
        (Series(step=(0, 0.05, 2.5)), "gantry tilt"),
    ],
)
def test_small_irregularities_are_refused_too(tmp_path, series, sentence):
    with pytest.raises(InputError, match=sentence):
        read_volume(write_series(tmp_path / "ct", series))


@pytest.mark.parametrize("orientation", [(-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0)])
def test_a_mirrored_slice_is_refused(tmp_path, orientation):
    folder = write_series(tmp_path / "ct", Series(skipped=(4,)))
    write_slice(folder / "last.dcm", Series(orientation=orientation), 4, IMAGE[4])
    with pytest.raises(InputError, match=r"differs from .* in size, pixel spacing or orientation"):
        read_volume(folder)


def test_a_slice_of_another_size_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct", Series(skipped=(4,)))
    write_slice(folder / "last.dcm", Series(), 4, IMAGE[4, :-1])
    with pytest.raises(InputError, match=r"differs from .* in size, pixel spacing or orientation"):
        read_volume(folder)


def test_a_multi_frame_file_is_refused(tmp_path):
    (tmp_path / "ct").mkdir()
    image = SimpleITK.GetImageFromArray(IMAGE)
    image.SetMetaData("0008|0060", "CT")
    SimpleITK.WriteImage(image, str(tmp_path / "ct" / "all.dcm"))
    with pytest.raises(InputError, match=r"all\.dcm is a multi-frame DICOM file"):
        read_volume(tmp_path / "ct")


def test_a_slice_that_lies_nowhere_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct")
    first = folder / "slice-0.dcm"
    first.write_bytes(first.read_bytes().replace(b"-10\\-20\\30", b"nan\\-20\\30"))
    with pytest.raises(InputError, match=r"slice-0\.dcm does not say where its slice lies"):
        read_volume(folder)


def test_a_slice_cut_within_a_preamble_that_is_not_empty_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct")
    (folder / "slice-4.dcm").write_bytes(b"II*\0" * 25)
    with pytest.raises(InputError, match=r"slice-4\.dcm is truncated or damaged"):
        read_volume(folder)


def test_two_scouts_without_a_scan_are_listed(tmp_path):
    (tmp_path / "ct").mkdir()
    for uid in ("1.2.3", "1.2.4"):
        scout = Series(uid=uid, image_type="ORIGINAL\\PRIMARY\\LOCALIZER")
        write_slice(tmp_path / "ct" / f"{uid}.dcm", scout, 0, IMAGE[0])
    with pytest.raises(InputError, match="2 series of the folder will do"):
        read_volume(tmp_path / "ct")


def test_beside_a_ct_another_modality_is_read_only_by_its_name(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_series(folder, Series(uid="1.2.4", modality="PT", description="uptake", step=(0, 0, 3)), "pet")
    assert read_volume(folder, any_modality=True).spacing[0] == pytest.approx(2.5)
    assert read_volume(folder, any_modality=True, series="uptake").spacing[0] == pytest.approx(3)
    with pytest.raises(InputError, match="'uptake' is the UID or in the description of 0 series"):
        read_volume(folder, series="uptake")


def test_a_damaged_ct_image_beside_a_series_of_another_kind_is_refused(tmp_path):
    magnetic_resonance = "1.2.840.10008.5.1.4.1.1.4"
    folder = write_series(tmp_path / "mr", Series(modality="MR", sop_class=magnetic_resonance))
    write_without_image(folder / "damaged.dcm", CT_IMAGE)
    with pytest.raises(InputError, match=r"damaged\.dcm is truncated or damaged"):
        read_volume(folder, any_modality=True)


def test_values_between_whole_numbers_are_kept(tmp_path, monkeypatch):
    half = np.full(SHAPE[1:], 0.5, np.float32)
    monkeypatch.setattr("PartialSegLib.images.dicom_series._read_plane", lambda item: half)
    assert (read_volume(write_series(tmp_path / "ct")).array == 0.5).all()
