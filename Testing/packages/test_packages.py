"""Finding packages: by name, by path, the user's before the bundled ones, broken ones left out."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.manifest import FileEntry, manifest_to_json
from PartialSegLib.packages.installation import delete_package, install_package
from PartialSegLib.packages.installed import BUNDLED_MODELS, find_package, installed_packages, model_folders

BUNDLED = "trunk-7tasks"


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def write_package(folder: Path, name: str, **changes: Any) -> Path:
    """A folder with a manifest; finding packages never looks at their weights."""
    manifest = dataclasses.replace(
        mots_manifest({}), name=name, files={"weights.safetensors": FileEntry("0" * 64, 12)}
    )
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({**manifest_to_json(manifest), **changes}))
    return folder


def test_models_are_looked_for_in_the_users_folder_then_among_the_bundled(user_folder: Path):
    assert model_folders() == [user_folder, BUNDLED_MODELS]


def test_the_users_folder_defaults_to_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("PARTIALSEG_MODEL_DIR", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert model_folders()[0] == tmp_path / ".partialseg" / "models"


def test_without_a_home_folder_there_are_the_bundled_models(
    monkeypatch: pytest.MonkeyPatch, package: Path, tmp_path: Path
):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for variable in ("", "~nobody-of-this-name/models"):
        monkeypatch.setenv("PARTIALSEG_MODEL_DIR", variable)
        assert find_package(BUNDLED).parent == BUNDLED_MODELS
        with pytest.raises(InputError, match="There is no home folder in which models could be kept; choose"):
            install_package(package)
    assert install_package(package, tmp_path / "models") == tmp_path / "models" / "tiny"


def test_a_model_folder_that_cannot_be_reached_hides_no_bundled_model(
    monkeypatch: pytest.MonkeyPatch, package: Path, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("PARTIALSEG_MODEL_DIR", "/" + 300 * "a")  # refused as a drive is that does not answer
    assert [manifest.name for _, manifest in installed_packages()] == [BUNDLED]
    assert caplog.text.count("the folder cannot be read (File name too long); check its permissions") == 1
    assert find_package(BUNDLED) == BUNDLED_MODELS / BUNDLED
    with pytest.raises(InputError, match="Unknown model 'tiny'"):
        find_package("tiny")
    with pytest.raises(InputError, match="There is no model package at"):
        find_package(Path("/" + 300 * "b"))
    for change, sentence in (
        (lambda: install_package(package), "install"),
        (lambda: delete_package("x"), "delete"),
    ):
        with pytest.raises(InputError, match=f"Cannot {sentence} .*: File name too long; check"):
            change()


def test_a_package_that_cannot_be_reached_hides_no_other(user_folder: Path):
    write_package(user_folder / "b", "model-b")
    (user_folder / "a").symlink_to("/" + 300 * "a")
    assert find_package("model-b") == user_folder / "b"
    assert [manifest.name for _, manifest in installed_packages()] == ["model-b", BUNDLED]


def test_a_package_is_found_by_its_name_its_folder_or_its_path(user_folder: Path):
    package = write_package(user_folder / "folder", "dodnet-test")

    assert find_package("dodnet-test") == package
    assert find_package("folder") == package
    assert find_package(package) == package
    assert find_package("models/folder") == Path("models/folder")


def test_an_installed_name_wins_over_a_folder_in_the_working_directory(user_folder: Path, tmp_path: Path):
    package = write_package(user_folder / "dodnet-test", "dodnet-test")
    (tmp_path / "dodnet-test").mkdir()
    assert find_package("dodnet-test") == package


def test_an_unknown_model_is_answered_with_the_closest_one(user_folder: Path):
    write_package(user_folder / "dodnet-test", "dodnet-test")
    with pytest.raises(InputError, match="Unknown model 'dodnet-tset': perhaps you meant dodnet-test"):
        find_package("dodnet-tset")


def test_a_path_without_a_package_is_refused(user_folder: Path):
    with pytest.raises(InputError, match="There is no model package at"):
        find_package("some/where")
    with pytest.raises(InputError, match="There is no model package at"):
        find_package(Path("somewhere"))


def test_broken_packages_are_left_out_with_a_warning(user_folder: Path, caplog: pytest.LogCaptureFixture):
    write_package(user_folder / "good", "good-model")
    write_package(user_folder / "newer", "newer-model", format_version=9)

    with caplog.at_level(logging.WARNING):
        names = [manifest.name for _, manifest in installed_packages()]

    assert "good-model" in names
    assert "newer-model" not in names
    assert "made by a newer PartialSeg" in caplog.text


def test_what_a_killed_import_left_is_no_package(user_folder: Path):
    write_package(user_folder / ".4711-ab12cd34.partial-same", "same", version="0.0.1")
    good = write_package(user_folder / "same", "same")
    assert find_package("same") == good
    assert [folder for folder, manifest in installed_packages() if manifest.name == "same"] == [good]


def test_of_two_packages_with_one_name_the_users_first_is_listed(user_folder: Path):
    write_package(user_folder / "a", "same")
    write_package(user_folder / "b", "same")
    assert [folder for folder, manifest in installed_packages() if manifest.name == "same"] == [
        user_folder / "a"
    ]
