"""Volumes: geometry, orientation, reading and writing; every expected value follows from the construction."""

import itertools
import re
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from PartialSegLib.errors import InputError
from PartialSegLib.volume import (
    Volume,
    check_extent,
    check_hounsfield,
    find_doubt,
    read_ct,
    read_volume,
    reorient,
    write_volume,
)

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the folder ../shared/data is absent")

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*pairs)
]
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


def positions(volume: Volume) -> dict[int, tuple[float, ...]]:
    """RAS position of each voxel, by its (unique) value."""
    return {
        int(value): tuple(np.round(volume.affine @ (*index, 1.0), 6))
        for index, value in np.ndenumerate(volume.array)
    }


def test_spacing_and_voxel_volume_follow_from_the_affine():
    volume = ct()
    assert volume.spacing == pytest.approx((2.5, 0.9, 0.8))
    assert volume.voxel_volume == pytest.approx(1.8)
    assert ct(affine=oblique_affine()).spacing == pytest.approx((2.5, 0.9, 0.8))
    assert ct(affine=oblique_affine()).voxel_volume == pytest.approx(1.8)


def test_numpy_takes_a_volume_for_its_voxels():
    volume = ct()
    assert np.array_equal(np.asarray(volume), volume.array)
    assert np.asarray(volume, np.float32).dtype == np.float32
    assert np.mean(volume) == volume.array.mean()
    assert not np.shares_memory(np.array(volume), volume.array)


def test_a_notebook_shows_the_grid_of_a_volume():
    assert repr(ct()) == "Volume(3 × 4 × 5, int16, 2.5 × 0.9 × 0.8 mm, SAR)"


def test_a_volume_of_a_list_is_refused():
    with pytest.raises(InputError, match=r"needs a numpy array \(z, y, x\), not a list; make one with numpy"):
        Volume([[[1, 2]]], np.eye(4))


@pytest.mark.parametrize(
    ("columns", "orientation"),
    [
        ([[0, 0, 1], [0, 1, 0], [1, 0, 0]], "SAR"),
        ([[0, 0, -1], [0, -1, 0], [1, 0, 0]], "SPL"),
        ([[1, 0, 0], [0, 0, -1], [0, -1, 0]], "RIP"),
        ([[0.1, 0.2, 0.99], [0.1, -0.98, 0.2], [-0.99, 0.1, 0.1]], "IPR"),
    ],
)
def test_orientation_names_where_each_index_grows_to(columns, orientation):
    affine = np.eye(4)
    left, _, right = np.linalg.svd(np.array(columns, float))
    affine[:3, :3] = left @ right  # the closest orthogonal axes
    assert ct(affine=affine).orientation == orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorienting_moves_no_voxel_on_the_patient(orientation):
    volume = Volume(np.arange(24).reshape(2, 3, 4), oblique_affine())
    turned = reorient(volume, orientation)
    assert turned.orientation == orientation
    assert positions(turned) == positions(volume)
    assert np.shares_memory(turned.array, volume.array)
    back = reorient(turned, volume.orientation)
    assert np.array_equal(back.array, volume.array)
    assert back.affine == pytest.approx(volume.affine)


@pytest.mark.parametrize("code", ["", "SA", "SAA", "SAX", "sar", "SARS", "RLA"])
def test_an_impossible_orientation_is_refused(code):
    with pytest.raises(InputError, match="is not an orientation"):
        reorient(ct(), code)


@pytest.mark.parametrize(
    ("row", "column", "change", "is_same"),
    [
        (0, 3, 0.009, True),  # the origin moves by less than the tolerance of 0.01 mm
        (0, 3, 0.011, False),
        (2, 0, 0.004, True),  # the last of three slices moves by twice the change of the spacing
        (2, 0, 0.006, False),
    ],
)
def test_geometry_is_compared_at_the_corners(row, column, change, is_same):
    affine = PLAIN.copy()
    affine[row, column] += change
    assert ct().same_geometry(ct(affine=affine)) == is_same
    assert ct().same_geometry(ct(affine=affine), tolerance=0.1)
    assert not ct().same_geometry(ct((3, 4, 6)))


def test_with_array_keeps_the_grid_and_refuses_another_shape():
    volume = ct()
    assert volume.with_array(volume.array > 0).same_geometry(volume)
    with pytest.raises(InputError, match="does not fit"):
        volume.with_array(np.zeros((3, 4, 6)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("affine", [PLAIN, LEFT_HANDED, oblique_affine()], ids=["plain", "left", "oblique"])
def test_written_volumes_read_back_equal(tmp_path, suffix, affine):
    volume = ct(affine=affine)
    write_volume(tmp_path / f"ct{suffix}", volume)
    back = read_volume(tmp_path / f"ct{suffix}")
    assert back.array.dtype == np.int16
    assert np.array_equal(back.array, volume.array)
    assert back.affine == pytest.approx(affine, rel=1e-6, abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"ct{suffix}"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_series_of_one_volume_is_a_volume(tmp_path, suffix):
    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(ct().array)])
    SimpleITK.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    assert np.array_equal(read_volume(tmp_path / f"ct{suffix}").array, ct().array)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", (0, 255), "int16"),
        ("uint16", (0, 4095), "int16"),
        ("uint16", (0, 40000), "float32"),
        ("int32", (-1024, 3000), "int16"),
        ("float32", (-1024.0, 3000.0), "int16"),
        ("float64", (-1024.0, 0.5), "float32"),
        ("float32", (-1024.0, 1e6), "float32"),
    ],
)
def test_whole_numbers_are_kept_as_int16_where_nothing_is_lost(tmp_path, dtype, values, expected):
    array = np.resize(np.array(values, dtype), (2, 3, 4))
    write_volume(tmp_path / "ct.nii.gz", Volume(array, PLAIN))
    back = read_volume(tmp_path / "ct.nii.gz").array
    assert back.dtype == expected
    assert back == pytest.approx(array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 5), (2000, 2, 3)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_single_voxels_single_slices_and_long_scans_are_volumes(tmp_path, shape, suffix):
    write_volume(tmp_path / f"ct{suffix}", ct(shape))
    assert read_volume(tmp_path / f"ct{suffix}").shape == shape


def test_writing_the_same_volume_twice_gives_the_same_bytes(tmp_path):
    for name in ("first.nii.gz", "second.nii.gz"):
        write_volume(tmp_path / name, ct())
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()


def test_masks_and_views_can_be_written(tmp_path):
    volume = ct()
    write_volume(tmp_path / "mask.nii.gz", reorient(volume.with_array(volume.array > 0), "LIP"))
    back = reorient(read_volume(tmp_path / "mask.nii.gz"), volume.orientation)
    assert np.array_equal(back.array, volume.array > 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    "dtype",
    [
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
        "float16", "float32", "float64", ">i2", ">f4",
    ],
)  # fmt: skip
def test_every_real_type_can_be_written(tmp_path, dtype, suffix):
    array = np.array([0, 1, 0, 1, 1, 100], dtype).reshape(1, 2, 3)
    write_volume(tmp_path / f"ct{suffix}", Volume(array, PLAIN))
    assert np.array_equal(read_volume(tmp_path / f"ct{suffix}").array, array)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
@pytest.mark.parametrize("time", [False, True], ids=["", "time"])
def test_nrrd_files_may_use_any_patient_coordinates(tmp_path, caplog, space, signs, time):
    array, steps, origin = ct().array, (0.8, 0.9, 2.5), [1.0, 2.0, 3.0]
    if time:
        array, steps, origin = array[np.newaxis], (*steps, 30.0), [*origin, 60.0]
        space += "T" if space.isupper() else "-time"
    header = {"space": space, "space directions": np.diag(steps), "space origin": origin}
    nrrd.write(str(tmp_path / "ct.nrrd"), array, header, index_order="C")
    volume = read_volume(tmp_path / "ct.nrrd")
    assert not caplog.messages
    assert np.array_equal(volume.array, ct().array)
    assert volume.affine[:3, 3] == pytest.approx(np.multiply(signs, (1, 2, 3)))
    assert volume.affine[:3, :3] @ (1, 1, 1) == pytest.approx(np.multiply(signs, (0.8, 0.9, 2.5)))


@pytest.mark.parametrize("frames_axis", [0, 3])
def test_a_list_of_one_volume_in_an_nrrd_file_is_this_volume(tmp_path, frames_axis):
    header = {
        "space": "RAS",
        "kinds": np.insert(["domain"] * 3, frames_axis, "list").tolist(),
        "space directions": np.insert(np.diag((0.8, 0.9, 2.5)), frames_axis, np.nan, axis=0),
        "space origin": [1.0, 2.0, 3.0],
    }
    nrrd.write(str(tmp_path / "ct.nrrd"), np.expand_dims(ct().array.T, frames_axis), header)
    volume = read_volume(tmp_path / "ct.nrrd")
    assert np.array_equal(volume.array, ct().array)
    assert volume.spacing == pytest.approx((2.5, 0.9, 0.8))


def body(air: float = -1000, organ: float = 50, fraction: float = 0.3) -> Volume:
    array = np.full((10, 10, 10), air, np.float32)
    array.reshape(-1)[: int(1000 * fraction)] = organ
    return Volume(array, np.eye(4))


def padded(volume: Volume) -> Volume:
    volume.array[:, 0] = -2000
    return volume


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (body(), None),
        (body(air=-3024), None),
        (body(air=-1000, organ=-1000), "constant"),
        (Volume(np.zeros((1, 1, 1), np.int16), np.eye(4)), "constant"),
        (body(air=0, organ=255), "8-bit"),
        (body(air=0, organ=1800), "MR"),
        (body(air=-3, organ=1200), "MR"),
        (body(air=24, organ=1074), "not rescaled"),
        (
            padded(body(air=24, organ=1074)),
            "But for a padding of -2000 .* between 24 and 1074 .* not rescaled",
        ),
        (padded(body()), None),
        (padded(body(air=-1000, organ=1074)), "soft tissue"),
        (body(air=-1000, organ=2000), "soft tissue"),
        (body(fraction=0.005), "soft tissue"),
    ],
)
def test_values_that_are_not_hounsfield_units_are_recognised(volume, reason):
    sentence = check_hounsfield(volume)
    assert sentence is None if reason is None else re.search(reason, sentence)


@pytest.mark.parametrize(
    ("shape", "step", "width"),
    [
        ((10, 10, 10), 1, "10 mm"),
        ((128, 128, 120), 0.0015, "0.192 mm"),
        ((1, 2, 2001), 1.5, "3.0 m"),
        ((40, 512, 512), 700, "358.4 m"),
        ((1, 1, 20), 1, None),
        ((600, 2, 3), 5, None),
    ],
)
def test_sizes_that_no_patient_has_are_recognised(shape, step, width):
    volume = Volume(np.broadcast_to(np.int16(0), shape), np.diag([step, step, step, 1]))
    expected = width and f"The image is {width} wide; the spacing may be in other units than mm"
    assert check_extent(volume) == expected
    if expected:
        assert find_doubt(volume) == f"{expected}; correct it"


def test_what_is_hardly_a_ct_is_taken_with_a_warning_when_it_is_forced(tmp_path, caplog):
    path = tmp_path / "mr.mha"
    write_volume(path, Volume(body(air=0, organ=1800).array, np.diag([5.0, 5.0, 5.0, 1.0])))
    for advice, end in (("", "; give a CT in HU."), ("add --force", "; give a CT in HU, or add --force.")):
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: The values lie .*{end}$"):
            read_ct(path, advice=advice)
    assert not caplog.messages
    assert read_ct(path, is_forced=True, advice="add --force").shape == (10, 10, 10)
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: The values lie between 0 and 1800")


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "shape", "spacing", "orientation"),
    [
        ("ct_thorax_upper_abdomen.nii.gz", (164, 126, 120), (1.5, 1.5, 1.5), "SPL"),
        ("ct_lung/ct_lung.nii.gz", (129, 157, 115), (2.5, 1.366, 1.366), "SPL"),
        ("ct_abdomen_contrast_dicom", (41, 512, 512), (5, 0.796875, 0.796875), "SPL"),
        ("dicom_ct_3slices", (3, 512, 512), (1, 0.810547, 0.810547), "SPL"),
    ],
)
def test_real_cts_are_read_as_hounsfield_units(name, shape, spacing, orientation):
    volume = read_volume(SHARED_DATA / name)
    assert volume.shape == shape
    assert volume.spacing == pytest.approx(spacing, rel=1e-4)
    assert volume.orientation == orientation
    assert volume.array.dtype == np.int16
    assert check_hounsfield(volume) is None


@needs_shared_data
def test_a_label_map_is_not_taken_for_a_ct():
    volume = read_volume(SHARED_DATA / "spl_abdominal_atlas_labels.nrrd")
    assert volume.orientation == "IAL"
    assert "without any air" in (check_hounsfield(volume) or "")
