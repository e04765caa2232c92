"""Files that are not one usable volume: each is refused with a sentence of its own, not with a traceback."""

import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from full_disk import full_disk

from PartialSegLib.errors import InputError
from PartialSegLib.files import output_files
from PartialSegLib.files.output_files import replacing
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import write_segmentation
from PartialSegLib.volume import Volume, read_volume, write_volume

NAN, INFINITY = float("nan"), float("inf")
VALUES = np.random.default_rng(2).integers(-1024, 1500, (6, 16, 16)).astype(np.int16)
PIXDIM_Y, PIXDIM = (84, "f"), (80, "3f")
SIZE, DATATYPE, VOXELS_AT = (42, "3h"), (70, "h"), (108, "f")
SFORM_CODE, SFORM = (254, "h"), (280, "12f")


def nifti_with(*edits: tuple[tuple[int, str], tuple[float, ...]]) -> Callable[[Path], Path]:
    """Make a function that writes a .nii file and overwrites header fields."""

    def write(folder: Path) -> Path:
        path = folder / "ct.nii"
        write_volume(path, Volume(VALUES, np.eye(4)[[2, 1, 0, 3]]))
        content = bytearray(path.read_bytes())
        for (offset, form), values in edits:
            struct.pack_into("<" + form, content, offset, *values)
        path.write_bytes(content)
        return path

    return write


def bytes_named(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def truncated(name: str, keep: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_volume(folder / name, Volume(VALUES, np.eye(4)))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep) if keep < 1 else -4])
        return folder / name

    return write


def damaged_mha(folder: Path) -> Path:
    """Zeros in the middle of the voxels, which MetaIO hands over half unpacked."""
    write_volume(folder / "ct.mha", Volume(VALUES, np.eye(4)))
    content = (folder / "ct.mha").read_bytes()
    middle = len(content) * 2 // 3
    (folder / "ct.mha").write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    return folder / "ct.mha"


def mhd_with_half_its_zraw(folder: Path) -> Path:
    path = folder / "ct.mhd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VALUES), str(path), useCompression=True)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "CompressedDataSize" not in line))
    assert np.array_equal(read_volume(path).array, VALUES)
    voxels = (folder / "ct.zraw").read_bytes()
    (folder / "ct.zraw").write_bytes(voxels[: len(voxels) // 2])
    return path


def image_named(name: str, array: np.ndarray, is_vector: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=is_vector), str(folder / name))
        return folder / name

    return write


def edited_header(name: str, old: bytes, new: bytes) -> Callable[[Path], Path]:
    """Make a function that writes an uncompressed text-header image with one header entry replaced."""

    def write(folder: Path) -> Path:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VALUES), str(folder / name))
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))
        return folder / name

    return write


def with_voxel(value: float) -> Callable[[Path], Path]:
    array = VALUES.astype(np.float32)
    array[4, 3, 2] = value
    return image_named("ct.nii.gz", array)


def zipped(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: bytes_named("ct.nii.gz", gzip.compress(write(folder).read_bytes()))(folder)


def rgb_nifti(folder: Path) -> Path:
    return nifti_with(((70, "h"), (128,)))(folder)


NRRD_AXES = b"(1,0,0) (0,1,0) (0,0,1)"
NRRD_HEADER = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
NRRD_OF_FRAMES = (
    NRRD_HEADER.replace(b"dimension: 3\nsizes: 7 6 5", b"dimension: 4\nsizes: 7 6 5 2")
    + b"space: LPS\nkinds: domain domain domain list\nspace directions: " + NRRD_AXES + b" none\n\n"
)  # fmt: skip
TEXT = b"The quick brown fox jumps over the lazy dog.\n" * 50

BAD_FILES = {
    "missing": (lambda folder: folder / "no such file.nii.gz", "no such file or folder"),
    "empty": (bytes_named("ct.nii.gz", b""), "file is empty"),
    "empty nrrd": (bytes_named("ct.nrrd", b""), "file is empty"),
    "unknown suffix": (bytes_named("ct.docx", b"PK"), "Images are read from"),
    "text": (bytes_named("ct.nii.gz", TEXT), "not a NIfTI-1 image"),
    "zipped text": (bytes_named("ct.nii.gz", gzip.compress(TEXT)), "not a NIfTI-1 image"),
    "text as nrrd": (bytes_named("ct.nrrd", TEXT), "of another kind than its name says"),
    "NIfTI-2": (nifti_with(((0, "i"), (540,))), "NIfTI-2 format"),
    "half a nii.gz": (truncated("ct.nii.gz", 0.5), "truncated"),
    "nii.gz without its last 4 bytes": (truncated("ct.nii.gz", 1), "truncated"),
    "start of a nii.gz": (truncated("ct.nii.gz", 0.01), "truncated"),
    "half a nii": (truncated("ct.nii", 0.5), "truncated"),
    "little of a nii": (truncated("ct.nii", 0.2), "truncated"),
    "half an nrrd": (truncated("ct.nrrd", 0.5), "truncated"),
    "half an mha": (truncated("ct.mha", 0.5), "truncated"),
    "damaged mha": (damaged_mha, "damaged"),
    "half a zraw": (mhd_with_half_its_zraw, "truncated"),
    "bzip2 nrrd": (edited_header("ct.nrrd", b"encoding: raw", b"encoding: bzip2"), "compressed with bzip2"),
    "nhdr alone": (bytes_named("ct.nhdr", NRRD_HEADER + b"data file: ct.raw\n"), "ct.raw, are missing"),
    "units that differ": (
        edited_header("ct.nrrd", b"kinds:", b'space units: "mm" "mm" "cm"\nkinds:'),
        "different units .mm, mm, cm.",
    ),
    "2-D nii": (image_named("ct.nii.gz", VALUES[0]), "2-D, a 3-D volume is needed"),
    "2-D nrrd": (image_named("ct.nrrd", VALUES[0]), "2-D, a 3-D volume is needed"),
    "4-D nii": (image_named("ct.nii.gz", np.stack([VALUES] * 3)), "4-D with 3 volumes"),
    "4-D mha": (image_named("ct.mha", np.stack([VALUES] * 2)), "4-D with 2 volumes"),
    "4-D nrrd": (bytes_named("ct.nrrd", NRRD_OF_FRAMES + bytes(2 * VALUES.nbytes)), "4-D with 2 volumes"),
    "RGB nii": (rgb_nifti, "3 values per voxel"),
    "vector nii": (image_named("ct.nii", np.stack([VALUES] * 2, -1), True), "2 values per voxel"),
    "RGB nrrd": (image_named("ct.nrrd", np.zeros((3, 4, 5, 3), np.uint8), True), "3 values per voxel"),
    "no voxels": (nifti_with(((40, "4h"), (3, 16, 0, 6))), "impossible size"),
    "more voxels than bytes": (
        nifti_with((SIZE, (32767,) * 3)),
        "3424 bytes are too few for the 32767 x 32767 x 32767 voxels",
    ),
    "more voxels than zipped bytes": (
        zipped(nifti_with((SIZE, (32767,) * 3), (DATATYPE, (64,)))),
        "truncated or damaged",
    ),
    "voxels at no byte": (nifti_with((VOXELS_AT, (NAN,))), "voxels begin at byte nan"),
    "voxels at an infinite byte": (zipped(nifti_with((VOXELS_AT, (INFINITY,)))), "begin at byte inf"),
    "voxels behind the end": (zipped(nifti_with((VOXELS_AT, (1e30,)))), "truncated or damaged"),
    "zero spacing": (nifti_with((PIXDIM_Y, (0,))), "spacing is 1 x 0 x 1 mm"),
    "negative spacing": (nifti_with((PIXDIM_Y, (-2,))), "spacing is 1 x -2 x 1 mm"),
    "NaN spacing": (nifti_with((PIXDIM_Y, (NAN,))), "spacing is 1 x nan x 1 mm"),
    "infinite spacing": (nifti_with((PIXDIM_Y, (INFINITY,))), "spacing is 1 x inf x 1 mm"),
    "zero spacing in nrrd": (edited_header("ct.nrrd", NRRD_AXES, b"(1,0,0) (0,0,0) (0,0,1)"), "1 x 0 x 1 mm"),
    "NaN spacing in nrrd": (
        edited_header("ct.nrrd", NRRD_AXES, b"(nan,nan,nan) (0,1,0) (0,0,1)"),
        "nan x 1 x 1",
    ),
    "zero spacing in mha": (edited_header("ct.mha", b"Spacing = 1 1 1", b"Spacing = 1 0 1"), "1 x 0 x 1 mm"),
    "negative spacing in mha": (
        edited_header("ct.mha", b"Spacing = 1 1 1", b"Spacing = -1 1 1"),
        "-1 x 1 x 1",
    ),
    "NaN spacing in mha": (edited_header("ct.mha", b"Spacing = 1 1 1", b"Spacing = nan 1 1"), "nan x 1 x 1"),
    "fewer than no axes in mha": (edited_header("ct.mha", b"NDims = 3", b"NDims = -1"), "damaged"),
    "far too many axes in mha": (edited_header("ct.mha", b"NDims = 3", b"NDims = 99"), "damaged"),
    "dots as spacing in mha": (edited_header("ct.mha", b"Spacing = 1 1 1", b"Spacing = .. 1 1"), "damaged"),
    "no spacing in mha": (edited_header("ct.mha", b"Spacing = 1 1 1", b"Spacing = "), "damaged"),
    "two dots in nrrd": (edited_header("ct.nrrd", NRRD_AXES, b"(1,0,0) (0,1..,0) (0,0,1)"), "damaged"),
    "sheared sform": (nifti_with((SFORM, (1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))), "sheared.* 73.30 degrees"),
    "sheared nrrd": (edited_header("ct.nrrd", NRRD_AXES, b"(1,0.3,0) (0,1,0) (0,0,1)"), "sheared"),
    "singular sform": (nifti_with((SFORM, (1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0))), "singular"),
    "singular nrrd": (edited_header("ct.nrrd", NRRD_AXES, b"(1,0,0) (1,0,0) (0,0,1)"), "singular"),
    "sform without an axis": (nifti_with((SFORM, (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0))), "1 x 0 x 1 mm"),
    "NaN in the sform": (nifti_with((SFORM, (1, 0, 0, NAN, 0, 1, 0, 0, 0, 0, 1, 0))), "finite numbers"),
    "contradicting spacings": (
        nifti_with((PIXDIM, (1, 1, 3))),
        "contradicts itself.* 1 x 1 x 3 mm .* 1 x 1 x 1 mm",
    ),
    "NaN voxel": (with_voxel(NAN), "NaN or infinite .first in slice 4."),
    "infinite voxel": (with_voxel(-INFINITY), "NaN or infinite .first in slice 4."),
}


@pytest.mark.parametrize(("write", "sentence"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_with_its_sentence(tmp_path, write, sentence):
    path = write(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("array", "affine", "sentence"),
    [
        (np.zeros((4, 5)), np.eye(4), "non-empty array"),
        (np.zeros((2, 0, 5)), np.eye(4), "non-empty array"),
        (np.zeros((2, 3, 4), complex), np.eye(4), "real numbers"),
        (np.zeros((2, 3, 4)), np.eye(3), "4 x 4"),
        (np.zeros((2, 3, 4)), np.full((4, 4), NAN), "finite"),
        (np.zeros((2, 3, 4)), np.diag((1, 0, 1, 1)), "spacing is 1 x 0 x 1 mm"),
        (np.zeros((2, 3, 4)), np.ones((4, 4)) * [[1], [1], [1], [0]] + np.diag((0, 0, 0, 1)), "singular"),
    ],
)
def test_a_volume_made_in_python_is_checked_too(array, affine, sentence):
    with pytest.raises(InputError, match=sentence):
        Volume(array, affine)


@pytest.mark.parametrize("cosine", [0.0009, -0.0009, 0.0011, -0.0011])
def test_axes_may_miss_the_right_angle_by_a_thousandth(cosine):
    affine = np.eye(4)
    affine[:2, 0] = np.sqrt(1 - cosine**2), cosine
    if abs(cosine) < 1e-3:
        assert Volume(VALUES, affine).spacing == pytest.approx((1, 1, 1))
    else:
        with pytest.raises(InputError, match="sheared"):
            Volume(VALUES, affine)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, name):
    write_volume(tmp_path / name, Volume(VALUES[:1], np.eye(4)))
    old = (tmp_path / name).read_bytes()
    with full_disk(), pytest.raises(InputError, match=f"Cannot write .*{name}: .*free some space"):
        write_volume(tmp_path / name, Volume(VALUES, np.eye(4)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == old


@pytest.mark.parametrize("name", ["liver.nii.gz", "liver.seg.nrrd", "folder"])
def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch, name):
    on_disk, named, flushed = set(), set(), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.add(os.fstat(descriptor).st_ino))
    replace = os.replace

    def check(source, target):
        files = [path for path in (Path(source), *Path(source).rglob("*")) if path.is_file()]
        assert {path.stat().st_ino for path in files} <= on_disk
        named.update(path.name for path in files)
        flushed.append(len(on_disk))
        replace(source, target)

    monkeypatch.setattr(os, "replace", check)
    segmentation = Segmentation(VALUES.shape, np.eye(4))
    segmentation.add("liver", "liver", None, VALUES > 0)
    write_segmentation(tmp_path / name, segmentation)
    assert len(named) == (1 if name == "liver.seg.nrrd" else 2)
    assert flushed[0] == len(named)  # all are there before the first rename


def write_folder(path: Path) -> None:
    with replacing(path, outdated=("d", "missing")) as folder:
        folder.mkdir()
        for name in "abc":
            (folder / name).write_text("new")


@pytest.mark.parametrize(("has_links", "failing"), [(True, 1), (True, 4), (False, 2), (False, 6)])
def test_a_folder_gets_all_new_files_or_none(tmp_path, monkeypatch, has_links, failing):
    for name in ("a", "c", "d", "other"):
        (tmp_path / name).write_text("old")
    if not has_links:  # as on exFAT
        monkeypatch.setattr(os, "link", lambda source, target: os.rmdir(source))
    replace, calls = os.replace, []

    def refuse_once(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise PermissionError(13, "The file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    monkeypatch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 0)
    with pytest.raises(InputError, match="in use"):
        write_folder(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "old", "c": "old", "d": "old", "other": "old"
    }  # fmt: skip
    write_folder(tmp_path)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "new", "new", "old"]


def test_what_another_program_looks_at_is_replaced_when_it_is_done(tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def refuse_once(source, target):
        calls.append(target)
        if len(calls) == 1:
            raise PermissionError(13, "The file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    monkeypatch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 2)
    write_folder(tmp_path / "new")
    assert len(calls) == 2
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_a_file_that_stays_open_in_a_folder_leaves_nothing_of_the_attempt(tmp_path, monkeypatch):
    for name in ("a", "c"):
        (tmp_path / name).write_text("old")
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith("c"):  # Windows lets it be linked, but not replaced
            raise PermissionError(13, "The file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 0)
    with pytest.raises(InputError, match="in use"):
        write_folder(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "c": "old"}


def test_a_lock_in_a_folder_that_windows_does_not_let_be_written_to_is_told_soon(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output_files.os, "name", "nt")
    monkeypatch.setattr(output_files.os, "open", refuse)
    monkeypatch.setattr(output_files, "_PATIENCE_SECONDS", 0.2)
    with (
        pytest.raises(InputError, match=r"\.lock: Permission denied"),
        output_files.locked(tmp_path / ".lock"),
    ):
        pass


@pytest.mark.parametrize("start", ["x" * 248, "é" * 124])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, start):
    write_volume(tmp_path / f"{start}.nii.gz", Volume(VALUES, np.eye(4)))
    assert [path.name for path in tmp_path.iterdir()] == [f"{start}.nii.gz"]


def test_units_and_the_space_of_an_nrrd_are_heeded(tmp_path, caplog):
    units = edited_header("ct.nrrd", b"kinds:", b'space units: "um" "um" "um"\nkinds:')
    assert read_volume(units(tmp_path)).spacing == pytest.approx((0.001, 0.001, 0.001))
    assert not caplog.text
    scanner = edited_header("ct.nrrd", b"left-posterior-superior", b"scanner-xyz")
    assert read_volume(scanner(tmp_path)).spacing == (1, 1, 1)
    assert "in the space 'scanner-xyz'" in caplog.text


def test_bytes_behind_a_whole_gzip_stream_are_passed_over(tmp_path):
    path = tmp_path / "ct.nii.gz"
    write_volume(path, Volume(VALUES, np.eye(4)))
    content = path.read_bytes()
    path.write_bytes(content + b"signature")
    assert np.array_equal(read_volume(path).array, VALUES)
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])  # another checksum
    with pytest.raises(InputError, match="damaged"):
        read_volume(path)


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"Cannot write .*file.ct.nii.gz: .*choose another place"):
        write_volume(tmp_path / "file" / "ct.nii.gz", Volume(VALUES, np.eye(4)))


def test_an_unknown_output_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match="A volume is written as"):
        write_volume(tmp_path / "ct.png", Volume(VALUES, np.eye(4)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
@pytest.mark.parametrize("name", [b"M\xfcller.mha", b"M\xfcller", b"ct"])
def test_a_name_that_is_not_utf8_is_one_sentence(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    if path.suffix:
        write_volume(tmp_path / "ct.mha", Volume(VALUES, np.eye(4)))
        (tmp_path / "ct.mha").rename(path)
    else:  # a folder with slices
        path.mkdir()
        (path / os.fsdecode(b"schn\xe4tt.dcm")).write_bytes(bytes(128) + b"DICM")
    command = [sys.executable, "-m", "PartialSegLib", "info", os.fsencode(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"is not valid UTF-8; rename the file" in done.stderr
