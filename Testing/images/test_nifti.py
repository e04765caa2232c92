"""NIfTI files: the ways to state geometry, scaling and byte order; headers are edited byte by byte."""

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from PartialSegLib.volume import Volume, read_volume, write_volume

PLAIN = np.array([[0, 0, 0.8, -12.5], [0, 0.9, 0, 40.25], [2.5, 0, 0, -300], [0, 0, 0, 1]])
LEFT_HANDED = PLAIN * [[1], [-1], [1], [1]]


def oblique_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 37), degrees=True).as_matrix() * (2.5, -0.9, 0.8)
    affine[:3, 3] = (-123.25, 87.5, -1012.75)
    return affine


def ct(shape: tuple[int, int, int] = (3, 4, 5), affine: np.ndarray = PLAIN) -> Volume:
    values = np.random.default_rng(0).integers(-1024, 1500, shape).astype(np.int16)
    return Volume(values, affine)


def patched_nifti(path: Path, volume: Volume, *edits: tuple[int, str, tuple[float, ...]]) -> Path:
    """Write a .nii file and overwrite header fields, each given as offset, struct format and values."""
    write_volume(path, volume)
    content = bytearray(path.read_bytes())
    for offset, form, values in edits:
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("affine", [PLAIN, LEFT_HANDED, oblique_affine()], ids=["plain", "left", "oblique"])
def test_other_programs_read_the_same_geometry_from_our_nifti(tmp_path, affine):
    write_volume(tmp_path / "ct.nii.gz", ct(affine=affine))
    image = SimpleITK.ReadImage(str(tmp_path / "ct.nii.gz"))
    for index in itertools.product((0, 2), (0, 3), (0, 4)):
        lps = image.TransformIndexToPhysicalPoint(index[::-1])
        assert (-lps[0], -lps[1], lps[2]) == pytest.approx((affine @ (*index, 1))[:3], abs=1e-3)


@given(st.tuples(*[st.floats(-180, 180)] * 3), st.sampled_from([1, -1]))
def test_the_geometry_of_nifti_is_the_same_by_sform_and_by_qform(tmp_path_factory, angles, handedness):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (
        2.5,
        0.9,
        0.8 * handedness,
    )
    affine[:3, 3] = (-20, 35.5, 90)
    path = tmp_path_factory.mktemp("qform") / "ct.nii"
    patched_nifti(path, ct(affine=affine), (254, "h", (0,)))  # no sform: the qform counts
    assert read_volume(path).affine == pytest.approx(
        affine, abs=5e-3
    )  # float32 cannot hold half a turn more exactly


def test_nifti_without_sform_and_qform_is_placed_as_itk_does_with_a_warning(tmp_path, caplog):
    path = patched_nifti(tmp_path / "ct.nii", ct(), (252, "hh", (0, 0)))
    expected = np.array([[0, 0, -0.8, 0], [0, -0.9, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]])
    assert read_volume(path).affine == pytest.approx(expected)
    image = SimpleITK.ReadImage(str(path))
    assert image.GetOrigin() == (0, 0, 0)
    assert np.reshape(image.GetDirection(), (3, 3)) == pytest.approx(np.eye(3))  # LPS
    assert "does not say how the patient lies" in caplog.text


def test_a_qform_that_contradicts_the_sform_is_warned_of(tmp_path, caplog):
    mirrored = PLAIN * [[-1], [1], [1], [1]]
    srow = mirrored[:3, [2, 1, 0, 3]].ravel()
    path = patched_nifti(tmp_path / "ct.nii", ct(), (254, "h", (2,)), (280, "12f", srow))
    assert read_volume(path).affine == pytest.approx(mirrored)
    assert (
        f"{path}: The header contradicts itself: sform and qform place the image up to 25 mm" in caplog.text
    )


@pytest.mark.parametrize("quaternion", [None, (float("inf"), 0, float("nan"))])
def test_a_qform_that_differs_by_rounding_or_is_none_is_not_warned_of(tmp_path, caplog, quaternion):
    affine = Rotation.from_euler("z", 179.99, degrees=True).as_matrix() * 0.9
    volume = Volume(np.zeros((512, 512, 1), np.uint8), np.block([[affine, np.ones((3, 1))], [0, 0, 0, 1]]))
    edits = [(256, "3f", quaternion)] if quaternion else []
    read_volume(patched_nifti(tmp_path / "ct.nii", volume, *edits))
    assert not caplog.text


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_nifti_units_of_length_are_converted_to_mm(tmp_path, unit, factor):
    path = patched_nifti(tmp_path / "ct.nii", ct(), (123, "b", (unit,)))
    assert read_volume(path).spacing == pytest.approx((2.5 * factor, 0.9 * factor, 0.8 * factor))


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1, -1024), (2, 0), (0.5, -10.25), (0, 99), (float("nan"), 0)]
)
def test_nifti_scaling_is_applied_unless_its_slope_is_void(tmp_path, slope, intercept):
    volume = ct()
    path = patched_nifti(tmp_path / "ct.nii", volume, (112, "ff", (slope, intercept)))
    void = slope == 0 or np.isnan(slope)
    expected = volume.array if void else volume.array * slope + intercept
    assert read_volume(path).array == pytest.approx(expected)


def test_big_endian_nifti_is_read(tmp_path):
    volume = ct()
    write_volume(tmp_path / "little.nii", volume)
    content = (tmp_path / "little.nii").read_bytes()
    formats = {0: "i", 40: "8h", 70: "hh", 76: "8f", 108: "3f", 252: "hh", 256: "18f"}
    header = bytearray(content[:352])
    for offset, form in formats.items():
        struct.pack_into(">" + form, header, offset, *struct.unpack_from("<" + form, content, offset))
    (tmp_path / "big.nii").write_bytes(bytes(header) + volume.array.astype(">i2").tobytes())
    assert np.array_equal(read_volume(tmp_path / "big.nii").array, volume.array)
    assert read_volume(tmp_path / "big.nii").affine == pytest.approx(volume.affine)


def test_gzip_is_recognised_by_content_not_by_name(tmp_path):
    write_volume(tmp_path / "ct.nii", ct())
    (tmp_path / "plain.nii.gz").write_bytes((tmp_path / "ct.nii").read_bytes())
    (tmp_path / "zipped.nii").write_bytes(gzip.compress((tmp_path / "ct.nii").read_bytes()))
    for name in ("plain.nii.gz", "zipped.nii"):
        assert np.array_equal(read_volume(tmp_path / name).array, ct().array)


UNITS, SFORM_CODE, QFORM_CODE = 123, 254, 252


@pytest.mark.parametrize(("units", "factor"), [(2 | 8, 1), (1, 1000), (1 | 8, 1000), (3 | 16, 0.001)])
def test_units_of_time_beside_those_of_space_change_nothing_and_places_have_units_too(
    tmp_path, caplog, units, factor
):
    volume = ct()
    path = patched_nifti(tmp_path / "ct.nii", volume, (UNITS, "b", (units,)))
    assert read_volume(path).affine[:3] == pytest.approx(volume.affine[:3] * factor, rel=1e-6)
    assert not caplog.messages


@pytest.mark.parametrize("missing", [SFORM_CODE, QFORM_CODE])
def test_one_statement_of_the_geometry_is_enough(tmp_path, caplog, missing):
    path = patched_nifti(tmp_path / "ct.nii", ct(), (missing, "h", (0,)))
    assert read_volume(path).affine == pytest.approx(PLAIN, abs=1e-4)
    assert not caplog.messages


def test_a_contradiction_at_the_end_of_the_longest_axis_is_told(tmp_path, caplog):
    """Two spacings that differ by 0.8 % are 1.9 mm apart after 300 columns."""
    path = patched_nifti(tmp_path / "ct.nii", ct((2, 2, 301)), (280, "f", (0.8064,)))
    read_volume(path)
    assert "sform and qform place the image up to 2 mm apart" in caplog.text


def test_voxels_begin_behind_the_header_where_it_does_not_say_where(tmp_path):
    path = patched_nifti(tmp_path / "ct.nii", ct(), (108, "f", (0,)))
    assert np.array_equal(read_volume(path).array, ct().array)


def test_a_scaling_without_a_finite_intercept_is_none(tmp_path):
    path = patched_nifti(tmp_path / "ct.nii", ct(), (112, "2f", (2, np.nan)))
    assert np.array_equal(read_volume(path).array, ct().array)
