"""Installing packages: complete and checked or not at all, what was installed before is never lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from full_disk import full_disk
from small_packages import WEIGHTS, assert_refused, assert_sound, write_package, zip_package
from unprivileged import run_unprivileged

from PartialSegLib.cli.segmenting import bundled_model
from PartialSegLib.errors import Cancelled, InputError
from PartialSegLib.manifest import read_manifest
from PartialSegLib.packages import installation
from PartialSegLib.packages.installation import AlreadyInstalledError, delete_package, install_package
from PartialSegLib.packages.installed import BUNDLED_MODELS, find_package, installed_packages

BUNDLED = "trunk-7tasks"


def test_a_folder_is_installed_under_the_packages_own_name(package: Path, models: Path):
    package = package.rename(package.with_name("downloaded (1)"))
    (package / "notes of mine.txt").write_text("not part of the package")

    installed = install_package(package)

    assert installed == models / "tiny" == find_package("tiny")
    assert_sound(installed)


@pytest.mark.parametrize("top", ["", "tiny/", "tiny v1.0 (final)/", "./"])
def test_a_zip_may_hold_the_files_at_its_top_or_in_a_folder(package: Path, models: Path, top: str):
    installed = install_package(zip_package(package, models.parent / "tiny.zip", top))

    assert_sound(installed)
    assert (installed / "model.json").read_bytes() == (package / "model.json").read_bytes()


def test_names_with_spaces_and_letters_of_other_alphabets_are_paths_like_others(
    package: Path, tmp_path: Path
):
    source = package.rename(package.with_name("Мой пакет 肝臓"))
    archive = zip_package(source, tmp_path / "Ärzte – Leber" / "päckchen 1.zip", "Größe 肝/")
    for number, given in enumerate((source, archive)):
        folder = tmp_path / f"Modelle für Jürgen {number}" / "modèles"
        assert install_package(given, folder) == folder / "tiny"
        assert_sound(folder / "tiny")


def test_progress_is_told_in_bytes_up_to_all(archive: Path, models: Path):
    seen: list[tuple[int, int]] = []
    install_package(archive, on_progress=lambda done, total: seen.append((done, total)))

    total = len(WEIGHTS) + len("A licence.\n")
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 3


@pytest.mark.parametrize("kind", ["package", "archive"])
def test_cancelling_leaves_nothing(request: pytest.FixtureRequest, models: Path, kind: str):
    def cancel(done: int, total: int) -> None:
        assert installed_packages()[0][0].parent == BUNDLED_MODELS  # half a package is never seen
        if done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        install_package(request.getfixturevalue(kind), on_progress=cancel)
    assert list(models.iterdir()) == []


def test_an_installed_package_is_replaced_only_when_asked_for(archive: Path, package: Path, models: Path):
    install_package(archive)
    newer = write_package(package, "2.0.0")

    with pytest.raises(InputError, match=r"tiny is installed already, in .*choose to replace it"):
        install_package(newer)
    assert_sound(models / "tiny", "1.0.0")

    install_package(newer, replace=True)
    assert_sound(models / "tiny", "2.0.0")
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_a_replacement_takes_the_folder_of_the_package_with_its_name(package: Path, models: Path):
    install_package(package).rename(models / "another folder")
    with pytest.raises(InputError, match=r"installed already, in .*another folder"):
        install_package(package)
    assert install_package(write_package(package, "2.0.0"), replace=True) == models / "another folder"
    assert [path.name for path in models.iterdir()] == ["another folder"]


def test_a_package_can_be_installed_over_itself(package: Path, models: Path):
    installed = install_package(package)
    assert_sound(install_package(installed, replace=True))


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_replacement_puts_the_old_package_back(
    archive: Path, package: Path, models: Path, monkeypatch: pytest.MonkeyPatch, failing: int
):
    install_package(archive)
    rename, calls = os.replace, []

    def refuse_once(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise PermissionError(13, "The file is in use")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    with pytest.raises(InputError, match=r"Cannot install tiny in .*in use.*close programs that use it"):
        install_package(write_package(package, "2.0.0"), replace=True)
    assert_sound(models / "tiny", "1.0.0")


def test_a_replacement_waits_for_a_virus_scanner(
    archive: Path, package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
):
    install_package(archive)
    rename, end = os.replace, time.monotonic() + 0.3

    def refuse_at_first(source: Any, target: Any) -> None:
        if time.monotonic() < end:
            raise PermissionError(13, "The file is in use")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse_at_first)
    monkeypatch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 2)
    install_package(write_package(package, "2.0.0"), replace=True)
    assert_sound(models / "tiny", "2.0.0")


def test_a_package_that_cannot_be_put_back_is_kept_and_comes_back(
    archive: Path, package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
):
    install_package(archive)
    rename, calls = os.replace, []

    def refuse_from_the_second_on(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) > 1:
            raise PermissionError(13, "The file is in use")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_from_the_second_on)
        patch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 0)
        with pytest.raises(InputError, match=r"neither replaced nor put back .*kept in .*old"):
            install_package(write_package(package, "2.0.0"), replace=True)
    install_package(write_package(models.parent / "other", name="other"))
    assert read_manifest(models / "tiny").version == "1.0.0"


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_what_a_killed_replacement_leaves_is_put_right_by_the_next_installation(
    package: Path, models: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("PartialSegLib.files.output_files._STALE_SECONDS", 0.2)  # the dead hold the lock
    install_package(package).rename(models / "folder of mine")
    newer = write_package(package, "2.0.0")
    run_killed(killed_after, "install", str(newer), "--replace")
    (left,) = models.glob(".partial-*")
    other = write_package(models.parent / "other", name="other")

    install_package(other)  # while whoever installs might still live
    version = "2.0.0" if killed_after == 2 else "1.0.0"
    assert read_manifest(models / "folder of mine").version == version
    assert left.exists()

    for path in (left, *left.rglob("*")):
        os.utime(path, times=(0, time.time() - 7 * 3600))
    install_package(other, replace=True)
    assert_sound(models / "folder of mine", version)
    assert sorted(path.name for path in models.iterdir()) == ["folder of mine", "other"]


def in_use(package: Path, work: Path) -> None:
    raise PermissionError(13, "The file is in use")


def test_a_deleted_package_does_not_come_back_as_the_one_before(
    package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
):
    install_package(package)
    with monkeypatch.context() as patch:
        patch.setattr(installation, "_discard", in_use)
        install_package(write_package(package, "2.0.0"), replace=True)
    (older,) = models.glob(".partial-*/old/tiny")
    assert_sound(older, "1.0.0")
    delete_package("tiny")
    install_package(write_package(models.parent / "other", name="other"))
    assert [path.name for path in models.glob("[!.]*")] == ["other"]


@pytest.mark.parametrize("replace", [False, True])
def test_of_two_installations_of_one_name_the_second_is_told(package: Path, models: Path, replace: bool):
    first = write_package(models.parent / "first", "2.0.0", name="tiny")

    def install_meanwhile(done: int, total: int) -> None:
        if not (models / "tiny").exists():
            install_package(first)

    with nullcontext() if replace else pytest.raises(AlreadyInstalledError, match="installed already"):
        install_package(package, replace=replace, on_progress=install_meanwhile)
    assert_sound(models / "tiny", "1.0.0" if replace else "2.0.0")
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_a_replacement_in_progress_is_not_undone(
    package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
):
    install_package(package)
    rename, waiting = os.replace, []

    def rename_slowly(source: Any, target: Any) -> None:
        rename(source, target)
        if "old" in Path(target).parts and not waiting:  # nothing is in place now
            waiting.append(
                executor.submit(install_package, write_package(models.parent / "other", name="other"))
            )
            time.sleep(0.2)

    monkeypatch.setattr(os, "replace", rename_slowly)
    with ThreadPoolExecutor(1) as executor:
        install_package(write_package(package, "2.0.0"), replace=True)
        waiting[0].result()
    assert_sound(models / "tiny", "2.0.0")
    assert sorted(path.name for path in models.iterdir()) == ["other", "tiny"]


def test_what_a_killed_deletion_leaves_does_not_come_back(
    package: Path, models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("PartialSegLib.files.output_files._STALE_SECONDS", 0.2)
    install_package(package)
    run_killed(1, "", "tiny")
    assert list(models.glob("[!.]*")) == []
    for path in (*models.glob(".*"), *models.glob(".*/**/*")):
        os.utime(path, times=(0, 0))
    install_package(write_package(models.parent / "other", name="other"))
    assert [path.name for path in models.iterdir()] == ["other"]


def run_killed(calls: int, *arguments: str) -> None:
    """Run `install`, or else `delete_package`, in a process that ends behind its so-many-th `os.replace`."""
    program = """if True:
        import os, sys
        from PartialSegLib.__main__ import main
        from PartialSegLib.packages.installation import delete_package
        rename, left = os.replace, [int(sys.argv.pop(1))]
        def counted(source, target):
            if left[0] > 0:
                rename(source, target)
            left[0] -= 1
            if left[0] <= 0:
                os._exit(9)
        os.replace = counted
        main(sys.argv[1:]) if sys.argv[1] else delete_package(sys.argv[2])
    """
    command = [sys.executable, "-c", program, str(calls), *arguments]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 9


def test_a_damaged_source_leaves_the_installed_package_alone(archive: Path, package: Path, models: Path):
    install_package(archive)
    (package / "LICENSE").write_text("Another.\n")
    with pytest.raises(InputError, match="LICENSE is not the file of its manifest"):
        install_package(package, replace=True)
    assert_sound(models / "tiny")


def test_a_bundled_name_needs_to_be_replaced_and_hides_the_bundled_package(models: Path):
    with pytest.raises(InputError, match=f"The model {BUNDLED} is installed already"):
        install_package(BUNDLED_MODELS / BUNDLED)
    assert install_package(BUNDLED_MODELS / BUNDLED, replace=True) == find_package(BUNDLED)
    assert find_package(BUNDLED) == models / BUNDLED
    assert bundled_model() == BUNDLED_MODELS / BUNDLED  # what is segmented with where no model is named
    delete_package(BUNDLED)
    assert find_package(BUNDLED) == BUNDLED_MODELS / BUNDLED


def test_something_else_of_that_name_is_never_replaced(package: Path, models: Path):
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="tiny exists and is not a model package"):
        install_package(package, replace=True)
    assert (models / "tiny" / "thesis.txt").read_text() == "ten years of work"


def test_a_full_disk_leaves_nothing(archive: Path, models: Path):
    with full_disk(100_000):
        assert_refused(archive, models, "Cannot install tiny in .*free space")


def test_a_folder_that_cannot_be_made_is_refused(package: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot install tiny in .*check its permissions"):
        install_package(package, tmp_path / "file" / "models")


def test_an_unwritable_folder_is_refused(package: Path, models: Path):
    models.mkdir()
    models.chmod(0o500)
    run = run_unprivileged(sys.executable, "-m", "PartialSegLib", "install", str(package))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert re.search("Cannot install tiny in .*Permission denied", run.stderr)
    assert not list(models.iterdir())


def test_what_is_no_package_is_refused(package: Path, models: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    assert_refused(tmp_path / "nowhere", models, "There is no model package at .*folder or a .zip of one")
    assert_refused(tmp_path / "empty", models, "is not a model package: it has no model.json")
    assert_refused(text, models, "is not a zip archive")
    assert_refused(package / "model.json", models, "is not a zip archive")


def test_a_link_out_of_the_folder_is_refused(package: Path, models: Path, tmp_path: Path):
    (package / "LICENSE").rename(tmp_path / "LICENSE")
    (package / "LICENSE").symlink_to(tmp_path / "LICENSE")
    assert_refused(package, models, "is a link that leads outside the package")


@pytest.mark.parametrize("name", ["weights.safetensors", "LICENSE"])
def test_missing_and_changed_files_are_refused(package: Path, models: Path, tmp_path: Path, name: str):
    contents = (package / name).read_bytes()
    for changed in (contents[:-1], contents + b"!", bytes([contents[0] ^ 1]) + contents[1:]):
        (package / name).write_bytes(changed)
        assert_refused(package, models, f"{name} is not the file of its manifest")
        assert_refused(zip_package(package, tmp_path / "changed.zip"), models, f"{name}")
    (package / name).unlink()
    assert_refused(package, models, f"lacks its file {name}")
    assert_refused(zip_package(package, tmp_path / "missing.zip"), models, f"lacks its file {name}")


def test_a_manifest_that_names_files_outside_is_refused(package: Path, models: Path, tmp_path: Path):
    entry = {"sha256": "0" * 64, "bytes": 0}
    write_package(package, files={"weights.safetensors": entry, "../../evil": entry})
    assert_refused(package, models, "files.../../evil: the path leads outside")
    assert_refused(zip_package(package, tmp_path / "out.zip"), models, "files.../../evil: the path leads")


def test_an_installed_package_is_deleted(package: Path, models: Path):
    install_package(package)
    delete_package("tiny")
    assert list(models.iterdir()) == []
    with pytest.raises(InputError, match="There is no model 'tiny' in"):
        delete_package("tiny")


def test_a_broken_package_is_deleted_by_the_name_of_its_folder(package: Path, models: Path):
    (install_package(package) / "model.json").write_text("{")
    delete_package("tiny")
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../source/tiny", ".", "", "*", "/"])
def test_only_names_of_packages_are_deleted(package: Path, models: Path, name: str):
    install_package(package)
    with pytest.raises(InputError, match="There is no model"):
        delete_package(name)
    assert_sound(models / "tiny")
    assert package.exists()


def test_deleting_a_link_to_a_package_leaves_the_package(package: Path, models: Path):
    models.mkdir()
    (models / "tiny").symlink_to(package, target_is_directory=True)
    delete_package("tiny")
    assert list(models.iterdir()) == []
    assert (package / "weights.safetensors").exists()


def test_bundled_packages_cannot_be_deleted_or_replaced_in_place(models: Path):
    with pytest.raises(InputError, match=f"The model {BUNDLED} is part of PartialSeg and cannot be deleted"):
        delete_package(BUNDLED)
    with pytest.raises(InputError, match="is part of PartialSeg and is not changed"):
        delete_package(BUNDLED, BUNDLED_MODELS)
    with pytest.raises(InputError, match="is part of PartialSeg and is not changed"):
        install_package(BUNDLED_MODELS / BUNDLED, BUNDLED_MODELS, replace=True)
    assert (BUNDLED_MODELS / BUNDLED / "weights.safetensors").exists()
