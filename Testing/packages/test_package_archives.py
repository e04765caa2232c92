"""Archives that are damaged or mean harm are refused as a whole, with one sentence, before unpacking."""

from __future__ import annotations

import hashlib
import random
import stat
import zipfile
from pathlib import Path

import pytest
from hostile_zips import member, patched
from small_packages import WEIGHTS, assert_refused, assert_sound, write_package, zip_package

from PartialSegLib.errors import InputError
from PartialSegLib.packages.installation import install_package


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "C:/evil", "C:evil", "a\\..\\evil", "//host/share/evil"]
)
def test_a_member_that_leads_outside_is_refused(archive: Path, models: Path, name: str):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(member(name), b"evil")
    assert_refused(archive, models, "which leads outside the package; zip the package's folder again")
    assert not list(models.parent.rglob("*evil*"))


def test_a_member_that_is_a_link_is_refused(archive: Path, models: Path):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(member("tiny/link", external_attr=(stat.S_IFLNK | 0o777) << 16), b"/etc/passwd")
    assert_refused(archive, models, "'tiny/link', which is a link or a device instead of a file")


@pytest.mark.parametrize("again", ["tiny/LICENSE", "tiny/License", "./tiny/LICENSE"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(archive: Path, models: Path, again: str):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(member(again), b"Another licence.\n")
    assert_refused(archive, models, "LICENSE' more than once")


def test_an_encrypted_archive_is_refused(archive: Path, models: Path):
    def encrypt(info: zipfile.ZipInfo) -> None:
        info.flag_bits |= 1

    assert_refused(
        patched(archive, "tiny/LICENSE", encrypt), models, "is encrypted; zip the package's folder again"
    )


def test_other_compressions_are_refused(archive: Path, models: Path):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("tiny/more", b"more", zipfile.ZIP_LZMA)
    assert_refused(archive, models, "in a compression other than deflate")


def test_a_member_larger_than_its_manifest_says_is_not_unpacked(archive: Path, models: Path):
    def grow(info: zipfile.ZipInfo) -> None:
        info.file_size += 1

    assert_refused(patched(archive, "tiny/LICENSE", grow), models, "unpacks to 12 bytes, expected at most 11")


def test_a_member_that_unpacks_to_more_than_it_announces_is_stopped(package: Path, models: Path):
    (package / "LICENSE").write_bytes(b"A licence.\n" + bytes(1_000_000))

    def understate(info: zipfile.ZipInfo) -> None:
        info.file_size = 11

    bomb = patched(zip_package(package, models.parent / "bomb.zip", "tiny/"), "tiny/LICENSE", understate)
    assert_refused(bomb, models, "LICENSE in .* is damaged")


def test_bombs_are_refused_before_unpacking(package: Path, models: Path, tmp_path: Path):
    (package / "zeros").write_bytes(bytes(20_000_000))
    assert_refused(zip_package(package, tmp_path / "zeros.zip"), models, "over 100 times its size")

    def overstate(info: zipfile.ZipInfo) -> None:
        info.file_size = 1 << 40

    (package / "zeros").write_bytes(b"")
    huge = patched(zip_package(package, tmp_path / "huge.zip"), "zeros", overstate)
    assert_refused(huge, models, "a package to 17179869184 at most")

    def overlap(info: zipfile.ZipInfo) -> None:
        info.compress_size = 2 * len(WEIGHTS)

    overlapping = patched(zip_package(package, tmp_path / "overlap.zip"), "zeros", overlap)
    assert_refused(overlapping, models, "announces more bytes than it has")


def test_too_many_members_are_refused(archive: Path, models: Path):
    with zipfile.ZipFile(archive, "a") as file:
        for number in range(1000):
            file.writestr(f"tiny/{number}", b"")
    assert_refused(archive, models, "holds 1006 files, a package at most 1000")


def test_an_archive_without_or_with_several_packages_is_refused(package: Path, models: Path, tmp_path: Path):
    deep = zip_package(package, tmp_path / "deep.zip", "a/b/")
    assert_refused(deep, models, "it has no model.json at its top or in one folder")
    zip_package(package, tmp_path / "two.zip", "a/")
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as file:
        file.write(package / "model.json", "b/model.json")
    assert_refused(tmp_path / "two.zip", models, r"holds several packages \(a, b\); zip and install them one")


def test_a_manifest_of_megabytes_is_refused(package: Path, models: Path, tmp_path: Path):
    write_package(package, training={"log": "x" * 5_000_000})
    assert_refused(package, models, "model.json has more than 4194304 bytes")
    stored = tmp_path / "stored.zip"
    with zipfile.ZipFile(stored, "w") as file:
        file.write(package / "model.json", "model.json")
    assert_refused(stored, models, "model.json in .* unpacks to .* bytes, expected at most 4194304")


def test_an_archive_with_any_byte_changed_is_installed_unchanged_or_refused(models: Path, tmp_path: Path):
    package = write_package(tmp_path / "small")
    (package / "weights.safetensors").write_bytes(b"")
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    write_package(package, files={"weights.safetensors": entry})
    (package / "weights.safetensors").write_bytes(b"")
    original = zip_package(package, tmp_path / "small.zip").read_bytes()
    damaged, generator, refused = tmp_path / "damaged.zip", random.Random(1), 0
    for _ in range(120):
        contents = bytearray(original)
        contents[generator.randrange(len(contents))] ^= 1 << generator.randrange(8)
        damaged.write_bytes(contents)
        try:
            installed = install_package(damaged, replace=True)
        except InputError:
            refused += 1
        else:
            assert (installed / "model.json").read_bytes() == (package / "model.json").read_bytes()
            assert_sound(installed)
    assert refused > 30
